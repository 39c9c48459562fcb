"""An HTTP server for OpenAI's chat completions. Its scripts control every byte, its timing and connection faults.

It runs in the event loop of the test, and records every request and every client that disconnects early.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

TURNS_BETWEEN_PIECES = 4
"""Loop iterations between two writes, so that a reader in the same loop gets them in two reads."""


# --- scripts


@dataclass(frozen=True)
class Wait:
    """Wait for the event."""

    event: asyncio.Event


@dataclass(frozen=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Raw:
    """Bytes without the framing of the script."""

    data: bytes


@dataclass(frozen=True)
class Reset:
    """Break the connection with a RST."""


@dataclass(frozen=True)
class Close:
    """End the connection with a FIN, even if the body is incomplete."""


@dataclass(frozen=True)
class Hang:
    """Wait forever."""


Step = bytes | Wait | Pause | Raw | Reset | Close | Hang


@dataclass(frozen=True)
class Script:
    """One response. Each bytes object is one write, and with "chunked" framing one chunk; the end of the body follows
    the last one at once.

    framing: "chunked", "length" (Content-Length), "close" (HTTP/1.0, ended by closing), or "raw" (the script has its
    own headers and framing). before_head: steps before the status line. keep_alive: False sends `Connection: close` and
    closes after the response. at_once: head, body and end are one write.
    """

    steps: Sequence[Step] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    framing: str = "chunked"
    before_head: Sequence[Step] = ()
    keep_alive: bool = True
    at_once: bool = False


@dataclass(frozen=True)
class Request:
    """A request as received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    received_at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Abort:
    """A client that disconnected before the end of its answer; `request` is None if it had not sent a whole request."""

    request: Request | None
    at: float


# --- chunks of chat completions


def event(value: Any) -> bytes:
    """One server-sent event of JSON."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta: dict[str, Any] | None = None, finish_reason: str | None = None, **fields: Any) -> bytes:
    """A chunk with one choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return event(_frame([choice]) | fields)


def role() -> bytes:
    """The first chunk of most providers: a role without text."""
    return chunk({"role": "assistant", "content": ""})


def text(content: str) -> bytes:
    """A piece of the answer."""
    return chunk({"content": content})


def reasoning(content: str) -> bytes:
    """A piece of the reasoning."""
    return chunk({"reasoning_content": content})


