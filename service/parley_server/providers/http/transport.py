"""An httpx2 transport that pushes response bodies from the socket into a function without an await in between.

HTTP/1.1 without proxies, for requests with their body in memory. A request is never repeated if the server may have
processed it, because a second one may be billed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Protocol, cast
from urllib.request import getproxies, proxy_bypass

import httpx2

from parley_server.providers.http.connection import HttpConnection
from parley_server.providers.http.exchange import Exchange, Feed, Head, StaleConnection

IDLE_LIMIT_S = 60.0
REPEAT_WITHIN_S = 2.0
"""A dead kept connection fails within a round trip. If it closes later, the server may have processed the request."""
MAX_ITERATED_BYTES = 1024 * 1024
"""Limit of bytes that iteration yields of a body. Only errors are read by iteration."""
BODY = "parley.body"
"""Name of the response extension with the body."""

Origin = tuple[str, str, int]


class Body(Protocol):
    """The body of a response."""

    async def push_to(self, feed: Feed) -> None:
        """Call `feed` with the bytes of each read until the body ends or `stop` is called.

        Raises the exception of `feed`, or an `httpx2.TransportError` if the body broke off.
        """

    def stop(self) -> None:
        """Make `push_to` return now; the rest of the body is dropped."""


def body_of(response: httpx2.Response) -> Body:
    """The body of a response, whatever its transport."""
    pushed = response.extensions.get(BODY)
    return cast(Body, pushed) if pushed is not None else IteratedBody(response)


def proxied(url: httpx2.URL) -> bool:
    """Whether the environment of the process sets a proxy for this URL."""
    proxies = getproxies()
    if not (proxies.get(url.scheme) or proxies.get("all")):
        return False
    return not proxy_bypass(f"{url.host}:{_port(url)}")


class IteratedBody:
    """The body of a response of another transport, read in the caller's task."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._limit = asyncio.timeout(None)
        self._stopped = False

    async def push_to(self, feed: Feed) -> None:
        try:
            async with self._limit:
                async for data in self._response.aiter_raw():
                    feed(data)
        except TimeoutError:
            if not self._stopped:
                raise

    def stop(self) -> None:
        self._stopped = True
        self._limit.reschedule(asyncio.get_running_loop().time())


class PushedBody(httpx2.AsyncByteStream):
    """The body of a response of `PushTransport`."""

    def __init__(self, exchange: Exchange, linger_s: float) -> None:
        self._exchange = exchange
        self._linger_s = linger_s
        self._stopped = False

    async def push_to(self, feed: Feed) -> None:
        """See `Body`. After a cancel, `aclose` closes the connection."""
        await self._exchange.push_to(feed)

    def stop(self) -> None:
        """See `Body`. If the body then ends soon, its connection stays usable."""
        self._stopped = True
        self._exchange.stop()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces: list[bytes] = []
        size = 0

        def take(data: bytes) -> None:
            nonlocal size
            size += len(data)
            pieces.append(data)
            if size > MAX_ITERATED_BYTES:
                self._exchange.stop()

        await self.push_to(take)
        yield b"".join(pieces)[:MAX_ITERATED_BYTES]

    async def aclose(self) -> None:
        """Close the connection, unless the body has ended or, after a `stop`, ends within `linger_s`."""
        self._exchange.close(self._linger_s if self._stopped else 0.0)


