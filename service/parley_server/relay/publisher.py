"""Publishes the logs of this process to Redis: each entry once and in order, milliseconds after it was numbered.

The writer of a log never waits for Redis. Entries that Redis has not accepted, or has lost, are sent again from memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import ResponseError

from parley_server.core.cluster.peers import ReplyOwner
from parley_server.core.ports import Clock, Timer
from parley_server.core.replies.log import Log
from parley_server.relay.flush_schedule import FlushSchedule
from parley_server.relay.health import Health
from parley_server.relay.heartbeat import ReplyStatus, heartbeat_commands, reply_statuses
from parley_server.relay.publication import Publication, Publications
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway, is_about_one

logger = logging.getLogger("parley.relay")

# After Redis has lost its data, all running logs are sent again. Divided into flushes of this size, each exchange ends
# within its time limit, and heartbeats are not delayed.
MAX_FLUSH_BYTES = 1024 * 1024
# A stop must not wait for an unreachable Redis: the store gets the whole text in any case.
STOP_S = 2.0


class Publisher:
    """Flushes the new entries of all replies together every `flush_interval_s`, and a reply's first entry at once.

    Only one flush runs at a time, so that a reply has at most one append in flight. `on_growth` is called for each log
    that has grown, also while Redis is unreachable. `replica` is the key of this replica's heartbeat.
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
        self._next_heartbeat = 0.0
        self._heartbeat_timer: Timer | None = None
        self._owner: ReplyOwner
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self, owned: ReplyOwner) -> None:
        """Begin to flush; `owned` receives the events of this replica's replies."""
        self._owner = owned
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-publish")

    def open(self, log: Log) -> None:
        """Publish this log from its start on."""
        publication = self._publications.open(log)
        # This is called for each entry, so it only queues the log. Encoding, and marking the journal, is done once per
        # flush.
        log.on_append = lambda: self._grown(publication)
        if log.last_sequence:
            self._grown(publication)

    def ended(self, log: Log) -> None:
        """Publish the rest of a log that has ended as it is stored, then its end. An erased log is only forgotten."""
        if log.erased:
            self.forget([log.reply.id])
            return
        publication = self._publications.of(log)
        publication.finish(expires_at=self._clock.monotonic() + self._retention_s)
        self._flush_schedule.add(publication, urgent=True)

    def forget(self, reply_ids: Iterable[str]) -> None:
        """Stop publishing erased replies."""
        self._publications.forget(reply_ids)

    async def stop(self) -> None:
        """Flush once more, for at most `STOP_S`, then end."""
        self._stopping = True
        self._flush_schedule.ring()
        if self._task is not None:
            await self._task

    def _grown(self, publication: Publication) -> None:
        # The first entry does not wait for the interval: it decides the time to the first token on other replicas.
        self._flush_schedule.add(publication, urgent=not publication.sent)

    def _ring_heartbeat(self) -> None:
        self._flush_schedule.ring()
        self._heartbeat_timer = self._clock.call_at(self._clock.monotonic() + self._heartbeat_s, self._ring_heartbeat)

    async def _run(self) -> None:
        self._ring_heartbeat()
        while not self._stopping:
            await self._flush_schedule.wait()
            try:
                await self._turn()
            except Exception:  # a bug in one reply must not end this task, which serves all replies
                logger.exception("relay_task_failed")
                self._note_health("internal error")
        self._flush_schedule.close()
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
        await self._flush_all()

    async def _flush_all(self) -> None:
        try:
            async with asyncio.timeout(STOP_S):
                while self._flush_schedule and await self._flush(self._flush_schedule.all()):
                    pass
        except TimeoutError:
            pass
        except Exception:  # the other parts must be stopped too
            logger.exception("relay_task_failed")

    async def _turn(self) -> None:
        # The heartbeat comes first: after an outage it shows which entries Redis has lost, and the flush sends them
        # again.
        due, now = self._flush_schedule.due(), self._clock.monotonic()
        if now >= max(self._next_heartbeat, self.health.retry_at):
            self._next_heartbeat = now + self._heartbeat_s
            await self._heartbeat()
        if self._clock.monotonic() >= self.health.retry_at:
            await self._flush(due)
            return
        for publication in due:  # the journal needs the growth also while Redis is unreachable
            self._notify_journal(publication)

    async def _flush(self, due: list[Publication]) -> bool:
        """Publish the new entries of these, limited by `MAX_FLUSH_BYTES`. Returns whether Redis accepted them."""
        sent: list[tuple[Publication, bool]] = []
        commands: list[bytes] = []
        room = MAX_FLUSH_BYTES
        for publication in due:
            if room <= 0:
                self._flush_schedule.hurry()
                break
            # Removed before the commands are sent, so that entries which arrive meanwhile queue it again.
            self._flush_schedule.remove(publication)
            if (command := self._next_command(publication)) is not None:
                # Whether this is the end command must be recorded now: if the reply ends while the commands are in
                # flight, the answer of an append would be taken for that of the end command.
                sent.append((publication, publication.end is not None and not publication.behind))
                commands.append(command)
                room -= len(command)
        if not commands:
            return True
        try:
            answers = await self._pipeline.run(commands)
        except RelayAway as away:
            answers = [away] * len(commands)
        return self._take_answers(sent, answers)

    def _next_command(self, publication: Publication) -> bytes | None:
        self._notify_journal(publication)
        if publication not in self._publications:
            return None
        try:
            if publication.behind:
                return publication.append_command(self._running_ttl_ms)
            return publication.end_command(self._retention_ms) if publication.end is not None else None
        except Exception:  # noqa: BLE001 - one log that cannot be encoded must not block the others
            self._give_up(publication, "the log cannot be encoded")
            return None

    def _notify_journal(self, publication: Publication) -> None:
        if publication.end is None:
            self._on_growth(publication.log)

    def _take_answers(self, sent: list[tuple[Publication, bool]], answers: list[Any]) -> bool:
        problem = ""
        for (publication, ended), answer in zip(sent, answers, strict=True):
            if is_about_one(answer):
                self._give_up(publication, str(answer))
            elif isinstance(answer, Exception):
                problem = problem or str(answer)
                self._flush_schedule.add(publication)
            elif ended:
                self._publications.drop(publication)
            else:
                self._appended(publication, *answer)
        self._note_health(problem)
        return not problem

    def _appended(self, publication: Publication, last: int, cancel: int) -> None:
        if last < 0:
            self._mark_refused(publication)
        elif publication.appended(last):
            self._flush_schedule.add(publication, urgent=True)
        # Redis repeats the request in the answer of each append; one report is enough.
        if cancel and not publication.cancel_reported and publication.end is None:
            publication.cancel_reported = True
            self._owner.cancel_requested(publication.log.reply.id)

    def _mark_refused(self, publication: Publication) -> None:
        publication.refused = True
        # A stored end is published also under another replica's fence, so that followers read it from the store.
        if publication.end is not None:
            self._flush_schedule.add(publication, urgent=True)
        else:
            self._owner.taken_over(publication.log.reply.id)

    async def _heartbeat(self) -> None:
        """Extend the lifetime of running replies in Redis, and apply the state that Redis reports of them."""
        self._publications.tidy(self._clock.monotonic())
        running = self._publications.running()
        try:
            answers = await self._pipeline.run(heartbeat_commands(running, self._running_ttl_ms, self._replica))
        except RelayAway as away:
            self._note_health(str(away))
            return
        refusals = [str(each) for each in answers if isinstance(each, ResponseError) and not is_about_one(each)]
        self._note_health(refusals[0] if refusals else "")
        for status in reply_statuses(running, answers):
            self._apply(status)

    def _apply(self, status: ReplyStatus) -> None:
        publication, reply_id = status.publication, status.publication.log.reply.id
        # The reply may have ended, or been refused, while the heartbeat was in flight.
        if not publication.running:
            return
        if status.last < 0:
            self._mark_refused(publication)
            return
        # A restart or failover may have lost entries: they are sent again.
        publication.sent = min(publication.sent, status.last)
        if publication.behind and publication.log.lease.held:
            self._flush_schedule.add(publication, urgent=True)
        if status.seen_ms > publication.seen_ms:
            publication.seen_ms = status.seen_ms
            self._owner.seen(reply_id, status.age_s)
        if status.cancel:
            self._owner.cancel_requested(reply_id)

    def _give_up(self, publication: Publication, problem: str) -> None:
        """Stop publishing a log that cannot be encoded or that Redis refuses. Its readers on other replicas get the
        whole reply from the store when it has ended."""
        fields = {"reply_id": publication.log.reply.id, "problem": problem}
        logger.error("reply_publish_failed", exc_info=True, extra={"fields": fields})
        self._publications.drop(publication)

    def _note_health(self, problem: str) -> None:
        """Record whether Redis accepted the commands (`problem` is empty) or not."""
        if problem:
            self.health.failed(problem)
            # The heartbeat is the first command after the outage, for the reason given in `_turn`.
            self._next_heartbeat = self.health.retry_at
        elif self.health.worked():
            self._flush_schedule.ring()  # the heartbeat finds out what Redis has lost meanwhile
