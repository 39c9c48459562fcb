"""Reads the bodies of error responses within limits of time and size. If a body hangs, the status alone counts."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

import httpx2

from parley_server.errors import ProviderMalformed
from parley_server.providers.http.encoding import Inflater
from parley_server.providers.http.transport import body_of

MAX_REFUSAL_S = 2.0
"""Longest wait for the body of an error response, in seconds."""
MAX_REFUSAL_BYTES = 64 * 1024
"""Limit of its bytes, before and after decompression."""


async def refusal_body(response: httpx2.Response) -> bytes:
    """The part of an error response's body that arrives in time, decompressed. The caller closes the response."""
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
        pass  # the connection broke: the status and the received part of the body count
    finally:
        timer.cancel()
    raw = b"".join(pieces)[:MAX_REFUSAL_BYTES]
    return b"".join(_decoded(raw, response.headers.get("content-encoding", "").strip().lower()))[:MAX_REFUSAL_BYTES]


def _decoded(raw: bytes, encoding: str) -> Iterator[bytes]:
    """The decodable bytes of a body, at least the first `MAX_REFUSAL_BYTES` of them."""
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
