"""Reads a stream of chunks in the background, and waits for what it shows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
from parley.v1 import chat_pb2

LIMIT_S = 20.0
TERMINAL = ("finished", "failed")
NOTICES = ("accepted", "heartbeat", "go_away")


class Watch:
    """Reads a stream in the background and appends its chunks to `chunks`. `call` is the raw call."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.chunks: list[chat_pb2.TokenChunk] = []
        self.error: grpc.aio.AioRpcError | None = None
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for chunk in self.call:
                self.chunks.append(chunk)
                self._changed.set()
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            self._changed.set()

    async def until(self, condition: Callable[[Watch], bool], *, limit_s: float = LIMIT_S) -> Watch:
        """Wait until the condition holds; fails if the stream ends before."""
        async with asyncio.timeout(limit_s):
            while not condition(self):
                assert not self._task.done(), (self.kinds, self.error)
                self._changed.clear()
                await self._changed.wait()
        return self

    async def until_text(self, text: str, *, limit_s: float = LIMIT_S) -> Watch:
        """Wait until the received text equals this text."""
        return await self.until(lambda watch: watch.text == text, limit_s=limit_s)

    async def accepted(self) -> chat_pb2.TokenChunk:
        """Wait for the first chunk."""
        await self.until(lambda watch: bool(watch.chunks))
        return self.chunks[0]

    async def end(self, *, limit_s: float = LIMIT_S) -> Watch:
        """Wait until the stream has ended with any status."""
        async with asyncio.timeout(limit_s):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._task)
            await asyncio.wait([self._task])
        return self

    async def code(self) -> grpc.StatusCode:
        """Wait for the end of the stream; returns its status."""
        await self.end()
        return await self.call.code()

    @property
    def kinds(self) -> list[str]:
        """The kinds of the chunks, in order."""
        return [str(chunk.WhichOneof("event")) for chunk in self.chunks]

    @property
    def log(self) -> list[chat_pb2.TokenChunk]:
        """The chunks without notices."""
        return [chunk for chunk in self.chunks if chunk.WhichOneof("event") not in NOTICES]

    @property
    def text(self) -> str:
        """The text received so far; a snapshot replaces earlier text."""
        text = ""
        for chunk in self.chunks:
            if chunk.HasField("snapshot"):
                text = "".join(part.text for part in chunk.snapshot.message.parts)
            text += chunk.text
        return text

    @property
    def sequence(self) -> int:
        """The highest sequence received; 0 before any chunk."""
        return max((chunk.sequence for chunk in self.chunks), default=0)

    @property
    def reply_id(self) -> str:
        return self.chunks[0].reply_id

    @property
    def conversation_id(self) -> str:
        return self.chunks[0].accepted.conversation_id

    @property
    def terminal(self) -> chat_pb2.TokenChunk:
        """The last chunk; checks that only it is terminal and that sequences rise."""
        kinds = self.kinds
        assert [kind for kind in kinds if kind in TERMINAL] == kinds[-1:], kinds
        assert kinds[0] == "accepted", kinds
        assert kinds.count("accepted") == 1, kinds
        numbers = [chunk.sequence for chunk in self.log]
        assert numbers == sorted(set(numbers)), numbers
        return self.chunks[-1]
