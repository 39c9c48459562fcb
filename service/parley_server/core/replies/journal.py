"""What replies need of the parts that make their text durable."""

from __future__ import annotations

from typing import Protocol

from parley_server.core.events import Entry
from parley_server.core.replies.log import Log


class Journal(Protocol):
    """Makes the text of running replies durable, in order and in the background.

    A reply never waits for it: `Log.journaled` reports progress, and a failure to write is retried later."""

    def open(self, log: Log) -> None:
        """Journal this log from its first entry; its appends are noticed from now on."""

    def close(self, log: Log) -> None:
        """Stop writing checkpoints of this log, because its reply is being finalised."""


class UnstoredText(Protocol):
    """Holds text of replies that the store does not have yet."""

    async def take_over(self, reply_id: str, epoch: int, *, after: int = 0) -> tuple[Entry, ...]:
        """Close the log for good to writers of a lower epoch, then return its entries after the number `after`, without
        a gap."""
