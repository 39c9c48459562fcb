"""One HTTP/1.1 connection to a provider: sends a request and passes on the body's bytes from within `data_received`.

Between the socket and the consumer of the body nothing is awaited, queued or copied, to keep the CPU per token low.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools
import httpx2

from parley_server.providers.http.exchange import MAX_UNTAKEN_BYTES, Exchange, Head, Headers, StaleConnection

MAX_OVERHEAD_BYTES = 64 * 1024
"""Limit of bytes of headers, chunk extensions or trailers received without any byte of the body."""


class HttpConnection(asyncio.Protocol):
    """Carries one exchange at a time. Calls `released` when it is ready for the next one, and `lost` when it has
    closed.

    Any error of an exchange closes the connection, and is raised to the code that awaits the exchange.
    """

    def __init__(self, *, released: Callable[[HttpConnection], None], lost: Callable[[HttpConnection], None]) -> None:
        self._released = released
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # the parser calls it for each piece: the cheapest callback
        self._parser = httptools.HttpResponseParser(self)
        # RFC 9112 6.3: Transfer-Encoding overrides Content-Length. Such a connection is not reused.
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True)
        self._headers: Headers = []
        self._reason = b""
        self._head: Head | None = None
        self._overhead_bytes = 0
        self._complete = False
        self._body_pieces = 0
        self._reusable = False
        self._framed_twice = False
        self._paused = False
        self.closed = False
        self.used = False
        self.idle_since_s = 0.0

    async def send(self, head: bytes, body: bytes) -> tuple[Head, Exchange]:
        """Send a request and wait for the head of its response. A cancel closes the connection.

        Raises `StaleConnection` if the connection closed before the first byte of a response, and another
        `httpx2.TransportError` for other failures.
        """
        if self.closed or self._transport is None:
            raise StaleConnection("the connection is closed")
        exchange = self._begin()
        self._transport.write(head + body)
        try:
            return await exchange.head, exchange
        except asyncio.CancelledError:
            self.abort()
            raise

    def _begin(self) -> Exchange:
        self._headers, self._reason, self._head = [], b"", None
        self._overhead_bytes = 0
        self._complete = self._reusable = self._framed_twice = False
        self._exchange = Exchange(abort=self.abort, resume=self._resume)
        return self._exchange

    def abort(self) -> None:
        """Close at once and discard unsent bytes."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open, TLS included."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse one read and pass on its part of the body as one piece."""
        exchange = self._exchange
        if exchange is None:
            self.abort()  # bytes without a request would be taken for the next response
            return
        broken = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            broken = True
        self._deliver(exchange, len(data))
        if self._complete:
            self._end(exchange, broken=broken)
        elif broken:
            self._fail(httpx2.RemoteProtocolError("the answer is not HTTP/1.1"))

    def _deliver(self, exchange: Exchange, read_bytes: int) -> None:
        """Pass on the body's bytes of one read, even if the rest of the read is not HTTP, so that the result does not
        depend on how the bytes were split."""
        pieces = self._pieces
        if self._complete:
            del pieces[self._body_pieces :]  # of a second, unsolicited response
        if pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._overhead_bytes = 0
            exchange.deliver(body)
            if exchange.untaken_bytes > MAX_UNTAKEN_BYTES:
                self._pause()
        else:
            self._overhead_bytes += read_bytes
            if self._overhead_bytes > MAX_OVERHEAD_BYTES:
                self._fail(httpx2.RemoteProtocolError("the answer's headers are too large"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has closed. That ends a body without a length, and fails any other."""
        self.closed = True
        self._transport = None
        if self._exchange is not None:
            self._cut(self._exchange, exc)
        self._lost(self)

    def _cut(self, exchange: Exchange, exc: Exception | None) -> None:
        if self._head is None and not self._overhead_bytes:
            exchange.fail(StaleConnection("the server closed the connection without an answer"))
        elif self._head is None:
            exchange.fail(httpx2.RemoteProtocolError("the server closed the connection within its headers"))
        elif exc is not None:
            exchange.fail(httpx2.ReadError("the connection broke"))
        elif self._head.until_close:
            exchange.complete()
        else:
            exchange.fail(httpx2.RemoteProtocolError("the body is incomplete"))

    # --- httptools

    def on_message_begin(self) -> None:
        """A response starts. A second one in the same exchange makes the connection unusable."""
        if self._complete:
            self._reusable = False

    def on_status(self, reason: bytes) -> None:
        """The reason phrase, whole or in pieces."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or after the body a trailer, which is ignored."""
        if self._head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete, unless it is an interim one (1xx)."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # 101 makes the parser raise
            self._headers, self._reason = [], b""
            return
        names = {name.lower(): value.lower() for name, value in self._headers}
        chunked = b"chunked" in names.get(b"transfer-encoding", b"")
        has_length = chunked or b"content-length" in names
        self._framed_twice = chunked and b"content-length" in names
        self._head = Head(
            status,
            self._reason,
            headers=self._headers,
            http_version="HTTP/" + self._parser.get_http_version(),
            until_close=not has_length,
        )
        if self._exchange is not None and not self._exchange.head.done():
            self._exchange.head.set_result(self._head)

    def on_message_complete(self) -> None:
        """The body is complete."""
        if self._head is not None and not self._complete:
            self._complete = True
            self._body_pieces = len(self._pieces)
            self._reusable = self._parser.should_keep_alive() and not self._framed_twice

    # --- inside

    def _fail(self, error: Exception) -> None:
        if self._exchange is not None:
            self._exchange.fail(error)
        self.abort()

    def _end(self, exchange: Exchange, *, broken: bool) -> None:
        exchange.complete()
        self._exchange = None
        # A response that is complete before the request was sent leaves the rest of the request in the buffer.
        unsent = self._transport is None or self._transport.get_write_buffer_size() > 0
        if broken or not self._reusable or unsent or self.closed:
            self.abort()
            return
        self._resume()
        self.used = True
        self._released(self)

    def _pause(self) -> None:
        if self._transport is not None and not self._paused and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._paused and not self.closed:
            self._paused = False
            self._transport.resume_reading()
