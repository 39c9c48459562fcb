"""The Python client's player: reads commands on standard input and prints events on standard output. See PLAYER.md.

It adds no behaviour to the client: no retries, no ordering, no waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import re
import sys
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import parley
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from parley.v1 import chat_pb2, resources_pb2

LINE_BYTES = 64 * 1024 * 1024
KINDS = {
    parley.Accepted: "accepted",
    parley.Text: "text",
    parley.Reasoning: "reasoning",
    parley.ToolCall: "tool_call",
    parley.UsageUpdate: "usage",
    parley.Snapshot: "snapshot",
    parley.Reconnecting: "reconnecting",
    parley.Finished: "finished",
}


class UnknownCommand(Exception):
    """The player has no such command, or no such way of leaving a stream."""


def plain(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def error_fields(error: Exception) -> dict[str, Any]:
    """The fields of an error in an event."""
    if not isinstance(error, parley.ParleyError):
        return {"kind": "Usage", "message": str(error)}
    fields: dict[str, Any] = {
        "kind": type(error).__name__,
        "reason": error.reason,
        "code": error.code.name,
        "message": error.message,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after_s,
        "metadata": error.metadata,
    }
    if isinstance(error, parley.ReplyFailed):
        usage = error.usage if error.usage is not None else resources_pb2.Usage()
        fields |= {"text": error.text, "reply_id": error.reply_id, "message_id": error.message_id}
        fields |= {"usage": plain(usage), "model": error.model, "provider": error.provider}
    if isinstance(error, parley.ConnectionLost):
        fields |= {"reply_id": error.reply_id, "sequence": error.sequence, "text": error.text}
    return fields


def event_fields(event: parley.Event) -> dict[str, Any]:
    """The kind and the fields of a stream's event, without its sequence."""
    fields: dict[str, Any]
    match event:
        case parley.Text(text) | parley.Reasoning(text):
            fields = {"text": text}
        case parley.ToolCall():
            fields = {"index": event.index, "call_id": event.id, "name": event.name, "arguments": event.arguments}
        case parley.UsageUpdate(usage):
            fields = {"usage": plain(usage)}
        case parley.Snapshot(text, reply):
            fields = {"text": text, "reply": plain(reply)}
        case parley.Reconnecting():
            fields = {"attempt": event.attempt, "delay_s": event.delay_s, "error": error_fields(event.error)}
        case parley.Finished():
            fields = {name: getattr(event, name) for name in ("reason", "text", "model", "provider", "cancel_reason")}
            fields["usage"] = plain(event.usage)
        case parley.Accepted():
            names = ("reply_id", "conversation_id", "message_id", "model", "replayed")
            fields = {name: getattr(event, name) for name in names}
            fields["input_message_ids"] = list(event.input_message_ids)
            fields["ignored_settings"] = list(event.ignored_settings)
            fields["quota"] = plain(event.quota) if event.quota is not None else None
    return {"event": KINDS[type(event)], **fields}


class Playing:
    """An application that reads one stream: as fast as it can, or with `pull` only the events that `take` permits."""

    def __init__(self, player: Player, name: str, stream: parley.ReplyStream, *, pull: bool) -> None:
        self._player = player
        self._name = name
        self._pull = pull
        self._permits = asyncio.Semaphore(0)
        self._taken = asyncio.Event()
        self._left = 0
        self._leaving = False
        self.over = False
        self.stream: parley.ReplyStream | None = stream
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self._read())
        self.task.add_done_callback(lambda _: self._end())

    async def take(self, count: int) -> int:
        """Let the application read up to `count` events; returns how many it has read."""
        self._left = count
        self._taken.clear()
        if not self.over:
            self._permits.release()
            await self._taken.wait()
        return count - self._left

    def leave(self) -> None:
        """Leave by `break` after the next event, or at once if the application waits for a permit."""
        self._leaving = True
        self._permits.release()

    def read_once_more(self) -> None:
        """Let the application read once more, so that it finds the stream closed."""
        self._left += 1
        self._permits.release()

    async def _read(self) -> None:
        assert self.stream is not None
        events = aiter(self.stream)
        try:
            await self._read_events(events)
        except (parley.ParleyError, ValueError, TypeError) as error:
            self._emit("error", **error_fields(error), stream=self.stream_fields())
        else:
            self._emit("end", **self.stream_fields())

    async def _read_events(self, events: AsyncIterator[parley.Event]) -> None:
        """Read with `async for`, as applications do; with `pull`, wait for a permit before each event."""
        while True:
            if self._pull and not self._left:
                self._taken.set()
                await self._permits.acquire()
            if self._leaving:
                break
            try:
                event = await anext(events)
            except StopAsyncIteration:
                break
            self._left -= 1
            assert self.stream is not None
            self._emit(**event_fields(event), sequence=self.stream.sequence)
            if self._leaving:
                break

    def stream_fields(self) -> dict[str, Any]:
        stream = self.stream
        assert stream is not None
        names = ("request_id", "reply_id", "conversation_id", "message_id", "sequence", "text")
        calls = [
            {"index": call.index, "call_id": call.id, "name": call.name, "arguments": call.arguments}
            for call in stream.tool_calls
        ]
        return {**{name: getattr(stream, name) for name in names}, "tool_calls": calls}

    def _end(self) -> None:
        self.over = True
        self._taken.set()
        self.stream = None

    def _emit(self, event: str, **fields: Any) -> None:
        self._player.emit({"id": self._name, "event": event, **fields})


