"""The player of the blocking Python client: each stream and each call has a thread of its own. See PLAYER.md.

Commands, events and errors are those of the asynchronous client's player.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import parley
from parley import _background

from tests.conformance.player import Player, Playing, UnknownCommand, error_fields, event_fields, plain, reply_request

LISTS = ("polls", "list", "pages", "messages", "message_pages", "provider_keys", "usage")


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a function in a new thread, which ends with it, unlike the threads of an executor."""
    loop = asyncio.get_running_loop()
    called: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not called.done():
            called.set_result(value) if error is None else called.set_exception(error)

    def call() -> None:
        value: Any = None
        error: Exception | None = None
        try:
            value = function(*args, **kwargs)
        except Exception as raised:  # noqa: BLE001 - the future raises it
            error = raised
        loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=call, daemon=True).start()
    return await called


class InThreads:
    """Wraps a client, its `conversations` or its `admin`: each blocking call runs in a thread, and is awaited."""

    def __init__(self, blocking: Any) -> None:
        self._blocking = blocking

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._blocking, name)
        if name in ("conversations", "admin"):
            return InThreads(method)
        if name in ("stream_reply", "resume"):
            return method
        if name == "acting_for":
            return lambda **fields: InThreads(method(**fields))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await in_thread(method, *args, **kwargs)

        async def items(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            iterator = await in_thread(method, *args, **kwargs)
            while (item := await in_thread(next, iterator, None)) is not None:
                yield item

        return items if name in LISTS else call


class SyncPlaying(Playing):
    """A stream and the thread that reads it with `for`."""

    def __init__(self, player: SyncPlayer, name: str, stream: parley.SyncReplyStream, *, pull: bool) -> None:
        super().__init__(player, name, stream, pull=pull)  # type: ignore[arg-type]
        self._loop = asyncio.get_running_loop()
        self._permitted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._serves = False

    def start(self) -> None:
        self.task = asyncio.create_task(in_thread(self._read_blocking))
        self.task.add_done_callback(lambda _: self._end())

    async def take(self, count: int) -> int:
        self._taken.clear()
        if self.over:
            return 0
        self._permitted.put(count)
        await self._taken.wait()
        return count - self._left

    def leave(self) -> None:
        self._leaving = True
        self._permitted.put(1)

    def read_once_more(self) -> None:
        self._permitted.put(1)

    def _read_blocking(self) -> None:
        try:
            self._read_with_for()
        except (parley.ParleyError, ValueError, TypeError) as error:
            self._emit("error", **error_fields(error), stream=self.stream_fields())
        else:
            self._emit("end", **self.stream_fields())

    def _read_with_for(self) -> None:
        self._wait_for_permit()
        if self._leaving:
            return
        for event in self.stream:
            self._left -= 1
            self._emit(**event_fields(event), sequence=self.stream.sequence)
            if not self._leaving:
                self._wait_for_permit()
            if self._leaving:
                break

    def _wait_for_permit(self) -> None:
        """With `pull`, wait until `take` permits more events."""
        if not self._pull or self._left:
            return
        if self._serves:
            self._loop.call_soon_threadsafe(self._taken.set)
        self._left = self._permitted.get()
        self._serves = True


class SyncPlayer(Player):
    """Runs commands concurrently, in threads."""

    ways = ("break", "close")

    def __init__(self) -> None:
        super().__init__()
        self._writing = threading.Lock()

    def emit(self, event: dict[str, Any]) -> None:
        with self._writing:
            super().emit(event)

    def _new_client(self, **fields: Any) -> Any:
        return InThreads(parley.SyncClient(**fields))

    def _play(self, name: str, stream: Any, *, pull: bool) -> None:
        self._streams[name] = playing = SyncPlaying(self, name, stream, pull=pull)
        playing.start()

    async def do_abandon(self, _: str, stream: str, how: str) -> dict[str, Any]:
        playing = self._streams[stream]
        task, source = playing.task, playing.stream
        if task is None or source is None:
            return {"event": "abandoned"}
        if how == "break":
            playing.leave()
        elif how == "close":
            await in_thread(source.close)
            playing.read_once_more()
        else:
            raise UnknownCommand(how)
        del source
        await asyncio.wait({task})
        return {"event": "abandoned"}

    async def do_stop(self, _: str, stream: str, reason: str = "") -> dict[str, Any]:
        source = self._streams[stream].stream
        if source is None:
            raise ValueError("the stream is over")
        reply = await in_thread(source.cancel, reason)
        return {"event": "result", "value": plain(reply) if reply is not None else None}

    async def _whole(self, client: str, request: dict[str, Any]) -> str | None:
        own = reply_request(request)
        own.request_id = str(uuid.uuid4())
        return await in_thread(self._read_whole, self._clients[client].stream_reply(own))

    @staticmethod
    def _read_whole(stream: parley.SyncReplyStream) -> str | None:
        try:
            for _ in stream:
                pass
        except parley.ParleyError as error:
            print(f"one of many: {error!r}", file=sys.stderr)
            return None
        return stream.text if stream.finished is not None else None

    async def do_stats(self, name: str) -> dict[str, Any]:
        event = await super().do_stats(name)
        background = _background._background
        if background is not None:
            event["value"]["open"]["tasks"] += len(asyncio.all_tasks(background._loop))
        return event


if __name__ == "__main__":
    sys.exit(asyncio.run(SyncPlayer().run()))
