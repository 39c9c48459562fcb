"""One request and its response on a connection: its head, the consumer of its body, and its outcome.

It is independent of sockets and of HTTP's syntax, because it may outlive the next exchange of its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

Feed = Callable[[bytes], None]
Headers = list[tuple[bytes, bytes]]

MAX_UNTAKEN_BYTES = 1024 * 1024
"""Limit of bytes of a body without a consumer; beyond it, the socket is not read."""


class StaleConnection(httpx2.RemoteProtocolError):
    """The connection closed before the first byte of a response."""


class Head:
    """Status and headers of a response. `until_close`: only the end of the connection ends the body."""

    __slots__ = ("headers", "http_version", "reason", "status", "until_close")

    def __init__(self, status: int, reason: bytes, *, headers: Headers, http_version: str, until_close: bool) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.http_version = http_version
        self.until_close = until_close


class Exchange:
    """The state of an exchange. It calls `abort` to close the connection and `resume` to let it read, only while it is
    open."""

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
        """Pass the body's bytes to `feed`, from within the read that received them.

        Returns at the end of the body or after `stop`. Raises the exception of `feed`, or an `httpx2.TransportError` if
        the connection broke before the end. After a cancel, the caller must call `close`.
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
        """Make `push_to` return now; the rest of the body is dropped."""
        self._feed = drop
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    def close(self, linger_s: float = 0.0) -> None:
        """Drop the rest of the body. If it ends within `linger_s`, its connection is kept, else closed."""
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
        """Receive a piece of the body."""
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
        """Fail with the feed's error, even if the body has ended: its end may have arrived in the same read."""
        self._feed = drop
        if self._end is not None and not self._end.done():
            self._end.set_exception(error)
        if not self.over:
            self.over = True
            self._abort()

    def fail(self, error: Exception) -> None:
        """End the exchange with an error. Only the first error counts."""
        if self.over:
            return
        self.over = True
        self.error = error
        self._feed = drop
        if not self.head.done():
            self.head.set_exception(error)
        self._wake()

    def complete(self) -> None:
        """The body is complete."""
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
    """Discard the bytes."""
