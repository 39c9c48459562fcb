"""Applies the limits of a tenant to a request before it is accepted.

The message is counted while the conversation is read, to save a round trip, and given back if the request is refused.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

from parley_server.core.access import TenantPolicy
from parley_server.core.ids import new_id
from parley_server.core.model import Identity, Role
from parley_server.core.observer import Observer
from parley_server.core.ports import Clock, RateLimiter, Store
from parley_server.core.quota_values import QuotaState
from parley_server.core.rate_values import Taken, rate_key
from parley_server.core.requests import ReplyRequest
from parley_server.core.store_types import PromptSource
from parley_server.core.tasks import Tasks
from parley_server.errors import RateLimited, StorageUnavailable

MESSAGES, REPLIES = "messages_per_minute", "concurrent_replies"
REPLY_ENDS_S = 1.0
"""When to retry after a refusal for `concurrent_replies`, since the end of a running reply cannot be predicted."""


class Admission:
    """The limits of all tenants, with their use."""

    def __init__(self, *, limiter: RateLimiter, store: Store, clock: Clock, observer: Observer, tasks: Tasks) -> None:
        self._limiter = limiter
        self._store = store
        self._clock = clock
        self._observer = observer
        self._tasks = tasks

    def entry(self, request: ReplyRequest, policy: TenantPolicy) -> Entry:
        """Applies the limits of its tenant to one request."""
        identity, limits = request.identity, policy.limits
        adds = any(message.role is Role.USER for message in request.payload.messages)
        member = request.request_id or new_id(self._clock.now_us())
        return Entry(
            self._limiter,
            self._store,
            self._tasks,
            self._observer,
            tenant=identity.tenant,
            key=rate_key(identity),
            member=member,
            messages=limits.messages_per_minute if adds else None,
            replies=limits.concurrent_replies,
            interrupts=request.payload.interrupt,
        )

    async def states(self, caller: Identity, policy: TenantPolicy) -> list[QuotaState]:
        """The limits of the caller with their use. Raises `StorageUnavailable`."""
        limits = policy.limits
        states = []
        if limits.messages_per_minute is not None:
            used = await self._limiter.look(rate_key(caller))
            states.append(QuotaState(name=MESSAGES, limit=limits.messages_per_minute, used=used))
        if limits.concurrent_replies is not None:
            used = await self._store.count_running(caller.tenant)
            states.append(QuotaState(name=REPLIES, limit=limits.concurrent_replies, used=used))
        return states


class Entry:
    """One request: call `begin` before its conversation is read, `check` afterwards, and `end` in any case.

    `messages`, `replies`: the limits (None: no limit). Set `accepted` if the message stays counted."""

    def __init__(
        self,
        limiter: RateLimiter,
        store: Store,
        tasks: Tasks,
        observer: Observer,
        *,
        tenant: str,
        key: str,
        member: str,
        messages: int | None,
        replies: int | None,
        interrupts: bool,
    ) -> None:
        self._limiter = limiter
        self._store = store
        self._tasks = tasks
        self._observer = observer
        self._tenant = tenant
        self._key = key
        self._member = member
        self._messages = messages
        self._replies = replies
        self._interrupts = interrupts
        self._taking: asyncio.Task[Taken] | None = None
        self._counting: asyncio.Task[int] | None = None
        self._checked = False
        self.accepted = False
        self.states: tuple[QuotaState, ...] = ()
        """The use of `messages_per_minute` after a successful check, if it is limited."""

    def begin(self) -> None:
        """Count the message and the running replies, in the background."""
        if self._messages is not None:
            self._taking = self._tasks.spawn(self._take(self._messages), "rate-take")
        if self._replies is not None:
            self._counting = self._tasks.spawn(self._store.count_running(self._tenant), "count-running")

    async def check(self, source: PromptSource) -> None:
        """Raises `RateLimited`, `StorageUnavailable`. Later calls do nothing: the reply that the request has
        interrupted meanwhile would be missing."""
        if self._checked:
            return
        if self._taking is not None and self._messages is not None:
            taken = await self._taking
            if not taken.allowed:
                raise _refusal(MESSAGES, "end_user", taken.used, self._messages, taken.wait_s)
            self.states = (QuotaState(name=MESSAGES, limit=self._messages, used=taken.used),)
        if self._counting is not None and self._replies is not None:
            running = await self._counting
            if self._interrupts and source.conversation.active_reply_id:
                running -= 1
            if running >= self._replies:
                raise _refusal(REPLIES, "tenant", running, self._replies, REPLY_ENDS_S)
        self._checked = True

    async def end(self) -> None:
        """Give the message back, unless it was accepted or an earlier call of the same request has counted it."""
        if self._taking is None or self.accepted:
            return
        with suppress(StorageUnavailable):  # nothing was counted
            if (await self._taking).fresh:
                await self._limiter.give_back(self._key, self._member)

    async def _take(self, limit: int) -> Taken:
        try:
            taken = await self._limiter.take(self._key, self._member, limit)
        except StorageUnavailable:
            self._observer.message_counted("error")
            raise
        self._observer.message_counted("refused" if not taken.allowed else "local" if taken.local else "taken")
        return taken


def _refusal(limit: str, subject: str, used: int, most: int, wait_s: float) -> RateLimited:
    return RateLimited(
        f"the limit {limit} is reached: {used} of {most}",
        retry_after_s=math.ceil(wait_s * 1000) / 1000,
        metadata={"limit": limit, "used": str(used), "max": str(most), "subject": subject},
        violations=((subject, f"{limit}: {used} of {most} used"),),
    )
