"""Readers that resume after cuts and record what they received and when; and one answer that every replica reads."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.cluster import LIMIT_S, Cluster
from tests.integration.process.watching import Watcher, reason_of
from tests.integration.replicas.plays import Play
from tests.upstream import Request, Upstream

CALL_S = 180.0
BACK_S = 0.2


@dataclass(frozen=True)
class Cut:
    """How a call of a reader ended that was not the reply's end."""

    at: float
    code: grpc.StatusCode | None
    reason: str
    retry_after_s: float | None


class Reader(Watcher):
    """Stays with one reply: after each cut it comes back with its cursor. `cuts` and `beats` tell what it met."""

    def __init__(self, request: chat_pb2.ReplyRequest | None = None, *, reply_id: str = "") -> None:
        super().__init__(request)
        self.reply_id = reply_id
        self.cuts: list[Cut] = []
        self.beats: list[float] = []

    async def stay(self, chat: chat_pb2_grpc.ChatStub) -> Reader:
        """Read until the terminal chunk."""
        while self.terminal is None:
            call = self.resume if self.reply_id else self.start
            await call(chat, timeout_s=CALL_S)
            if self.terminal is None:
                await asyncio.sleep(BACK_S)
        return self

    async def until(self, condition: Callable[[Reader], bool], *, limit_s: float = LIMIT_S) -> Reader:
        """Wait until it holds, while something else has it read."""
        async with asyncio.timeout(limit_s):
            while not condition(self):
                self.has_text.clear()
                await self.has_text.wait()
        return self

    def times(self, *, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """When text came."""
        return [at for at, _ in self._marks if since <= at < until]

    def lags(self, play: Play, *, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """For each word that left in that time: how long it took to be here."""
        marks = sorted(self._marks, key=lambda mark: mark[1])
        lengths = [length for _, length in marks]
        return [
            marks[place][0] - sent
            for sent, length in play.sent
            if since <= sent < until and (place := bisect_left(lengths, length)) < len(marks)
        ]

    async def _follow(self, call: Any) -> None:
        await super()._follow(call)
        if self.terminal is None:
            wait = self.error.retry_after if self.error is not None and self.error.HasField("retry_after") else None
            retry_after_s = wait.ToTimedelta().total_seconds() if wait is not None else None
            self.cuts.append(Cut(time.monotonic(), self.status, reason_of(self.error), retry_after_s))

    def _take(self, chunk: chat_pb2.TokenChunk) -> None:
        super()._take(chunk)
        if chunk.HasField("heartbeat"):
            self.beats.append(time.monotonic())


class Read:
    """One answer, started at `owner`, and read there and at other replicas until its end."""

    def __init__(self, cluster: Cluster, play: Play, owner: int, **fields: Any) -> None:
        self.cluster = cluster
        self.play = play
        self.owner = owner
        self.local = Reader(play.request(**fields))
        self.remote: dict[int, Reader] = {}
        self._staying: list[asyncio.Task[Reader]] = []

    @property
    def reply_id(self) -> str:
        """Once it has begun."""
        return self.local.reply_id

    @property
    def readers(self) -> list[Reader]:
        """The one at its owner first."""
        return [self.local, *self.remote.values()]

    async def begin(self, elsewhere: Iterable[int] | None = None, *, silent: bool = False) -> Read:
        """Returns once every reader has text, or with `silent` once they are there. `elsewhere`: None is everywhere."""
        self._stay(self.local, self.owner)
        await asyncio.wait_for(self.local.has_accepted.wait(), LIMIT_S)
        others = [i for i in range(len(self.cluster)) if i != self.owner] if elsewhere is None else elsewhere
        for index in others:
            self.remote[index] = Reader(reply_id=self.reply_id)
            self._stay(self.remote[index], index)
        if silent:
            await asyncio.wait_for(asyncio.gather(*(each.has_accepted.wait() for each in self.readers)), LIMIT_S)
        else:
            await asyncio.gather(*(each.until(lambda reader: bool(reader.text)) for each in self.readers))
        return self

    async def end(self, *, limit_s: float = 60.0) -> Read:
        """Returns once every reader has had the terminal chunk."""
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*self._staying)
        return self

    async def check_whole(self) -> None:
        """It completed, was generated and stored once, by its owner, and everybody has all of it."""
        await self.end()
        for index, reader in ((self.owner, self.local), *self.remote.items()):
            assert reader.text == self.play.whole, (self.play.tag, index, reader.cuts)
        await self.check_stored("COMPLETED", self.play.whole)
        assert self.play.asked == 1

    async def check_stored(self, state: str, text: str) -> None:
        """It ended like this, once, with its first owner; all readers have this text and the same end."""
        assert {reader.text for reader in self.readers} == {text}
        terminals = [reader.terminal for reader in self.readers]
        assert all(each == terminals[0] for each in terminals)
        stored = await self.cluster.ended(self.reply_id)
        assert (stored.state, stored.text, stored.epoch) == (state, text, 1)
        assert (stored.messages, stored.usages, stored.checkpoints) == (int(bool(text)), 1, 0)
        assert await self.cluster.owner_of(self.reply_id) == self.owner
        assert terminals[0] is not None
        assert terminals[0].sequence == stored.last_sequence

    def _stay(self, reader: Reader, index: int) -> None:
        self._staying.append(asyncio.create_task(reader.stay(self.cluster.chat(index))))


async def aborted(upstream: Upstream, tag: str, *, limit_s: float = LIMIT_S) -> float:
    """When the call for this text was closed by its client, by the monotonic clock; waits for that."""
    async with asyncio.timeout(limit_s):
        while True:
            for abort in upstream.aborts:
                if abort.request is not None and tag_of(abort.request) == tag:
                    return abort.at
            upstream.aborted.clear()
            await upstream.aborted.wait()


def tag_of(request: Request) -> str:
    """The user's text that a request to the upstream ends with."""
    return str(request.json["messages"][-1]["content"])


async def side_by_side(*scenarios: Awaitable[Any]) -> None:
    """Run them all to their ends, whatever becomes of the others; raises what went wrong in any."""
    results = await asyncio.gather(*scenarios, return_exceptions=True)
    errors = [each for each in results if isinstance(each, BaseException)]
    if errors:
        raise BaseExceptionGroup("side by side", errors)


async def at(when_s: float) -> None:
    """Return at this time of the monotonic clock, or at once where it has passed."""
    await asyncio.sleep(max(0.0, when_s - time.monotonic()))


def milliseconds(seconds: Iterable[float]) -> str:
    """Median, 99th percentile and worst, to be printed."""
    ordered = sorted(seconds)
    if not ordered:
        return "none"
    picks = (ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], ordered[-1])
    return "median {:.0f}, p99 {:.0f}, worst {:.0f} ms".format(*(pick * 1000 for pick in picks))