class Player:
    """Runs commands concurrently."""

    ways: tuple[str, ...] = ("break", "aclose", "cancel")

    def __init__(self) -> None:
        self._clients: dict[str, parley.Client] = {}
        self._streams: dict[str, Playing] = {}
        self._commands: set[asyncio.Task[None]] = set()
        self._idle: Counter[str] = Counter()

    def emit(self, event: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    async def run(self) -> int:
        """Run until `exit` or the end of the input; returns the exit status."""
        reader = await standard_input()
        self._idle = open_resources()
        status = 0
        while line := await reader.readline():
            if not line.strip():
                continue
            try:
                if not self._begin(json.loads(line)):
                    break
            except (UnknownCommand, ValueError, KeyError) as error:
                print(f"cannot read this command: {error!r}: {line[:500]!r}", file=sys.stderr)
                status = 2
                break
        await self._close()
        return status

    def _begin(self, command: dict[str, Any]) -> bool:
        name, op = command.pop("id"), command.pop("op")
        if op == "exit":
            return False
        method = getattr(self, f"do_{op.replace('.', '_')}", None)
        if method is None:
            raise UnknownCommand(op)
        task = asyncio.create_task(self._run_command(name, method, command))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        return True

    async def _run_command(
        self, name: str, method: Callable[..., Awaitable[dict[str, Any] | None]], command: dict[str, Any]
    ) -> None:
        try:
            answer = await method(name, **command)
        except (parley.ParleyError, ValueError) as error:
            answer = {"event": "error", **error_fields(error)}
        except TypeError as error:
            print(f"cannot carry out {method.__name__} {command}: {error}", file=sys.stderr)
            answer = {"event": "error", "kind": "Usage", "message": str(error)}
        if answer is not None:
            self.emit({"id": name, **answer})

    async def _close(self) -> None:
        for playing in self._streams.values():
            if playing.task is not None:
                playing.task.cancel()
        for task in list(self._commands):
            task.cancel()
        await asyncio.gather(*self._commands, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    # --- clients

    async def do_client(
        self, _: str, name: str, of: str = "", backoff: dict[str, float] | None = None, **fields: Any
    ) -> dict[str, Any]:
        if of:
            self._clients[name] = self._clients[of].acting_for(**fields)
            return {"event": "ready"}
        if backoff is not None:
            fields["backoff"] = parley.Backoff(**backoff)
        if isinstance(api_key := fields.get("api_key"), list):
            fields["api_key"] = credential_function(api_key)
        self._clients[name] = self._new_client(**fields)
        return {"event": "ready"}

    def _new_client(self, **fields: Any) -> parley.Client:
        return parley.Client(**fields)

    async def do_close_client(self, _: str, name: str) -> dict[str, Any]:
        await self._clients.pop(name).close()
        return {"event": "closed"}

    # --- streams

    async def do_stream(self, name: str, client: str, request: dict[str, Any], *, pull: bool = False) -> None:
        self._play(name, self._clients[client].stream_reply(reply_request(request)), pull=pull)

    async def do_resume(self, name: str, client: str, reply_id: str, *, pull: bool = False, **fields: Any) -> None:
        self._play(name, self._clients[client].resume(reply_id, **fields), pull=pull)

    def _play(self, name: str, stream: parley.ReplyStream, *, pull: bool) -> None:
        self._streams[name] = playing = Playing(self, name, stream, pull=pull)
        playing.start()

    async def do_next(self, _: str, stream: str, count: int) -> dict[str, Any]:
        return {"event": "taken", "count": await self._streams[stream].take(count)}

    async def do_abandon(self, _: str, stream: str, how: str) -> dict[str, Any]:
        playing = self._streams[stream]
        task, source = playing.task, playing.stream
        if task is None or source is None:
            return {"event": "abandoned"}
        if how == "break":
            playing.leave()
        elif how == "aclose":
            await source.aclose()
            playing.read_once_more()
        elif how == "cancel":
            stream_fields = playing.stream_fields()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if task.cancelled():
                self.emit({"id": stream, "event": "end", **stream_fields})
        else:
            raise UnknownCommand(how)
        del source
        await asyncio.wait({task})
        return {"event": "abandoned"}

    async def do_stop(self, _: str, stream: str, reason: str = "") -> dict[str, Any]:
        source = self._streams[stream].stream
        if source is None:
            raise ValueError("the stream is over")
        reply = await source.cancel(reason)
        return {"event": "result", "value": plain(reply) if reply is not None else None}

    async def do_ways(self, _: str) -> dict[str, Any]:
        return {"event": "result", "value": list(self.ways)}

    # --- calls

    async def do_create(
        self, _: str, client: str, request: dict[str, Any], wait_s: float | None = None
    ) -> dict[str, Any]:
        return result(await self._clients[client].create_reply(reply_request(request), wait_s=wait_s))

    async def do_poll(self, _: str, client: str, reply_id: str, **fields: Any) -> dict[str, Any]:
        return result(await self._clients[client].poll(reply_id, **fields))

    async def do_polls(self, name: str, client: str, reply_id: str, **fields: Any) -> dict[str, Any]:
        return await self._items(name, self._clients[client].polls(reply_id, **fields))

    async def do_get_reply(self, _: str, client: str, reply_id: str) -> dict[str, Any]:
        return result(await self._clients[client].get_reply(reply_id))

    async def do_cancel(self, _: str, client: str, **target: str) -> dict[str, Any]:
        return result(await self._clients[client].cancel(**target))

    async def do_models(self, _: str, client: str) -> dict[str, Any]:
        return {"event": "result", "value": [plain(model) for model in await self._clients[client].models()]}

    async def do_quotas(self, _: str, client: str) -> dict[str, Any]:
        return {"event": "result", "value": [plain(quota) for quota in await self._clients[client].quotas()]}

    async def do_admin_set_provider_key(
        self, _: str, client: str, provider: str, api_key: str, **fields: Any
    ) -> dict[str, Any]:
        return result(await self._clients[client].admin.set_provider_key(provider, api_key, **fields))

    async def do_admin_provider_keys(self, name: str, client: str) -> dict[str, Any]:
        return await self._items(name, self._clients[client].admin.provider_keys())

    async def do_admin_delete_provider_key(
        self, _: str, client: str, provider: str, tenant: str = ""
    ) -> dict[str, Any]:
        await self._clients[client].admin.delete_provider_key(provider, tenant=tenant)
        return {"event": "result", "value": None}

    async def do_admin_usage(self, name: str, client: str, **fields: Any) -> dict[str, Any]:
        return await self._items(name, self._clients[client].admin.usage(**fields))

    async def do_admin_status(self, _: str, client: str) -> dict[str, Any]:
        return result(await self._clients[client].admin.status())

    async def do_conversations_create(
        self,
        _: str,
        client: str,
        conversation: dict[str, Any] | None = None,
        messages: tuple[dict[str, Any], ...] = (),
        request_id: str | None = None,
    ) -> dict[str, Any]:
        made = await self._clients[client].conversations.create(
            ParseDict(conversation or {}, resources_pb2.Conversation()),
            messages=[ParseDict(message, resources_pb2.Message()) for message in messages],
            request_id=request_id,
        )
        return result(made)

    async def do_conversations_get(self, _: str, client: str, conversation_id: str) -> dict[str, Any]:
        return result(await self._clients[client].conversations.get(conversation_id))

    async def do_conversations_list(self, name: str, client: str, **fields: Any) -> dict[str, Any]:
        return await self._items(name, self._clients[client].conversations.list(**fields))

    async def do_conversations_update(
        self, _: str, client: str, conversation: dict[str, Any], fields: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        changed = ParseDict(conversation, resources_pb2.Conversation())
        return result(await self._clients[client].conversations.update(changed, fields=fields))

    async def do_conversations_delete(
        self, _: str, client: str, conversation_id: str, etag: str = ""
    ) -> dict[str, Any]:
        await self._clients[client].conversations.delete(conversation_id, etag=etag)
        return {"event": "result", "value": None}

    async def do_conversations_messages(
        self, name: str, client: str, conversation_id: str, **fields: Any
    ) -> dict[str, Any]:
        return await self._items(name, self._clients[client].conversations.messages(conversation_id, **fields))

    async def do_conversations_message_pages(
        self, name: str, client: str, conversation_id: str, **fields: Any
    ) -> dict[str, Any]:
        return await self._items(name, self._clients[client].conversations.message_pages(conversation_id, **fields))

    async def do_conversations_image(self, _: str, client: str, image_id: str) -> dict[str, Any]:
        return result(await self._clients[client].conversations.image(image_id))

    async def _items(self, name: str, items: AsyncIterator[Message]) -> dict[str, Any]:
        async for item in items:
            self.emit({"id": name, "event": "item", "value": plain(item)})
        return {"event": "end"}

    # --- many streams, and open resources

    async def do_many(self, _: str, client: str, count: int, request: dict[str, Any]) -> dict[str, Any]:
        ended = await asyncio.gather(*(self._whole(client, request) for _ in range(count)))
        texts = Counter(text for text in ended if text is not None)
        finished = texts.total()
        value = {"finished": finished, "failed": count - finished, "texts": dict(texts)}
        return {"event": "result", "value": value}

    async def _whole(self, client: str, request: dict[str, Any]) -> str | None:
        """The text of one reply; None if it failed."""
        own = reply_request(request)
        own.request_id = str(uuid.uuid4())
        stream = self._clients[client].stream_reply(own)
        try:
            async for _ in stream:
                pass
        except parley.ParleyError as error:
            print(f"one of many: {error!r}", file=sys.stderr)
            return None
        return stream.text if stream.finished is not None else None

    async def do_stats(self, _: str) -> dict[str, Any]:
        await asyncio.sleep(0)  # tasks that have just been cancelled end
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # free memory counts as resident until it is returned
        status = Path("/proc/self/status").read_text()
        sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
        now = open_resources()
        beyond = {kind: max(0, now[kind] - self._idle[kind]) for kind in now if kind != "tasks"}
        beyond["tasks"] = max(0, now["tasks"] - self._idle["tasks"] - 1)  # without that of this command
        # RssAnon is the heap of Python and of the C core; the rest of VmRSS is mapped files.
        return {
            "event": "result",
            "value": {"rss_bytes": sizes["VmRSS"], "heap_bytes": sizes["RssAnon"], "open": beyond},
        }


def credential_function(credentials: list[str | None]) -> Callable[[], Awaitable[str]]:
    """A function that returns these credentials in order, and then the last one; for None it raises LookupError."""
    left = list(credentials)

    async def next_credential() -> str:
        credential = left.pop(0) if len(left) > 1 else left[0]
        if credential is None:
            raise LookupError("no credential")
        return credential

    return next_credential


def result(message: Message) -> dict[str, Any]:
    return {"event": "result", "value": plain(message)}


def reply_request(fields: dict[str, Any]) -> chat_pb2.ReplyRequest:
    return ParseDict(fields, chat_pb2.ReplyRequest())


def open_resources() -> Counter[str]:
    """The numbers of TCP sockets, threads and tasks of this process."""
    inodes = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
    }
    sockets = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            kind, _, inode = str(entry.readlink()).partition(":")
            sockets += kind == "socket" and inode.strip("[]") in inodes
    return Counter(sockets=sockets, threads=threading.active_count(), tasks=len(asyncio.all_tasks()))


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    sys.exit(asyncio.run(Player().run()))
