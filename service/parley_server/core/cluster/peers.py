"""What a cluster needs of the connection between its replicas, and what that connection needs of a replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from parley_server.core.events import Entry
from parley_server.core.model import Reply
from parley_server.core.replies.log import Log


class ReplyOwner(Protocol):
    """Receives what other replicas report of replies of this one. Called in the event loop.

    The reports only save time: the store holds the same facts, and is checked before one is believed."""

    def cancel_requested(self, reply_id: str) -> None:
        """The store holds a cancel request for this reply."""

    def taken_over(self, reply_id: str) -> None:
        """This writer was refused: another replica may be ending the reply."""

    def seen(self, reply_id: str, age_s: float) -> None:
        """A reader followed the reply through another replica, this many seconds ago."""

    def erased(self, reply_ids: tuple[str, ...]) -> None:
        """These replies were erased."""


class Peers(Protocol):
    """Connects replicas: readers on one replica follow replies that another one generates.

    All work is done in the background. Nothing raises if the connection is down; replies go on without it."""

    @property
    def unreachable_s(self) -> float:
        """For how many seconds logs of other replicas could not be followed; 0 while they can."""

    def ended(self, log: Log) -> None:
        """Publish the end of a reply as it is stored, and the entries that followers have not received yet."""

    def follow(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        """Append to `log` what its owner publishes, from number 1 on: in order, each entry once, without a gap.

        While `wanted()` is true, the owner is informed that the reply has readers. `look` is called when the reply may
        have ended."""

    def read(self, log: Log) -> None:
        """Inform the owner at once that a reader has joined a followed log, even if the reader leaves again soon."""

    def unfollow(self, log: Log) -> None:
        """Stop following; without effect if the log is not followed."""

    async def recall(self, reply_id: str) -> tuple[Entry, ...]:
        """The published entries of a log from number 1 on, up to the first gap; empty if there is no answer in time."""

    async def take_over(self, reply_id: str, epoch: int, *, after: int = 0) -> tuple[Entry, ...]:
        """Close the log for good to writers of a lower epoch, then return its entries after the number `after`."""

    async def idle_s(self, reply_id: str) -> float | None:
        """For at least how many seconds a reply of this replica has had no reader on another one; None if unknown,
        which must not be taken for "no reader"."""

    def publish_cancel(self, reply: Reply) -> None:
        """Notify the owner that the store holds a cancel request for this reply."""

    def erase(self, reply_ids: tuple[str, ...]) -> None:
        """Delete the logs of erased replies on every replica; a late append cannot recreate one."""
