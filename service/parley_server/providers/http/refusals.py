"""Reads the body of a refusal, which tells why, in bounds of time and size: the status alone decides if it hangs."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any

import httpx2

from parley_server.errors import ProviderMalformed
from parley_server.providers.http.encoding import Inflater
from parley_server.providers.http.transport import body_of

MAX_REFUSAL_S = 1.0
"""How long the body of a refusal is waited for, in seconds."""
MAX_REFUSAL_BYTES = 64 * 1024
"""Bytes that are read of it, before and after decompression."""


class RefusalReader(httpx2.AsyncClient):
    """A client whose responses with a status other than 2xx have their body, or what came of it in time."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """See `httpx2.AsyncClient.send`."""
        response = await super().send(request, **options)
        if response.is_success:
            return response
        content = await _read(response)
        return httpx2.Response(response.status_code, headers=_kept(response.headers), content=content, request=request)


async def _read(response: httpx2.Response) -> bytes:
    body = body_of(response)
    pieces: list[bytes] = []
    size = 0

    def take(data: bytes) -> None:
        nonlocal size
        pieces.append(data)
        size += len(data)
        if size >= MAX_REFUSAL_BYTES:
            body.stop()

    timer = asyncio.get_running_loop().call_later(MAX_REFUSAL_S, body.stop)
    try:
        await body.push_to(take)
    except httpx2.HTTPError:
        pass  # the connection broke: the status is known, and what came of the body counts
    finally:
        timer.cancel()
        await response.aclose()
    raw = b"".join(pieces)[:MAX_REFUSAL_BYTES]
    return b"".join(_decoded(raw, response.headers.get("content-encoding", "").strip().lower()))[:MAX_REFUSAL_BYTES]


def _decoded(raw: bytes, encoding: str) -> Iterator[bytes]:
    """The bytes of a body, at least the first `MAX_REFUSAL_BYTES`, as far as they can be decoded."""
    if encoding in ("", "identity"):
        yield raw
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return
    size = 0
    try:
        for piece in Inflater(deflate=encoding == "deflate").pieces(raw):
            yield piece
            size += len(piece)
            if size >= MAX_REFUSAL_BYTES:
                return
    except (zlib.error, ProviderMalformed):
        return


def _kept(headers: httpx2.Headers) -> list[tuple[str, str]]:
    """The headers that hold for the decoded content."""
    framing = ("content-encoding", "content-length", "transfer-encoding")
    return [(name, value) for name, value in headers.multi_items() if name.lower() not in framing]
