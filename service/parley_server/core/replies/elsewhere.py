"""Running replies that this process does not generate: what to do with one depends on the mode of the server."""

from __future__ import annotations

from typing import Protocol

from parley_server.core.model import Identity, Reply
from parley_server.core.ports import Store
from parley_server.core.replies.log import Log
from parley_server.core.replies.recovery import Recovery


class RepliesElsewhere(Protocol):
    """Replies that the store holds and this process has no log of."""

    async def find(self, identity: Identity, reply: Reply) -> Log | Reply:
        """The log of a running reply, or the reply if it has ended. Raises `ReplyNotFound`."""

    async def cancel(self, reply: Reply) -> Log | None:
        """Have a running reply end, whose cancel request is stored. The log that will end; None: it has ended."""

    async def ended(self, reply: Reply) -> Log:
        """The log of a reply that has ended, with as much of its text as can be found."""


class NoReplicas:
    """Implements `RepliesElsewhere` for a process that is alone: a running reply without a task is a defect, and ended
    at once."""

    def __init__(self, store: Store, recovery: Recovery) -> None:
        self._store = store
        self._recovery = recovery

    async def find(self, identity: Identity, reply: Reply) -> Log | Reply:
        """See `RepliesElsewhere`."""
        await self._recovery.reconcile()
        return await self._store.get_reply(identity, reply.id)

    async def cancel(self, reply: Reply) -> Log | None:  # noqa: ARG002 - all such replies are ended
        """See `RepliesElsewhere`."""
        await self._recovery.reconcile()
        return None

    async def ended(self, reply: Reply) -> Log:
        """See `RepliesElsewhere`."""
        return Log.of_ended(reply)
