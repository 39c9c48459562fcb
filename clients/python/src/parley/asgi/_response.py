"""A Starlette response that sends the events of one reply as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from parley._stream import ReplyStream
from parley.asgi._refusal import presentable
from parley.errors import ParleyError, RateLimited
from parley.events import Accepted, Event, Finished, Reconnecting, Snapshot, Text

_log = logging.getLogger("parley.asgi")

KEEP_ALIVE_S: Final = 10.0
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
Events = Callable[[Event | ParleyError], Mapping[str, Any] | None]

_open: set[ReplyResponse] = set()


class TextReplaced(ParleyError):
    """The server replaced text that was already sent, and the product's events cannot express that."""

    def __init__(self) -> None:
        super().__init__(
            "Part of this answer was replaced on the server. Reload the conversation to read it.",
            reason="TEXT_REPLACED",
        )


class ReplyResponse(Response):
    """Sends a reply as server-sent events, one JSON object each.

    `events` returns the JSON for an event of the stream or for the error that ended it, or None to send nothing. The
    status is sent after `Accepted`: before it, an error is raised, which `exception_handlers` answers with its own
    status. A rate limit is such an error at once, although the client would wait for it.

    If `events` returns None for `Snapshot`, and the snapshot begins with the text that was sent, the rest is sent as
    `Text`. Otherwise no more text is sent, and the response ends with `events(TextReplaced())`.

    A comment is sent after `keep_alive_s` of silence. When the browser leaves, the call to Parley ends, not the reply.
    A browser that reads slowly slows down the reading from Parley, so that memory stays bounded.
    """

    media_type = "text/event-stream"

    def __init__(self, stream: ReplyStream, events: Events, *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        super().__init__(headers=HEADERS)
        # The length of an empty body, which the base class has set.
        del self.headers["content-length"]
        self._stream = stream
        self._events = events
        self._keep_alive_s = keep_alive_s
        self._shutting_down = False
        self._sent: list[str] = []
        self._replaced = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the protocol's
        """Sends the response."""
        leaving = asyncio.create_task(self._leave_with(receive))
        _open.add(self)
        try:
            accepted = await self._accepted()
            if accepted is not None:
                await self._send(accepted, send)
            elif self._shutting_down:
                raise HTTPException(503, "The server is restarting. Try again.", {"Retry-After": "1"})
        finally:
            _open.discard(self)
            leaving.cancel()
            await self._stream.aclose()

    async def end(self) -> None:
        """Ends the response without a last event, so that the browser attaches again to another process."""
        self._shutting_down = True
        await self._stream.aclose()

    async def _leave_with(self, receive: Receive) -> None:
        # LimitBody refuses to read the rest of a body that nothing has read.
        with contextlib.suppress(HTTPException):
            while (await receive())["type"] != "http.disconnect":
                pass
        await self._stream.aclose()

    async def _accepted(self) -> Accepted | None:
        """Returns the first event, or None if the response was ended before. Raises a ParleyError."""
        async for event in self._stream:
            if isinstance(event, Accepted):
                return event
            _refuse_limit(event)
        return None

    async def _send(self, accepted: Accepted, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = _Body(send, self._keep_alive_s)
        async with body.kept_alive():
            await self._offer(accepted, body)
            try:
                async for event in self._stream:
                    await self._offer(event, body)
            except ParleyError as error:
                _log.info("a reply's stream failed: %s", error)
                await self._offer(presentable(error), body)
        await body.close()

    async def _offer(self, event: Event | ParleyError, body: _Body) -> None:
        is_last = isinstance(event, ParleyError | Finished)
        if self._replaced and is_last:
            event = TextReplaced()
        elif self._replaced:
            return
        shown = self._events(event)
        if isinstance(event, Text):
            self._sent.append(event.text)
        if shown is not None:
            self._sent = [event.text] if isinstance(event, Snapshot) else self._sent
            await body.write(encode(shown))
        elif isinstance(event, Snapshot):
            await self._continue_from(event.text, body)

    async def _continue_from(self, whole: str, body: _Body) -> None:
        sent = "".join(self._sent)
        self._sent = [sent]
        if not whole.startswith(sent):
            self._replaced = True
        elif len(whole) > len(sent):
            await self._offer(Text(whole[len(sent) :]), body)


class _Body:
    """Writes the body, and a comment when nothing was written for a while."""

    def __init__(self, send: Send, keep_alive_s: float) -> None:
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._written_at = self._loop.time()
        self._writing = False

    async def write(self, data: bytes, *, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": data, "more_body": more}
        self._writing = True
        try:
            await self._send(message)
        finally:
            self._writing = False
        self._written_at = self._loop.time()

    async def close(self) -> None:
        await self.write(b"", more=False)

    @contextlib.asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._keep_alive())
        try:
            yield
        finally:
            task.cancel()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._written_at + self._keep_alive_s - self._loop.time())
            # While a write waits for a slow browser, the browser has data to read.
            is_silent = self._loop.time() >= self._written_at + self._keep_alive_s
            if is_silent and not self._writing:
                await self.write(b": alive\n\n")
            elif is_silent:
                await asyncio.sleep(self._keep_alive_s)


def encode(value: Mapping[str, Any]) -> bytes:
    """Returns one server-sent event. JSON escapes line breaks, so that the event has one line."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def read_to_end(stream: ReplyStream) -> Finished:
    """Reads a reply to its end, for routes that answer it as a whole. Raises a ParleyError, a rate limit at once."""
    async for event in stream:
        _refuse_limit(event)
        if isinstance(event, Finished):
            return event
    raise HTTPException(503)


def _refuse_limit(event: Event) -> None:
    # The client would wait until the limit allows the call; the user sees how long that takes instead.
    if isinstance(event, Reconnecting) and isinstance(event.error, RateLimited):
        raise event.error


async def end_streams() -> None:
    """Ends every open `ReplyResponse` of this process, for a server that is about to stop."""
    for response in list(_open):
        await response.end()
