"""The logs that this process holds: of replies that run here or elsewhere, and for a while of those that ended."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from parley_server.core.limits import Limits
from parley_server.core.model import Identity
from parley_server.core.ports import Clock
from parley_server.core.replies.log import Log
from parley_server.errors import ReplyNotFound

if TYPE_CHECKING:
    from parley_server.core.cluster.remote_replies import RemoteReply
    from parley_server.core.replies.generate import Generation


class LiveReplies:
    """Running generations and followers by reply id, and ended logs bounded by age and bytes, oldest out first."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self.running: dict[str, Generation] = {}
        self.followed: dict[str, RemoteReply] = {}
        self._ended: OrderedDict[str, tuple[float, Log]] = OrderedDict()
        self._ended_bytes = 0

    def find(self, identity: Identity, reply_id: str) -> Log | None:
        """The log, where this process has it and it is the caller's: somebody else's is looked for in the store, as
        an unknown one is. Raises `ReplyNotFound` where it was erased."""
        running = self.running.get(reply_id) or self.followed.get(reply_id)
        log = running.log if running else self._ended_log(reply_id)
        if log is None or not identity.owns(log.reply.tenant, log.reply.end_user):
            return None
        if log.erased:
            raise ReplyNotFound
        return log

    def end(self, log: Log) -> None:
        """A reply has ended: keep its log for late readers."""
        self.running.pop(log.reply.id, None)
        if log.erased:
            return
        if (kept := self._ended.pop(log.reply.id, None)) is not None:
            self._ended_bytes -= kept[1].footprint
        self._ended[log.reply.id] = (self._clock.monotonic(), log)
        self._ended_bytes += log.footprint
        self._evict()

    def erase(self, reply_ids: tuple[str, ...]) -> None:
        """These replies exist no more."""
        for reply_id in reply_ids:
            if (followed := self.followed.get(reply_id)) is not None:
                followed.log.erase()
            if (kept := self._ended.pop(reply_id, None)) is not None:
                self._ended_bytes -= kept[1].footprint
                kept[1].erase()

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
