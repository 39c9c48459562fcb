"""Keeps the books of replies in this process, from acceptance to the last late reader."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from parley_server.core.content import Answer
from parley_server.core.limits import Capacity, Limits
from parley_server.core.model import Identity
from parley_server.core.observer import Observer
from parley_server.core.ports import Clock
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.journal import Journal
from parley_server.core.replies.log import Log
from parley_server.core.replies.remote import RemoteReply
from parley_server.errors import ReplyNotFound


class LiveReplies:
    """Owns the capacity, the registry of live replies, their journal, and what the observer receives of them.

    `running` holds generations and `followed` remote replies, by reply id; `readers` counts the readers of all logs.
    Logs of ended replies are kept for late readers within a limit of age and bytes; the oldest are dropped first.
    `on_ended` receives the log of each reply that has ended here.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        limits: Limits,
        observer: Observer,
        journal: Journal,
        on_ended: Callable[[Log], None] | None = None,
    ) -> None:
        self.capacity = Capacity(limits, clock)
        self.running: dict[str, Generation] = {}
        self.followed: dict[str, RemoteReply] = {}
        self.readers = 0
        self._clock = clock
        self._limits = limits
        self._observer = observer
        self._journal = journal
        self._on_ended = on_ended
        self._ended: OrderedDict[str, tuple[float, Log]] = OrderedDict()
        self._ended_bytes = 0

    # --- the life of a reply that is generated here

    def claim(self, generation: Generation) -> None:
        """Register a reply that is about to be accepted. Raises `Overloaded`."""
        self.capacity.claim(generation.prompt_size)
        self.running[generation.log.reply.id] = generation

    def discard(self, generation: Generation) -> None:
        """It was not accepted: nothing of it remains."""
        self.running.pop(generation.log.reply.id, None)
        self.capacity.release(generation.prompt_size)
        generation.log.erase()

    def started(self, generation: Generation) -> None:
        """Its acceptance is committed, and its task starts."""
        self._observer.reply_started()
        self._journal.open(generation.log)

    def finalising(self, generation: Generation) -> None:
        """Its end is about to be stored, with the whole text."""
        self._journal.close(generation.log)

    def ended(self, generation: Generation, overhead_s: float) -> None:
        """Its log has ended as the reply is stored, or the reply was erased."""
        log = generation.log
        generation.reader_count.close()
        if self._on_ended is not None:
            self._on_ended(log)
        self._count_out(generation)
        if log.first_token_time_us:
            waited_s = (log.first_token_time_us - log.reply.create_time_us) / 1e6
            self._observer.first_token(max(0.0, waited_s), log.reply.model)
        self._observe_end(log, overhead_s)
        if outcome := generation.items_kept:
            self._observer.items_kept(outcome)

    def ended_unstarted(self, generation: Generation, overhead_s: float) -> None:
        """It was accepted in its final state: the provider is not asked."""
        generation.reader_count.close()
        self._count_out(generation)
        self._observer.reply_started()
        self._observe_end(generation.log, overhead_s)

    # --- readers

    def find(self, identity: Identity, reply_id: str) -> Log | None:
        """The log, if this process has it and the caller owns it. Raises `ReplyNotFound` if it was erased.

        A log of another caller is None like an unknown one, so that the store gives the same answer to both."""
        live = self.running.get(reply_id) or self.followed.get(reply_id)
        log = live.log if live else self._ended_log(reply_id)
        if log is None or not identity.owns(log.reply.tenant, log.reply.end_user):
            return None
        if log.erased:
            raise ReplyNotFound
        return log

    @contextmanager
    def reading(self, reply_id: str) -> Iterator[None]:
        """Count one more reader of a reply meanwhile. Raises `TooManyReaders`."""
        live = self.running.get(reply_id) or self.followed.get(reply_id)
        if live is not None:
            live.enter()
        self.readers += 1
        self._observer.reader_joined()
        try:
            yield
        finally:
            self.readers -= 1
            self._observer.reader_left()
            if live is not None:
                live.leave()

    def touch(self, reply_id: str) -> None:
        """Count a poll as a reader for a while."""
        if (live := self.running.get(reply_id) or self.followed.get(reply_id)) is not None:
            live.touch()

    # --- logs of ended replies

    def keep(self, log: Log) -> None:
        """Keep the log of an ended reply for late readers."""
        if log.erased:
            return
        if (kept := self._ended.pop(log.reply.id, None)) is not None:
            self._ended_bytes -= kept[1].footprint
        self._ended[log.reply.id] = (self._clock.monotonic(), log)
        self._ended_bytes += log.footprint
        self._evict()

    def erase(self, reply_ids: tuple[str, ...]) -> None:
        """These replies were erased from the store."""
        for reply_id in reply_ids:
            if (followed := self.followed.get(reply_id)) is not None:
                followed.log.erase()
            if (kept := self._ended.pop(reply_id, None)) is not None:
                self._ended_bytes -= kept[1].footprint
                kept[1].erase()

    def _count_out(self, generation: Generation) -> None:
        self.running.pop(generation.log.reply.id, None)
        self.keep(generation.log)
        self.capacity.release(generation.prompt_size)

    def _observe_end(self, log: Log, overhead_s: float) -> None:
        message = log.reply.message
        text_length = Answer(message.parts).text_length if message else 0
        self._observer.reply_ended(log.reply, overhead_s=overhead_s, text_length=text_length)

    def _ended_log(self, reply_id: str) -> Log | None:
        self._evict()
        kept = self._ended.get(reply_id)
        return kept[1] if kept else None

    def _evict(self) -> None:
        oldest = self._clock.monotonic() - self._limits.ended_logs_ttl_s
        while self._ended:
            since, log = next(iter(self._ended.values()))
            if since > oldest and self._ended_bytes <= self._limits.ended_logs_max_bytes:
                return
            self._ended.popitem(last=False)
            self._ended_bytes -= log.footprint