class PushTransport(httpx2.AsyncBaseTransport):
    """Keeps idle connections per origin for `idle_limit_s`, without a limit on their number.

    Applies only the `connect` limit of a request, which includes name resolution and TLS; the caller enforces the
    others. A cancel before the response, or closing the response before its end, closes the connection. The extension
    `BODY` of a response holds its `Body`.
    """

    def __init__(
        self, *, ssl_context: ssl.SSLContext | None = None, idle_limit_s: float = IDLE_LIMIT_S, linger_s: float = 1.0
    ) -> None:
        self._ssl_context = ssl_context
        self._idle_limit_s = idle_limit_s
        self._linger_s = linger_s
        self._idle: dict[Origin, list[HttpConnection]] = {}
        self._open: set[HttpConnection] = set()
        self._reaper: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. Raises an `httpx2.TransportError`."""
        content = await request.aread()
        target = _head_of(request, len(content))
        origin = (request.url.scheme, request.url.host, _port(request.url))
        head, exchange = await self._send(origin, target, body=content, connect_s=_connect_limit_s(request))
        body = PushedBody(exchange, self._linger_s)
        extensions = {"http_version": head.http_version.encode(), "reason_phrase": head.reason, BODY: body}
        return httpx2.Response(head.status, headers=head.headers, stream=body, extensions=extensions)

    async def aclose(self) -> None:
        """Close all connections, including those in use."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()

    @property
    def open_connections(self) -> int:
        """Number of open connections, in use or idle."""
        return len(self._open)

    # --- sending

    async def _send(
        self, origin: Origin, head: bytes, *, body: bytes, connect_s: float | None
    ) -> tuple[Head, Exchange]:
        loop = asyncio.get_running_loop()
        # A server may close a kept connection at any time. If it closed soon and before any byte of a response, it has
        # not processed the request, so that another connection can send it again.
        while (connection := self._take(origin)) is not None:
            sent_s = loop.time()
            try:
                return await connection.send(head, body)
            except StaleConnection:
                if loop.time() - sent_s > REPEAT_WITHIN_S:
                    raise
        connection = await self._connect(origin, connect_s)
        return await connection.send(head, body)

    async def _connect(self, origin: Origin, connect_s: float | None) -> HttpConnection:
        scheme, host, port = origin
        if scheme not in {"http", "https"}:
            raise httpx2.UnsupportedProtocol(f"{scheme!r} is not http or https")
        context = self._tls() if scheme == "https" else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(connect_s):
                _, connection = await loop.create_connection(lambda: self._connection(origin), host, port, ssl=context)
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(f"no connection within {connect_s} s") from error
        except ssl.SSLError as error:
            raise httpx2.ConnectError("TLS handshake failed") from error
        except (OSError, UnicodeError) as error:  # a host name that IDNA cannot encode is a UnicodeError
            raise httpx2.ConnectError("connection failed") from error
        self._open.add(connection)
        if connection.closed:  # between its set-up and this line, so that `_forget` came too early
            self._open.discard(connection)
        return connection

    def _connection(self, origin: Origin) -> HttpConnection:
        return HttpConnection(
            released=lambda connection: self._release(origin, connection),
            lost=lambda connection: self._forget(origin, connection),
        )

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = httpx2.create_ssl_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    # --- keeping

    def _take(self, origin: Origin) -> HttpConnection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()  # the most recently used, so that the others can expire
            if not connection.closed:
                return connection
        return None

    def _release(self, origin: Origin, connection: HttpConnection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        self._idle.setdefault(origin, []).append(connection)
        if self._reaper is None:
            self._reaper = loop.call_later(self._idle_limit_s, self._reap)

    def _forget(self, origin: Origin, connection: HttpConnection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(origin, [])
        if connection in idle:
            idle.remove(connection)

    def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        oldest_s = loop.time() - self._idle_limit_s
        for connection in [kept for idle in self._idle.values() for kept in idle]:
            if connection.idle_since_s <= oldest_s:
                connection.abort()
        kept_since = [kept.idle_since_s for idle in self._idle.values() for kept in idle if not kept.closed]
        self._reaper = None
        if kept_since:
            self._reaper = loop.call_at(min(kept_since) + self._idle_limit_s, self._reap)


def _head_of(request: httpx2.Request, length: int) -> bytes:
    """The request line and headers. Raises `httpx2.LocalProtocolError` for a header with a line break, which could
    inject headers."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    names = set()
    for name, value in request.headers.raw:
        key = name.lower()
        if key in {b"accept-encoding", b"connection", b"transfer-encoding", b"content-length"}:
            continue  # compression would delay tokens, and this transport frames the body itself
        names.add(key)
        lines.append(b"%s: %s" % (name, value))
    if b"host" not in names:
        lines.append(b"Host: " + request.url.netloc)
    lines += [b"Accept-Encoding: identity", b"Content-Length: %d" % length]
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise httpx2.LocalProtocolError("a header contains a line break")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _port(url: httpx2.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _connect_limit_s(request: httpx2.Request) -> float | None:
    limits: Mapping[str, float | None] = request.extensions.get("timeout", {})
    return limits.get("connect")
