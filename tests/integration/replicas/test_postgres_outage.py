"""PostgreSQL is unavailable for a while during replies: each of them still ends normally."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from parley.v1 import chat_pb2

from tests.cluster import Cluster
from tests.integration.replicas.plays import Play, Repertoire
from tests.integration.replicas.reading import Read, Reader, aborted, at, milliseconds, side_by_side
from tests.integration.served import refused
from tests.proxy import Proxy
from tests.services import PostgresServer

A, B, C = range(3)
REPLICAS = (A, B, C)
LEASE_S = 2.0
LONGER_LEASE_S = 4.0
LATE_S = 2.0  # the first replica finds it again so much later than the others, who wait for it for one lease
REFUSED_WITHIN_S = 7.0  # a statement's limit and a moment
UNREADY_WITHIN_S = 8.0
BACK_WITHIN_S = 15.0
CANCELLED_AT_S = 1.0
STOPPED_WITHIN_S = 0.5
KNOCKS = 40
EXPECTED_ERRORS = {"lease_expired", "database_lost"}

Act = Callable[[], Awaitable[Any]]


@dataclass
class Outage:
    """PostgreSQL is away between `begin` and `end`, for `length_s`. The times are when each was about to happen."""

    name: str
    length_s: float
    begin: Act
    end: Act
    began: float = 0.0
    ended: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def in_thread(work: Callable[..., Any], *arguments: Any) -> Act:
    return lambda: asyncio.to_thread(work, *arguments)


def stopped(postgres: PostgresServer, length_s: float) -> Outage:
    """Stopped without a clean end, and started again, which has to recover first."""
    return Outage(f"stopped {length_s:g} s", length_s, in_thread(postgres.stop, "immediate"), in_thread(postgres.start))


def paused(postgres: PostgresServer, length_s: float) -> Outage:
    """All its processes are stopped: connections stay open, without answers."""
    return Outage(f"paused {length_s:g} s", length_s, in_thread(postgres.pause), in_thread(postgres.resume))


def cut_off(wires: list[Proxy], length_s: float) -> Outage:
    """The ways there are cut: connections are reset, and new ones refused. The first is the last to be mended."""

    async def cut() -> None:
        await asyncio.gather(*(wire.cut() for wire in wires))

    async def restore() -> None:
        for wire in wires[1:]:
            await wire.restore()
        await asyncio.sleep(LATE_S)
        await wires[0].restore()

    return Outage(f"cut off {length_s:g} s", length_s, cut, restore)


class Weathering:
    """What goes on in a cluster while PostgreSQL goes away and comes back, and what must have become of it."""

    def __init__(self, cluster: Cluster, repertoire: Repertoire, outage: Outage, *, lease_s: float) -> None:
        self.cluster = cluster
        self.lease_s = lease_s
        self.repertoire = repertoire
        self.outage = outage
        self._tag = outage.name.replace(" ", "-").replace("-s", "s")
        pace_s = 0.05 if outage.length_s < 20 else 0.2
        count = round((outage.length_s + 6) / pace_s)
        self.lasting = [Read(cluster, self._add(f"lasting{i}", count, pace_s), i) for i in REPLICAS]
        self.closing = Read(cluster, self._add("closing", 40, 0.01, hold=40), A)
        self.earlier = Read(cluster, self._add("earlier", 20, 0.0), A)
        self.stopped = Read(cluster, self._add("stopped", count, pace_s), A)
        self.unheard = Read(cluster, self._add("unheard", count, pace_s), B)
        self.refused: list[tuple[int, Reader]] = []
        self.unlucky: list[tuple[Reader, asyncio.Task[None]]] = []

    async def run(self) -> None:
        outage = self.outage
        await asyncio.gather(
            *(each.begin() for each in (*self.lasting, self.closing, self.earlier, self.stopped, self.unheard))
        )
        await self.earlier.check_whole()
        await self.closing.local.until(lambda reader: reader.text == self.closing.play.whole)
        knocking = asyncio.create_task(self._knock_at_the_moment())
        await asyncio.sleep(0.2)
        outage.began = time.monotonic()
        await outage.begin()
        await asyncio.gather(self._away(), knocking)
        await at(outage.began + outage.length_s)
        outage.ended = time.monotonic()
        await outage.end()
        await self._back()
        figures = ", ".join(f"{name}: {value}" for name, value in outage.figures.items())
        print(f"{outage.name}: {figures}")

    # --- while it is away

    async def _away(self) -> None:
        async with asyncio.TaskGroup() as meanwhile:
            for index in REPLICAS:
                meanwhile.create_task(self._becomes_unready(index))
                for after_s in (0.0, 0.5, 1.6, 3.0):
                    meanwhile.create_task(self._is_refused(index, after_s))
            meanwhile.create_task(self._finishes())
            meanwhile.create_task(self._cancels())
            meanwhile.create_task(self._reads_what_has_ended())

    async def _becomes_unready(self, index: int) -> None:
        caller, began = self.cluster.caller(index), self.outage.began
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + UNREADY_WITHIN_S):
            while await caller.ready():
                await asyncio.sleep(0.05)
        self._worst("NOT_SERVING after", time.monotonic() - began)

    async def _is_refused(self, index: int, after_s: float) -> None:
        await at(self.outage.began + after_s)
        reader = Reader(self._add(f"refused{index}{after_s}", 20, 0.0).request())
        self.refused.append((index, reader))
        began = time.monotonic()
        await reader.start(self.cluster.chat(index))
        took_s = time.monotonic() - began
        self._check_refusal(reader)
        assert took_s < REFUSED_WITHIN_S, (index, after_s, took_s)
        self._worst("refused within", took_s)

    async def _knock_at_the_moment(self) -> None:
        """Requests in flight when it happens: accepted or refused, which cannot be predicted."""

        async def knock(index: int, reader: Reader) -> None:
            began = time.monotonic()
            starting = asyncio.create_task(reader.start(self.cluster.chat(index)))
            accepted = asyncio.create_task(reader.has_accepted.wait())
            await asyncio.wait({starting, accepted}, return_when=asyncio.FIRST_COMPLETED)
            took_s = time.monotonic() - began
            self._worst("answered at the moment within", took_s)
            assert took_s < REFUSED_WITHIN_S
            self.unlucky.append((reader, starting))
            if not accepted.done():
                accepted.cancel()
                self._check_refusal(reader)

        async with asyncio.TaskGroup() as knocking:
            for number in range(KNOCKS):
                request = self._add(f"unlucky{number}", 20, 0.0).request()
                knocking.create_task(knock(number % len(REPLICAS), Reader(request)))
                await asyncio.sleep(0.01)

    def _check_refusal(self, reader: Reader) -> None:
        (cut,) = reader.cuts
        assert (cut.code, cut.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert cut.retry_after_s is not None

    async def _finishes(self) -> None:
        """The provider ends its answer: the end is stored later, and shown to readers only then."""
        await at(self.outage.began + 1.0)
        self.closing.play.gate.set()
        await at(self.outage.began + self.outage.length_s - 0.5)
        assert [reader.terminal for reader in self.closing.readers] == [None] * 3

    async def _cancels(self) -> None:
        """At the owner it stops at once and is stored later; elsewhere the cancel cannot be stored, and is refused."""
        await at(self.outage.began + CANCELLED_AT_S)
        for read, index in ((self.stopped, A), (self.unheard, C)):
            began = time.monotonic()
            call = self.cluster.chat(index).Cancel(chat_pb2.CancelRequest(reply_id=read.reply_id, reason="stop"))
            refusal = await refused(call)
            assert refusal.reason == "STORAGE_UNAVAILABLE"
            assert refusal.retry_after_s is not None
            self._worst("cancel refused within", time.monotonic() - began)
        await aborted(self.cluster.upstream, self.stopped.play.tag)

    async def _reads_what_has_ended(self) -> None:
        await at(self.outage.began + 2.0)
        for index in REPLICAS:
            watch = await self.cluster.caller(index).resume(self.earlier.reply_id).end(limit_s=2)
            assert watch.text == self.earlier.play.whole
            assert watch.terminal == self.earlier.local.terminal

    # --- once it is back

    async def _back(self) -> None:
        async with asyncio.TaskGroup() as afterwards:
            for index in REPLICAS:
                afterwards.create_task(self._becomes_ready(index))
            for index, reader in self.refused:
                afterwards.create_task(self._is_accepted(index, reader))
            for number, (reader, starting) in enumerate(self.unlucky):
                afterwards.create_task(self._is_there_once(number % len(REPLICAS), reader, starting))
        for read in (*self.lasting, self.closing, self.unheard):
            await read.check_whole()
        await self.stopped.end()
        await self.stopped.check_stored("CANCELLED", self.stopped.local.text)
        sent_by_then = self.stopped.play.length_at(self.outage.began + CANCELLED_AT_S + STOPPED_WITHIN_S)
        assert len(self.stopped.local.text) <= sent_by_then
        for read in self.lasting:
            self._check_fence(read)
        self._check_told()
        assert await self.cluster.rows("SELECT id FROM reply WHERE epoch <> 1") == []

    async def _becomes_ready(self, index: int) -> None:
        async with asyncio.timeout(BACK_WITHIN_S):
            while not await self.cluster.caller(index).ready():
                await asyncio.sleep(0.05)
        self._worst("SERVING after", time.monotonic() - self.outage.ended)

    async def _is_accepted(self, index: int, reader: Reader) -> None:
        """The same request, as a caller repeats it that does what RetryInfo says."""
        async with asyncio.timeout(BACK_WITHIN_S):
            await reader.stay(self.cluster.chat(index))
        self._worst("accepted again after", time.monotonic() - self.outage.ended)
        await self._check_once(reader)

    async def _is_there_once(self, index: int, reader: Reader, starting: asyncio.Task[None]) -> None:
        """Accepted or not when it happened, at another replica it is the same request."""
        async with asyncio.timeout(BACK_WITHIN_S):
            await starting
            await reader.stay(self.cluster.chat(index))
        await self._check_once(reader)

    async def _check_once(self, reader: Reader) -> None:
        request = reader.request
        rows = await self.cluster.rows("SELECT state, epoch FROM reply WHERE request_id = $1", request.request_id)
        assert rows == [("COMPLETED", 1)]
        assert reader.text == self.repertoire.plays[request.text].whole

    def _check_fence(self, read: Read) -> None:
        """No reader is shown anything once another replica could have taken the reply over."""
        outage = self.outage
        for reader in read.readers:
            assert reader.times(since=outage.began + self.lease_s, until=outage.ended) == []
            back_s = min(reader.times(since=outage.ended)) - outage.ended
            assert back_s < BACK_WITHIN_S
            self._worst("text again after", back_s)
        self.outage.figures["lag before"] = milliseconds(read.local.lags(read.play, until=outage.began - 0.5))

    def _check_told(self) -> None:
        for index in REPLICAS:
            server = self.cluster[index]
            errors = {each["event"] for each in server.events() if each["level"] == "error"}
            assert errors <= EXPECTED_ERRORS, server.output
            assert server.events("lease_expired")
            assert server.events("lease_restored")
            assert not server.events("reply_taken_over")
            assert not server.events("reply_ownership_lost")

    def _add(self, name: str, count: int, pace_s: float, **options: Any) -> Play:
        return self.repertoire.add(f"{self._tag}.{name}", count, pace_s=pace_s, **options)

    def _worst(self, name: str, seconds: float) -> None:
        figures = self.outage.figures
        figures[name] = max(figures.get(name, 0.0), round(seconds, 2))


@pytest.mark.timeout(180)
async def test_replies_survive_every_postgresql_outage(tmp_path, upstream, postgres_template, shared_redis) -> None:
    repertoire = Repertoire()
    upstream.reply_with(repertoire)
    one_at_a_time = asyncio.Lock()
    async with AsyncExitStack() as stack:

        async def weather(
            name: str, *kinds: Callable[[PostgresServer, list[Proxy]], Outage], lease_s: float = LEASE_S
        ) -> None:
            postgres = PostgresServer(tmp_path / f"postgres-{name}", template=postgres_template)
            await asyncio.to_thread(stack.enter_context, postgres)
            wires = [await stack.enter_async_context(Proxy(postgres.port)) for _ in REPLICAS]
            folder, ports = tmp_path / name, {index: wire.port for index, wire in enumerate(wires)}
            folder.mkdir()
            made = Cluster(folder, postgres, shared_redis, upstream, lease_s=lease_s, postgres_ports=ports)
            async with one_at_a_time:
                cluster = await stack.enter_async_context(made)
            for kind in kinds:
                await Weathering(cluster, repertoire, kind(postgres, wires), lease_s=lease_s).run()

        await side_by_side(
            weather("stopped", lambda postgres, _: stopped(postgres, 60)),
            weather("paused", lambda postgres, _: paused(postgres, 60)),
            weather(
                "short",
                lambda postgres, _: stopped(postgres, 5),
                lambda postgres, _: paused(postgres, 5),
                lambda _, wires: cut_off(wires, 5),
                lease_s=LONGER_LEASE_S,
            ),
        )
