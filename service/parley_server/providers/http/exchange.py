"""One request and its response on a connection: who waits for the head, who takes the body, and how it ended.

It must not know sockets or HTTP's syntax; it outlives the connection's next exchange.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

Feed = Callable[[bytes], None]
Headers = list[tuple[bytes, bytes]]

MAX_UNTAKEN_BYTES = 1024 * 1024
"""Bytes of a body that nobody has asked for yet, beyond which the socket is not read."""


class StaleConnection(httpx2.RemoteProtocolError):
    """The connection closed before the first byte of a response."""


class Head:
    """A response's status and headers; `until_close` where only the end of the connection ends the body."""

    __slots__ = ("headers", "http_version", "reason", "status", "until_close")

    def __init__(self, status: int, reason: bytes, *, headers: Headers, http_version: str, until_close: bool) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.http_version = http_version
        self.until_close = until_close


class Exchange:
    """`abort` closes the connection, `resume` lets it read on; both are called at most while the exchange is open."""

    __slots__ = ("_abort", "_end", "_feed", "_resume", "_untaken", "error", "head", "over", "untaken_bytes")

    def __init__(self, *, abort: Callable[[], None], resume: Callable[[], None]) -> None:
        self._abort = abort
        self._resume = resume
        self._feed: Feed | None = None
        self._end: asyncio.Future[None] | None = None
        self._untaken: list[bytes] = []
        self.head: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self.untaken_bytes = 0
        self.error: Exception | None = None
        self.over = False

    # --- for the caller

    async def push_to(self, feed: Feed) -> None:
        """Hand the body's bytes to `feed`, from within the read that brought them, until it ends.

        Returns at the end of the body, or after `stop`. Raises what `feed` raised, or an `httpx2.TransportError` where
        the connection broke before the end. A cancel leaves the connection to `close`.
        """
        self._end = asyncio.get_running_loop().create_future()
        self._feed = feed
        if self._untaken:
            held, self._untaken, self.untaken_bytes = b"".join(self._untaken), [], 0
            self.deliver(held)
        self._wake()
        if not self.over:
            self._resume()
        await self._end

    def stop(self) -> None:
        """Let `push_to` return now; what follows of the body is dropped."""
        self._feed = drop
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    def close(self, linger_s: float = 0.0) -> None:
        """Nothing more is wanted: give the body `linger_s` to end by itself, so that its connection can be kept."""
        self._feed = drop
        if self.over:
            return
        if linger_s <= 0:
            self._abort()
            return
        self._resume()
        asyncio.get_running_loop().call_later(linger_s, self.close)

    # --- for the connection

    def deliver(self, body: bytes) -> None:
        """A piece of the body has come."""
        feed = self._feed
        if feed is None:
            self._untaken.append(body)
            self.untaken_bytes += len(body)
            return
        try:
            feed(body)
        except Exception as error:  # noqa: BLE001 - raised again in push_to, which the reply's task awaits
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """The feed takes no more of the body. Its error counts also where the body has ended by now: the end may have
        come in the same read."""
        self._feed = drop
        if self._end is not None and not self._end.done():
            self._end.set_exception(error)
        if not self.over:
            self.over = True
            self._abort()

    def fail(self, error: Exception) -> None:
        """It ends here, with an error; the first one counts."""
        if self.over:
            return
        self.over = True
        self.error = error
        self._feed = drop
        if not self.head.done():
            self.head.set_exception(error)
        self._wake()

    def complete(self) -> None:
        """The body is whole."""
        if not self.over:
            self.over = True
            self._wake()

    def _wake(self) -> None:
        if self._end is None or self._end.done() or not self.over:
            return
        if self.error is not None:
            self._end.set_exception(self.error)
        else:
            self._end.set_result(None)


def drop(_: bytes) -> None:
    """Where bytes go that nobody wants."""
