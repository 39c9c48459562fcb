"""The transaction that accepts a request, up to the moment from which on its outcome is known, however late that is."""

from __future__ import annotations

from parley_server.core.engine import Engine, done_within
from parley_server.core.model import Reply
from parley_server.core.replies.generate import Generation
from parley_server.core.store_types import Acceptance, Accepted, AcceptOutcome
from parley_server.errors import ReplyNotFound, StorageUnavailable

TELL_WITHIN_S = 5.0
"""From the start: who waits for an unknown outcome is told no later, but for one last look."""
LAST_LOOK_S = 0.5
LOOK_INTERVAL_S = 0.1
SURE_AFTER_S = 1.0
"""What was not there is looked for again after this: a server that stood still may not have come to the COMMIT yet."""


class Commitment:
    """Commits one acceptance, and begins its generation.

    The reply is on the shelf before its transaction, so that a cancel finds it as soon as it is durable, and a drain
    that begins now waits for it. Where a connection broke over the COMMIT, the database is asked until it answers:
    the caller is told that it is away meanwhile, and a reply that was accepted begins then, for the caller's retry.
    """

    def __init__(self, engine: Engine, generation: Generation, acceptance: Acceptance, *, began: float) -> None:
        self._engine = engine
        self._generation = generation
        self._acceptance = acceptance
        self._began = began
        self._told = False

    async def make(self) -> AcceptOutcome:
        """Where it is `Accepted`, the generation runs, or is over. Raises `StorageUnavailable`."""
        engine, generation, reply_id = self._engine, self._generation, self._acceptance.reply.id
        engine.capacity.claim(generation.prompt_size)
        engine.live_replies.running[reply_id] = generation
        asked_at = engine.clock.boottime()
        try:
            outcome = await engine.store.accept(self._acceptance, prepared=generation.prepare)
        except BaseException as error:
            if isinstance(error, StorageUnavailable) and error.outcome_unknown:
                return await self._settled()
            self._undo()
            raise
        if not isinstance(outcome, Accepted):
            self._undo()
        elif engine.lease.since > asked_at:  # it may have been taken over meanwhile
            return await self._settled()
        else:
            self._begin(outcome.reply)
        return outcome

    async def _settled(self) -> AcceptOutcome:
        clock = self._engine.clock
        settling = self._engine.spawn(self._settle(), f"settle-{self._acceptance.reply.id}")
        left_s = max(LAST_LOOK_S, self._began + TELL_WITHIN_S - clock.monotonic())
        if await done_within(settling, left_s, clock):
            return settling.result()
        self._told = True
        raise StorageUnavailable(outcome_unknown=True)

    async def _settle(self) -> AcceptOutcome:
        try:
            reply = await self._read_back()
        except BaseException:
            self._undo()
            raise
        self._begin(reply)
        if self._told:  # that was its first reader, and it has left
            self._generation.reader_count.enter()
            self._generation.reader_count.leave()
        return Accepted(reply=reply)

    async def _read_back(self) -> Reply:
        """The reply as it is stored. Raises `StorageUnavailable` where it is not, or where nobody waits any more."""
        store, clock, wanted = self._engine.store, self._engine.clock, self._acceptance
        missed_at: float | None = None
        while True:
            try:
                return await store.get_reply(wanted.identity, wanted.reply.id)
            except ReplyNotFound:
                missed_at = missed_at or clock.monotonic()
                if clock.monotonic() >= missed_at + SURE_AFTER_S:
                    raise StorageUnavailable from None
            except StorageUnavailable:
                if self._generation.log.sealed:  # the process stops
                    raise
            await clock.sleep(LOOK_INTERVAL_S)

    def _begin(self, reply: Reply) -> None:
        """Start the accepted reply; one that a Cancel had met beforehand, or that was ended in the place of this
        replica, is over without a call to a provider."""
        engine, generation = self._engine, self._generation
        overhead_s = engine.clock.monotonic() - self._began
        if not reply.state.terminal:
            planned = generation.log.reply
            if (reply.owner, reply.epoch) != (planned.owner, planned.epoch):
                generation.lose()
            generation.start(overhead_s)
            return
        generation.close_provider()
        generation.log.replace(reply)
        generation.reader_count.close()
        engine.live_replies.end(generation.log)
        engine.capacity.release(generation.prompt_size)
        engine.observer.reply_started()
        engine.observer.reply_ended(reply, overhead_s=overhead_s, text_length=0)

    def _undo(self) -> None:
        self._engine.live_replies.running.pop(self._acceptance.reply.id, None)
        self._engine.capacity.release(self._generation.prompt_size)
        self._generation.abandon()
