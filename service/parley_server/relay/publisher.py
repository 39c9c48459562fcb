"""Publishes the logs of this process: each entry once and in order, a few milliseconds after it was numbered.

Redis is never waited for by whoever writes a log. What it did not take, or has lost, it is given again from memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import ResponseError

from parley_server.core.log import Log
from parley_server.core.ports import Clock, Owned
from parley_server.relay.health import Health
from parley_server.relay.heartbeat import Beat, beats, questions
from parley_server.relay.link import Link, RelayAway, is_about_one
from parley_server.relay.publication import Publication

log = logging.getLogger("parley.relay")

MAX_FLUSH_BYTES = 1024 * 1024
STOP_S = 2.0


class Publisher:
    """Flushes what is new at most once in `flush_interval_s`, all replies together; a reply's first entry at once.

    One flush is under way at a time, and so at most one append of a reply. `on_growth` is told of each log that has
    grown, whether or not Redis is there.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        *,
        on_growth: Callable[[Log], None],
        flush_interval_s: float,
        heartbeat_s: float,
        retention_s: float,
        running_ttl_s: float,
    ) -> None:
        self.health = Health("publish", clock)
        self._link = link
        self._clock = clock
        self._on_growth = on_growth
        self._flush_interval_s = flush_interval_s
        self._heartbeat_s = heartbeat_s
        self._retention_s = retention_s
        self._running_ttl_ms = round(running_ttl_s * 1000)
        self._retention_ms = round(retention_s * 1000)
        self._publications: dict[str, Publication] = {}
        self._dirty: dict[Publication, None] = {}
        self._urgent: dict[Publication, None] = {}
        self._due = asyncio.Event()
        self._timed = False
        self._next_flush = self._next_beat = 0.0
        self._owner: Owned
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self, owned: Owned) -> None:
        """Begin to flush; `owned` is told what Redis says of the replies."""
        self._owner = owned
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-publish")

    def open(self, log: Log) -> None:
        """Publish this log from its start."""
        publication = self._publications[log.reply.id] = Publication(log)
        log.on_append = lambda: self._grown(publication)
        if log.last_sequence:
            self._grown(publication)

    def ended(self, log: Log) -> None:
        """It has ended as it is stored: publish what is missing, then that."""
        publication = self._publications.get(log.reply.id)
        if publication is None or publication.log is not log:
            publication = self._publications[log.reply.id] = Publication(log)
        publication.finish(expires_at=self._clock.monotonic() + self._retention_s)
        self._want(publication, urgent=True)

    def forget(self, reply_ids: Iterable[str]) -> None:
        """They exist no more: publish nothing of them."""
        for reply_id in reply_ids:
            self._publications.pop(reply_id, None)

    async def stop(self) -> None:
        """Publish what is there, if Redis takes it now, then end."""
        self._stopping = True
        self._due.set()
        if self._task is not None:
            await self._task

    def _grown(self, publication: Publication) -> None:
        self._want(publication, urgent=not publication.sent)

    def _want(self, publication: Publication, *, urgent: bool = False) -> None:
        self._dirty[publication] = None
        if urgent:
            self._urgent[publication] = None
            self._due.set()
        else:
            self._set_timer()

    def _set_timer(self) -> None:
        if not self._timed:
            self._timed = True
            self._clock.call_at(self._next_flush, self._ring)

    def _ring(self) -> None:
        self._timed = False
        self._due.set()

    def _ring_beat(self) -> None:
        self._due.set()
        if not self._stopping:
            self._clock.call_at(self._clock.monotonic() + self._heartbeat_s, self._ring_beat)

    async def _run(self) -> None:
        self._ring_beat()
        while not self._stopping:
            await self._due.wait()
            self._due.clear()
            try:
                await self._turn()
            except Exception:  # a defect that ended this task would cut off every reader elsewhere
                log.exception("relay_defect")
                self._judge("a defect")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while self._dirty and await self._flush(self._dirty):
                    pass

    async def _turn(self) -> None:
        now = self._clock.monotonic()
        batch = self._urgent
        if now >= self._next_flush:
            batch = self._dirty
            self._next_flush = now + self._flush_interval_s
        if now >= max(self._next_beat, self.health.retry_at):
            self._next_beat = now + self._heartbeat_s
            await self._beat()
        if self._clock.monotonic() >= self.health.retry_at:
            await self._flush(batch)
        else:
            self._note_growth()
        if self._dirty:
            self._set_timer()

    def _note_growth(self) -> None:
        """Nothing is published now; but the journal counts on being told."""
        for publication in self._dirty:
            publication.log.since(publication.log.last_sequence)
            self._on_growth(publication.log)

    async def _flush(self, batch: dict[Publication, None]) -> bool:
        """Publish what is new of these, as much as one call is to carry; whether Redis took it."""
        said: list[tuple[Publication, bool]] = []
        commands: list[bytes] = []
        room = MAX_FLUSH_BYTES
        for publication in list(batch):
            if room <= 0:
                self._next_flush = 0.0
                self._due.set()
                break
            self._dirty.pop(publication, None)
            self._urgent.pop(publication, None)
            if (spoken := self._next(publication)) is not None:
                said.append((publication, publication.end is not None and not publication.behind))
                commands.append(spoken)
                room -= len(spoken)
        if not commands:
            return True
        try:
            answers = await self._link.run(commands)
        except RelayAway as away:
            answers = [away] * len(commands)
        return self._heard(said, answers)

    def _next(self, publication: Publication) -> bytes | None:
        """What is to be said of it now."""
        if self._publications.get(publication.log.reply.id) is not publication:
            return None
        try:
            if publication.behind:
                self._on_growth(publication.log)
                return publication.next_stretch(self._running_ttl_ms)
            return publication.last_word(self._retention_ms) if publication.end is not None else None
        except Exception:  # noqa: BLE001 - what cannot be written must not keep the others from being published
            self._give_up(publication, "it cannot be written")
            return None

    def _heard(self, said: list[tuple[Publication, bool]], answers: list[Any]) -> bool:
        problem = ""
        for (publication, ended), answer in zip(said, answers, strict=True):
            if is_about_one(answer):
                self._give_up(publication, str(answer))
            elif isinstance(answer, Exception):
                problem = problem or str(answer)
                self._dirty[publication] = None
            elif ended:
                self._drop(publication)
            else:
                self._appended(publication, *answer)
        self._judge(problem)
        return not problem

    def _appended(self, publication: Publication, last: int, cancel: int) -> None:
        if last < 0:
            self._refused(publication)
        elif publication.appended(last):
            self._want(publication, urgent=True)
        if cancel and not publication.cancel_told and publication.end is None:
            publication.cancel_told = True
            self._owner.cancel_wished(publication.log.reply.id)

    def _refused(self, publication: Publication) -> None:
        publication.refused = True
        if publication.end is not None:
            self._want(publication, urgent=True)
        else:
            self._owner.taken_over(publication.log.reply.id)

    async def _beat(self) -> None:
        """Keep what Redis has of running replies, and hear how they stand there."""
        self._tidy()
        running = [each for each in self._publications.values() if each.running]
        try:
            answers = await self._link.run(questions(running, self._running_ttl_ms))
        except RelayAway as away:
            self._judge(str(away))
            return
        refusals = [str(answer) for answer in answers if isinstance(answer, ResponseError)]
        self._judge(refusals[0] if refusals else "")
        if not refusals and running:
            for beat in beats(running, answers):
                self._follow_beat(beat)

    def _follow_beat(self, beat: Beat) -> None:
        publication, reply_id = beat.publication, beat.publication.log.reply.id
        if not publication.running:
            return
        if beat.last < 0:
            self._refused(publication)
            return
        publication.sent = min(publication.sent, beat.last)
        if publication.behind and publication.log.lease.held:
            self._want(publication, urgent=True)
        if beat.seen_ms > publication.seen_ms:
            publication.seen_ms = beat.seen_ms
            self._owner.seen(reply_id, beat.age_s)
        if beat.cancel:
            self._owner.cancel_wished(reply_id)

    def _tidy(self) -> None:
        """Forget what exists no more, and ends that could not be told for as long as anything would be kept."""
        now = self._clock.monotonic()
        for publication in list(self._publications.values()):
            found = publication.log
            dead = found.erased or found.broken is not None or (found.ended and publication.end is None)
            if dead or (publication.end is not None and now >= publication.expires_at):
                self._drop(publication)

    def _give_up(self, publication: Publication, problem: str) -> None:
        """It is the reply's own trouble, not Redis': its readers elsewhere see its end alone."""
        fields = {"reply_id": publication.log.reply.id, "problem": problem}
        log.error("relay_defect", exc_info=True, extra={"fields": fields})
        self._drop(publication)

    def _drop(self, publication: Publication) -> None:
        if self._publications.get(publication.log.reply.id) is publication:
            del self._publications[publication.log.reply.id]

    def _judge(self, problem: str) -> None:
        """Redis has taken what it was given, or there was a problem with it."""
        if problem:
            self.health.failed(problem)
            self._next_beat = self.health.retry_at
        elif self.health.worked():
            self._next_beat = 0.0  # what was lost meanwhile is found by asking
            self._due.set()
