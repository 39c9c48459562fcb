"""Publishes the logs of this process: each entry once and in order, a few milliseconds after it was numbered.

Redis is never waited for by whoever writes a log. What it did not take, or has lost, it is given again from memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import ResponseError

from parley_server.core.ports import Clock, ReplyOwner, Timer
from parley_server.core.replies.log import Log
from parley_server.relay.flush_schedule import FlushSchedule
from parley_server.relay.health import Health
from parley_server.relay.heartbeat import Beat, beats, questions
from parley_server.relay.publication import Publication, Publications
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway, is_about_one

logger = logging.getLogger("parley.relay")

MAX_FLUSH_BYTES = 1024 * 1024
STOP_S = 2.0


class Publisher:
    """Flushes what is new at most once in `flush_interval_s`, all replies together; a reply's first entry at once.

    One flush is under way at a time, and so at most one append of a reply. `on_growth` is told of each log that has
    grown, whether or not Redis is there. `replica` is a key that is this process's own.
    """

    def __init__(
        self,
        pipeline: RedisPipeline,
        clock: Clock,
        *,
        replica: bytes,
        on_growth: Callable[[Log], None],
        flush_interval_s: float,
        heartbeat_s: float,
        retention_s: float,
        running_ttl_s: float,
    ) -> None:
        self.health = Health("publish", clock)
        self._pipeline = pipeline
        self._clock = clock
        self._replica = replica
        self._on_growth = on_growth
        self._heartbeat_s = heartbeat_s
        self._retention_s = retention_s
        self._running_ttl_ms = round(running_ttl_s * 1000)
        self._retention_ms = round(retention_s * 1000)
        self._publications = Publications()
        self._flush_schedule = FlushSchedule(clock, flush_interval_s)
        self._next_beat = 0.0
        self._beat_timer: Timer | None = None
        self._owner: ReplyOwner
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self, owned: ReplyOwner) -> None:
        """Begin to flush; `owned` is told what Redis says of the replies."""
        self._owner = owned
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-publish")

    def open(self, log: Log) -> None:
        """Publish this log from its start."""
        publication = self._publications.open(log)
        log.on_append = lambda: self._grown(publication)
        if log.last_sequence:
            self._grown(publication)

    def ended(self, log: Log) -> None:
        """It has ended as it is stored: publish what is missing, then that. One that was erased is forgotten."""
        if log.erased:
            self.forget([log.reply.id])
            return
        publication = self._publications.of(log)
        publication.finish(expires_at=self._clock.monotonic() + self._retention_s)
        self._flush_schedule.add(publication, urgent=True)

    def forget(self, reply_ids: Iterable[str]) -> None:
        """They exist no more: publish nothing of them."""
        self._publications.forget(reply_ids)

    async def stop(self) -> None:
        """Publish what is there, if Redis takes it now, then end."""
        self._stopping = True
        self._flush_schedule.ring()
        if self._task is not None:
            await self._task

    def _grown(self, publication: Publication) -> None:
        self._flush_schedule.add(publication, urgent=not publication.sent)

    def _ring_beat(self) -> None:
        self._flush_schedule.ring()
        self._beat_timer = self._clock.call_at(self._clock.monotonic() + self._heartbeat_s, self._ring_beat)

    async def _run(self) -> None:
        self._ring_beat()
        while not self._stopping:
            await self._flush_schedule.wait()
            try:
                await self._turn()
            except Exception:  # a defect that ended this task would cut off every reader elsewhere
                logger.exception("relay_defect")
                self._judge("a defect")
        self._flush_schedule.close()
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        await self._say_last()

    async def _say_last(self) -> None:
        try:
            async with asyncio.timeout(STOP_S):
                while self._flush_schedule and await self._flush(self._flush_schedule.all()):
                    pass
        except TimeoutError:
            pass
        except Exception:  # the same; what else is to be stopped must be
            logger.exception("relay_defect")

    async def _turn(self) -> None:
        due, now = self._flush_schedule.due(), self._clock.monotonic()
        if now >= max(self._next_beat, self.health.retry_at):
            self._next_beat = now + self._heartbeat_s
            await self._beat()
        if self._clock.monotonic() >= self.health.retry_at:
            await self._flush(due)
            return
        for publication in due:  # nothing is published now; but the journal counts on being told
            self._tell_journal(publication)

    async def _flush(self, due: list[Publication]) -> bool:
        """Publish what is new of these, as much as one call is to carry; whether Redis took it."""
        said: list[tuple[Publication, bool]] = []
        commands: list[bytes] = []
        room = MAX_FLUSH_BYTES
        for publication in due:
            if room <= 0:
                self._flush_schedule.hurry()
                break
            self._flush_schedule.remove(publication)
            if (words := self._next_words(publication)) is not None:
                said.append((publication, publication.end is not None and not publication.behind))
                commands.append(words)
                room -= len(words)
        if not commands:
            return True
        try:
            answers = await self._pipeline.run(commands)
        except RelayAway as away:
            answers = [away] * len(commands)
        return self._heard(said, answers)

    def _next_words(self, publication: Publication) -> bytes | None:
        self._tell_journal(publication)
        if publication not in self._publications:
            return None
        try:
            if publication.behind:
                return publication.next_stretch(self._running_ttl_ms)
            return publication.last_word(self._retention_ms) if publication.end is not None else None
        except Exception:  # noqa: BLE001 - what cannot be written must not keep the others from being published
            self._give_up(publication, "it cannot be written")
            return None

    def _tell_journal(self, publication: Publication) -> None:
        if publication.end is None:
            self._on_growth(publication.log)

    def _heard(self, said: list[tuple[Publication, bool]], answers: list[Any]) -> bool:
        problem = ""
        for (publication, ended), answer in zip(said, answers, strict=True):
            if is_about_one(answer):
                self._give_up(publication, str(answer))
            elif isinstance(answer, Exception):
                problem = problem or str(answer)
                self._flush_schedule.add(publication)
            elif ended:
                self._publications.drop(publication)
            else:
                self._appended(publication, *answer)
        self._judge(problem)
        return not problem

    def _appended(self, publication: Publication, last: int, cancel: int) -> None:
        if last < 0:
            self._refused(publication)
        elif publication.appended(last):
            self._flush_schedule.add(publication, urgent=True)
        if cancel and not publication.cancel_told and publication.end is None:
            publication.cancel_told = True
            self._owner.cancel_requested(publication.log.reply.id)

    def _refused(self, publication: Publication) -> None:
        publication.refused = True
        if publication.end is not None:
            self._flush_schedule.add(publication, urgent=True)
        else:
            self._owner.taken_over(publication.log.reply.id)

    async def _beat(self) -> None:
        """Keep what Redis has of running replies, and hear how they stand there."""
        self._publications.tidy(self._clock.monotonic())
        running = self._publications.running()
        try:
            answers = await self._pipeline.run(questions(running, self._running_ttl_ms, self._replica))
        except RelayAway as away:
            self._judge(str(away))
            return
        refusals = [str(each) for each in answers if isinstance(each, ResponseError) and not is_about_one(each)]
        self._judge(refusals[0] if refusals else "")
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
            self._flush_schedule.add(publication, urgent=True)
        if beat.seen_ms > publication.seen_ms:
            publication.seen_ms = beat.seen_ms
            self._owner.seen(reply_id, beat.age_s)
        if beat.cancel:
            self._owner.cancel_requested(reply_id)

    def _give_up(self, publication: Publication, problem: str) -> None:
        """It is the reply's own trouble, not Redis': its readers elsewhere see its end alone."""
        fields = {"reply_id": publication.log.reply.id, "problem": problem}
        logger.error("relay_defect", exc_info=True, extra={"fields": fields})
        self._publications.drop(publication)

    def _judge(self, problem: str) -> None:
        """Redis has taken what it was given, or there was a problem with it."""
        if problem:
            self.health.failed(problem)
            self._next_beat = self.health.retry_at
        elif self.health.worked():
            self._flush_schedule.ring()  # for a heartbeat: what was lost meanwhile is found by asking
