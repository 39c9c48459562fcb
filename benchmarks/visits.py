"""Requests to a product, as its browser sends them: one streamed answer, read token by token, and one polled task.

The HTTP/1.1 client is written here, since a library would need more CPU per event than some of the measured products.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from benchmarks.tokens import Transcript, now_us
from tests.products.backends import Product
from tests.products.wires import WIRES

LIMIT_S = 60.0
DELTAS = {"spring-boot": "text", "express": "content", "vision": "delta", "roleplay": "data", "negotiate": "content"}
"""The field with the new text of an event, by product; that of `ui` is "text"."""


class Visit:
    """One streamed answer; `transcript` has its tokens, `end_us` the time of its last event."""

    def __init__(self, product: Product, user: str, tokens: int) -> None:
        self._product, self.user = product, user
        self._wire = WIRES[product.name]
        self.transcript = Transcript(tokens)
        self.end_us = 0
        self.fault = ""

    async def run(self) -> None:
        """Send a message and read the answer to its end; sets `fault` if it is not complete."""
        try:
            async with asyncio.timeout(LIMIT_S):
                await self._read()
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.fault = repr(error)
        self.fault = self.fault or self.transcript.fault or ("" if self.transcript.ended else "no end")

    async def _read(self) -> None:
        path, body = self._wire.request(self, self._wire.new_conversation(), "Hi")  # type: ignore[arg-type]  # only its user is read
        headers = {"Idempotency-Key": str(uuid.uuid4()), **self._wire.headers, **self._product.headers(self.user)}
        self.transcript.started_us = now_us()
        async with exchange(self._product, "POST", path, headers=headers, body=body) as (status, pieces):
            if status != 200:
                raise ValueError(f"HTTP {status}")
            buffered = b""
            async for piece in pieces:
                *events, buffered = (buffered + piece).split(b"\n\n")
                for event in events:
                    self._take(event)

    def _take(self, block: bytes) -> None:
        if not block.startswith(b"data: "):
            return
        event = msgspec.json.decode(block[6:])
        kind = event["type"]
        if kind == self._wire.text:
            self.transcript.take(event[DELTAS.get(self._product.name, "text")])
        elif kind == self._wire.done:
            self.end_us = now_us()
            self.transcript.end()
        elif kind == self._wire.failed:
            raise ValueError(str(event))

    def stored_after_us(self) -> int:
        """Microseconds from the vendor's last token to the last event, which is sent after the answer is stored."""
        return self.end_us - self.transcript.seen_us[-1] + self.transcript.late_us()[-1]


@contextlib.asynccontextmanager
async def exchange(
    product: Product, method: str, path: str, *, headers: dict[str, str], body: Any = None
) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
    """Send one request on a new connection; yields the status, and the parts of the body as they arrive."""
    host, _, port = product.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    content = json.dumps(body).encode() if body is not None else b""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
    lines += [f"Content-Length: {len(content)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        chunked = "transfer-encoding: chunked" in head
        yield int(head.split(" ", 2)[1]), _chunks(reader) if chunked else _plain(reader)
    finally:
        writer.close()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _plain(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(1 << 16):
        yield piece


async def call(product: Product, user: str, method: str, path: str, *, body: Any = None) -> Any:
    """Send a request; returns the JSON of the answer. Raises ValueError for an error status."""
    headers = {"Idempotency-Key": str(uuid.uuid4()), **product.headers(user)}
    async with exchange(product, method, path, headers=headers, body=body) as (status, pieces):
        content = b"".join([piece async for piece in pieces])
    if status >= 300:
        raise ValueError(f"HTTP {status}: {content[:200]!r}")
    return json.loads(content)