def tool_call(index: int, arguments: str = "", *, call_id: str = "", name: str = "") -> bytes:
    """A piece of a tool call."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    call: dict[str, Any] = {"index": index, "function": function}
    if call_id:
        call |= {"id": call_id, "type": "function"}
    return chunk({"tool_calls": [call]})


def finish(reason: str = "stop") -> bytes:
    """The chunk with the finish reason."""
    return chunk({}, reason)


def usage(prompt: int = 5, completion: int = 7, *, cached: int = 0, reasoning_tokens: int = 0) -> bytes:
    """The last chunk, without choices."""
    count = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }
    return event(_frame([]) | {"usage": count})


def done() -> bytes:
    """The end of the stream."""
    return b"data: [DONE]\n\n"


def comment(words: str = "ping") -> bytes:
    """A comment of server-sent events."""
    return b": " + words.encode() + b"\n\n"


def error_event(message: str = "it broke", *, kind: str = "server_error", code: Any = None) -> bytes:
    """An error within the stream."""
    return event({"error": {"message": message, "type": kind, "code": code}})


def answer(*texts: str, reason: str = "stop", tokens: tuple[int, int] | None = (5, 7)) -> Script:
    """A complete answer; `tokens` are the counts of the prompt and of the completion."""
    count = [usage(*tokens)] if tokens else []
    return Script([role(), *[text(piece) for piece in texts], finish(reason), *count, done()])


def refusal(status: int, body: Any = None, **headers: str) -> Script:
    """An HTTP error with a JSON body; underscores in header names become hyphens."""
    content = json.dumps({"error": {"message": "refused", "type": "x", "code": None}} if body is None else body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Script(
        [content.encode()], status=status, headers={"Content-Type": "application/json"} | named, framing="length"
    )


def _frame(choices: list[dict[str, Any]]) -> dict[str, Any]:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "test"}
    return frame | {"choices": choices, "usage": None}


# --- the server

Choose = Callable[[Request], Script]


class Upstream:
    """`async with Upstream() as upstream`; `upstream.url` is the base URL. Without a script it answers a short text.

    `reply_with` sets the answer of all later requests, `reply_next` the answers of the next ones. `port`: 0 lets the
    system choose.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._wanted_port = port
        self.requests: list[Request] = []
        self.aborts: list[Abort] = []
        self.aborted = asyncio.Event()
        self.requested = asyncio.Event()
        self.open_connections = 0
        self.connections = 0
        self._choose: Choose = lambda _: answer("Hello", ", ", "world")
        self._next: list[Script] = []
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._wanted_port, ssl=self._ssl_context, backlog=1024, limit=64 * 1024 * 1024
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The listening port."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self.port}/v1"

    def reply_with(self, script: Script | Choose) -> None:
        """Answer all later requests with this script, or with the script that this function returns for the request."""
        if isinstance(script, Script):
            self._choose = lambda _: script
        else:
            self._choose = script

    def reply_next(self, *scripts: Script) -> None:
        """Answer the next requests with these, in order."""
        self._next.extend(scripts)

    async def no_connections(self) -> None:
        """Wait until every client has closed its connections."""
        await self._idle.wait()

    # --- connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        self._idle.clear()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            pass  # the upstream is closing: asyncio's stream server would report a cancelled handler as an error
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            self.open_connections -= 1
            if not self.open_connections:
                self._idle.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (request := await self._read_request(reader, connection)) is not None:
            self.requests.append(request)
            self.requested.set()
            script = self._next.pop(0) if self._next else self._choose(request)
            if not await self._respond(script, request, reader=reader, writer=writer):
                return

    async def _read_request(self, reader: asyncio.StreamReader, connection: int) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            method, path, _ = lines[0].split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if not isinstance(error, asyncio.IncompleteReadError) or error.partial:
                self._note_abort(None)
            return None
        return Request(method, path, headers, body, connection=connection, received_at=time.monotonic())

    async def _respond(
        self, script: Script, request: Request, *, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection can take another request."""
        sending = asyncio.ensure_future(self._send(script, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done() or isinstance(sending.exception(), ConnectionError):
                self._note_abort(request)
                return False
            return sending.result()
        finally:
            await _cancelled(sending, leaving)

    async def _send(self, script: Script, writer: asyncio.StreamWriter) -> bool:
        if script.at_once:
            writer.write(_whole(script))
            return await _ended(script, writer)
        for step in (*script.before_head, Raw(_head(script))):
            if not await _play(step, writer, chunked=False):
                return False
            await _let_it_be_read()
        for number, step in enumerate(script.steps):
            if number:
                await _let_it_be_read()
            if not await _play(step, writer, chunked=script.framing == "chunked"):
                return False
        if script.framing == "chunked":
            writer.write(b"0\r\n\r\n")
        return await _ended(script, writer)

    def _note_abort(self, request: Request | None) -> None:
        self.aborts.append(Abort(request, time.monotonic()))
        self.aborted.set()


async def _ended(script: Script, writer: asyncio.StreamWriter) -> bool:
    """Whether the connection can take another request."""
    await writer.drain()
    if script.framing == "close" or not script.keep_alive:
        writer.close()
        return False
    return True


async def _play(step: Step, writer: asyncio.StreamWriter, *, chunked: bool) -> bool:
    """Whether the connection is still there."""
    match step:
        case Wait(event=waited):
            await waited.wait()
        case Pause(seconds=seconds):
            await asyncio.sleep(seconds)
        case Hang():
            await asyncio.Event().wait()
        case Reset():
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        case Close():
            await writer.drain()
            writer.close()
            return False
        case Raw(data=data) | (bytes() as data):
            writer.write(_framed(step, data, chunked=chunked))
            await writer.drain()
    return True


async def _let_it_be_read() -> None:
    for _ in range(TURNS_BETWEEN_PIECES):
        await asyncio.sleep(0)


def _head(script: Script) -> bytes:
    version = "1.0" if script.framing == "close" else "1.1"
    lines = [f"HTTP/{version} {script.status} Scripted"]
    lines += [f"{name}: {value}" for name, value in script.headers.items()]
    if script.framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    if script.framing == "length":
        lines.append(f"Content-Length: {sum(len(data) for data in _pieces(script.steps))}")
    if not script.keep_alive:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _framed(step: Step, data: bytes, *, chunked: bool) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if chunked and not isinstance(step, Raw) else data


def _whole(script: Script) -> bytes:
    chunked = script.framing == "chunked"
    pieces = [
        _framed(step, step.data if isinstance(step, Raw) else step, chunked=chunked)
        for step in script.steps
        if isinstance(step, bytes | Raw)
    ]
    return b"".join([_head(script), *pieces, b"0\r\n\r\n" if chunked else b""])


def _pieces(steps: Iterable[Step]) -> list[bytes]:
    return [step.data if isinstance(step, Raw) else step for step in steps if isinstance(step, bytes | Raw)]


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
