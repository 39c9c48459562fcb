"""The commands and views of replies: start, attach, poll, get, cancel, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from parley_server.core.events import Chunk, ReasoningDelta, Unknown
from parley_server.core.field_checks import MAX_CANCEL_REASON, check_name
from parley_server.core.limits import Limits
from parley_server.core.model import FinishReason, Identity, Reply, Value
from parley_server.core.observer import Observer
from parley_server.core.ports import Clock, Store
from parley_server.core.quota_values import QuotaState
from parley_server.core.replies.accept import Acceptances, ended_within
from parley_server.core.replies.cancel import CancelRequests
from parley_server.core.replies.elsewhere import RepliesElsewhere
from parley_server.core.replies.endings import Cancel
from parley_server.core.replies.generate import Generation, as_it_stands
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.log import Log, Reader
from parley_server.core.requests import ReplyRequest
from parley_server.core.store_types import CancelTarget, Replayed
from parley_server.core.tasks import Tasks
from parley_server.core.validation import check_request
from parley_server.errors import Draining, InvalidRequest, ParleyError, ReplyNotFound


class Started(msgspec.Struct, frozen=True):
    """An accepted reply; `replayed` where an earlier call had started it. `quota`: the tightest limit of the caller, if
    it has any, of a new reply."""

    log: Log
    replayed: bool
    quota: QuotaState | None = None


class Poll(Value, frozen=True, kw_only=True):
    """What is new after a cursor, the cursor for the next poll, and the reply as it stands."""

    chunks: tuple[Chunk, ...]
    after_sequence: int
    reply: Reply


class Replies:
    """Operations on replies. With `hands_over`, a drain sends readers to other replicas."""

    def __init__(
        self,
        *,
        acceptances: Acceptances,
        store: Store,
        clock: Clock,
        limits: Limits,
        observer: Observer,
        tasks: Tasks,
        live_replies: LiveReplies,
        elsewhere: RepliesElsewhere,
        cancel_requests: CancelRequests,
        hands_over: bool = False,
    ) -> None:
        self.hands_over = hands_over
        self._acceptances = acceptances
        self._store = store
        self._clock = clock
        self._limits = limits
        self._observer = observer
        self._tasks = tasks
        self._live_replies = live_replies
        self._elsewhere = elsewhere
        self._cancel_requests = cancel_requests
        self._listeners: set[Callable[[], None]] = set()
        self.going_away_at: float | None = None

    async def start(self, request: ReplyRequest) -> Started:
        """Accept a request and start its reply, or attach to the reply that the same request has started.

        Acceptance continues if the caller is cancelled meanwhile. Raises every refusal of the contract.
        """
        try:
            request = check_request(request, self._limits)
        except ParleyError as refusal:
            self._observer.refused(refusal.reason)
            raise
        accepting = self._tasks.spawn(self._acceptances.accept(request), "accept")
        try:
            accepted = await asyncio.shield(accepting)
        except asyncio.CancelledError:
            accepting.add_done_callback(_leave_at_once)
            raise
        if isinstance(accepted, Replayed):
            assert accepted.reply is not None
            return Started(await self.attach(request.identity, accepted.reply.id), replayed=True)
        return Started(accepted.log, replayed=False, quota=accepted.quota)

    async def attach(self, identity: Identity, reply_id: str) -> Log:
        """The log of a reply, running here or elsewhere, or ended. Raises `ReplyNotFound`."""
        found = await self._find(identity, reply_id)
        return await self._elsewhere.ended(found) if isinstance(found, Reply) else found

    async def _find(self, identity: Identity, reply_id: str) -> Log | Reply:
        """The log, or the reply if it has ended and its log is not in memory."""
        live_replies, store = self._live_replies, self._store
        if (log := live_replies.find(identity, reply_id)) is not None:
            return log
        reply = await store.get_reply(identity, reply_id)
        log = live_replies.find(identity, reply_id)  # it may have been accepted or followed meanwhile
        if log is not None and (log.ended or not reply.state.terminal):
            return log
        return reply if reply.state.terminal else await self._elsewhere.find(identity, reply)

    @contextmanager
    def reading(self, log: Log, *, notice: Callable[[], None] | None = None) -> Iterator[None]:
        """Count as a reader meanwhile; `notice` is called when the process starts to shut down."""
        with self._live_replies.reading(log.reply.id):
            if notice is not None:
                self._listeners.add(notice)
            try:
                yield
            finally:
                if notice is not None:
                    self._listeners.discard(notice)

    async def wait(self, log: Log, wait_s: float) -> Reply:
        """The reply when it has ended, or as it is after `wait_s` or when the process starts to shut down.

        Raises `StorageUnavailable` if it runs on another replica and cannot be followed."""
        reader = Reader(log, log.last_sequence)

        def over() -> bool:
            reader.position = log.last_sequence  # only the end is waited for
            return log.over

        with self.reading(log, notice=reader.wake):
            await self._until(reader, wait_s, over)
        if log.broken is not None:
            raise log.broken
        return self.standing(log)

    async def poll(
        self, identity: Identity, reply_id: str, *, after: int, wait_s: float, gather_s: float, reasoning: bool
    ) -> Poll:
        """Wait up to `wait_s` for chunks after the cursor, then up to `gather_s` for more."""
        if after < 0:
            raise InvalidRequest.field("after_sequence", "must not be negative")
        log = await self.attach(identity, reply_id)
        self._live_replies.touch(reply_id)
        reader = Reader(log, after)
        with self.reading(log, notice=reader.wake):
            chunks = await self._gathered(reader, wait_s, gather_s, reasoning=reasoning)
        reply = self.standing(log)
        shown = reply if reader.done else msgspec.structs.replace(reply, message=None)
        return Poll(chunks=tuple(chunks), after_sequence=reader.position, reply=shown)

    async def get(self, identity: Identity, reply_id: str) -> Reply:
        """The reply as it stands now. Raises `ReplyNotFound`."""
        found = await self._find(identity, reply_id)
        if isinstance(found, Reply):
            return found
        self._live_replies.touch(reply_id)
        return self.standing(found)

    async def cancel(self, identity: Identity, target: CancelTarget, reason: str) -> Reply:
        """Cancel a reply, and return it when its log has ended. One that has already ended is returned unchanged."""
        if not (target.reply_id or target.request_id or target.conversation_id):
            raise InvalidRequest.field("target", "must name a reply, a request or a conversation")
        check_name("reason", reason, MAX_CANCEL_REASON)
        stopped = self._cancel_local(identity, target, Cancel(finish=FinishReason.CANCELLED, reason=reason))
        if stopped:
            target = CancelTarget(reply_id=stopped)  # after its end, the conversation does not name it any more
        asked = await self._cancel_requests.store(identity, target, FinishReason.CANCELLED, reason)
        if asked is None:
            raise ReplyNotFound
        reply, log = asked
        if log is None:  # a followed log may receive the end later
            return await self._store.get_reply(identity, reply.id)
        await Reader(log, 0).until_ended()
        return await self.get(identity, reply.id)

    async def drain(self, grace_s: float) -> None:
        """Refuse new replies, notify readers, and give running replies `grace_s` to end; then end the rest with their
        text so far. A reply that a defect keeps from ending is left to the next start."""
        self._acceptances.draining = Draining("the server is shutting down", retry_after_s=1.0)
        self.going_away_at = self._clock.monotonic() + grace_s
        for generation in self._live_replies.running.values():
            generation.reader_count.paused = True
        for notice in list(self._listeners):
            notice()
        for generation in list(self._live_replies.running.values()):
            left = self.going_away_at - self._clock.monotonic()
            if not await ended_within(generation.log, left, self._clock):
                break
        self.hurry()
        for generation in list(self._live_replies.running.values()):
            await generation.until_over()

    def hurry(self) -> None:
        """End every running reply now, with its text so far."""
        for generation in list(self._live_replies.running.values()):
            generation.cancel(Cancel(finish=None))

    def standing(self, log: Log) -> Reply:
        """The reply of a log with its text so far. Raises `ReplyNotFound` if it was erased."""
        if log.erased:
            raise ReplyNotFound
        return log.reply if log.ended else as_it_stands(log, self._clock.now_us())

    def _cancel_local(self, identity: Identity, target: CancelTarget, cancel: Cancel) -> str:
        """Cancel at once what runs here, even while the database is unavailable. Returns the id of the reply, or ""."""
        running = self._live_replies.running
        by_id = [running[target.reply_id]] if target.reply_id in running else []
        for generation in by_id if target.reply_id else list(running.values()):
            # The store decides about one that is not accepted yet: the request may come before its acceptance.
            if generation.task is not None and _is_named(generation.log.reply, identity, target):
                generation.cancel(cancel)
                return generation.log.reply.id
        return ""

    async def _gathered(self, reader: Reader, wait_s: float, gather_s: float, *, reasoning: bool) -> list[Chunk]:
        wanted: list[Chunk] = []

        def take() -> bool:
            wanted.extend(chunk for chunk in reader.take() if shown(chunk, reasoning=reasoning))
            return bool(wanted) or reader.done

        await self._until(reader, wait_s, take)
        if wanted and not reader.done and gather_s > 0 and self.going_away_at is None:
            await self._until(reader, gather_s, lambda: take() and reader.done)
        return wanted

    async def _until(self, reader: Reader, wait_s: float, satisfied: Callable[[], bool]) -> None:
        """Wait until `satisfied()`, at most `wait_s`, and not beyond the start of a drain."""
        clock = self._clock
        deadline = clock.monotonic() + wait_s
        timer = None
        try:
            while not satisfied() and clock.monotonic() < deadline and self.going_away_at is None:
                timer = timer or clock.call_at(deadline, reader.wake)
                await reader.wait()
        finally:
            if timer is not None:
                timer.cancel()


def shown(chunk: Chunk, *, reasoning: bool) -> bool:
    """Whether a reader receives this chunk. Its number is used in any case."""
    return not isinstance(chunk.entry, Unknown) and (reasoning or not isinstance(chunk.entry, ReasoningDelta))


def _is_named(reply: Reply, identity: Identity, target: CancelTarget) -> bool:
    if not identity.owns(reply.tenant, reply.end_user):
        return False
    if target.request_id:  # unique within an end user
        return (reply.request_id, reply.end_user) == (target.request_id, identity.end_user)
    return target.reply_id == reply.id or (
        bool(target.conversation_id) and target.conversation_id == reply.conversation_id
    )


def _leave_at_once(accepting: asyncio.Task[Generation | Replayed]) -> None:
    """Start the time without readers: the caller, which was the first reader, has left."""
    if accepting.cancelled() or accepting.exception() is not None:
        return
    accepted = accepting.result()
    if isinstance(accepted, Generation):
        accepted.reader_count.enter()
        accepted.reader_count.leave()
