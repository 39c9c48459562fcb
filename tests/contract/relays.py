"""Several replicas in one process for tests of the relay: each has a relay and a reply owner; they share a Redis."""

from __future__ import annotations

import itertools
from typing import Any, Self

from parley_server.core.clock import SystemClock
from parley_server.core.events import Entry, TextDelta
from parley_server.core.lease import FOR_EVER, Lease
from parley_server.core.model import Reply
from parley_server.core.ports import Store
from parley_server.core.replies.log import Log
from parley_server.core.store_types import Checkpoint
from parley_server.relay import wire
from parley_server.relay.redis import PRESENCE_LATE_S, RedisRelay

from tests.clock import until
from tests.fakes import reply

HEARTBEAT_S = 0.3
UNTOLD_S = HEARTBEAT_S + PRESENCE_LATE_S
"""The longest time for which a remote reader may not be reported yet."""

_numbers = itertools.count(1)


class RecordingOwner:
    """A `ReplyOwner` that records its calls."""

    def __init__(self) -> None:
        self.cancels: list[str] = []
        self.lost: list[str] = []
        self.sightings: list[tuple[str, float]] = []
        self.erasures: list[str] = []

    def cancel_requested(self, reply_id: str) -> None:
        self.cancels.append(reply_id)

    def taken_over(self, reply_id: str) -> None:
        self.lost.append(reply_id)

    def seen(self, reply_id: str, age_s: float) -> None:
        self.sightings.append((reply_id, age_s))

    def erased(self, reply_ids: tuple[str, ...]) -> None:
        self.erasures += reply_ids


class DiscardingStore:
    """The one method of a store that a relay uses; it discards the checkpoints."""

    async def append_checkpoints(self, checkpoints: list[Checkpoint]) -> None:
        """Discard them."""


class Copy:
    """A replica's copy of the log of another replica's reply."""

    def __init__(self, found: Reply) -> None:
        self.log = Log(found)
        self.looks = 0
        self.wanted = True

    @property
    def entries(self) -> list[Entry]:
        return self.log.content()

    @property
    def text(self) -> str:
        return text_of(self.entries)

    def look(self) -> None:
        self.looks += 1


class Replica:
    """One relay with its reply owner."""

    def __init__(self, url: str, name: str, store: Store, **settings: Any) -> None:
        self.name = name
        self.events = RecordingOwner()
        settings = {"heartbeat_s": HEARTBEAT_S} | settings
        self.relay = RedisRelay(url, store, SystemClock(), replica_id=name, **settings)

    def begin(self, *, reply_id: str = "", epoch: int = 1, lease: Lease = FOR_EVER) -> Log:
        """Open the log of a new reply of this replica."""
        log = Log(reply(reply_id or unique("reply"), epoch=epoch, owner=self.name), lease=lease)
        self.relay.open(log)
        return log

    def follow(self, found: Reply, *, wanted: bool = True) -> Copy:
        """Follow a reply; returns the copy that is filled."""
        copy = Copy(found)
        copy.wanted = wanted
        self.relay.follow(copy.log, wanted=lambda: copy.wanted, look=copy.look)
        if wanted:
            self.relay.read(copy.log)
        return copy

    @property
    def subscribed(self) -> bool:
        """Whether its own channels are subscribed."""
        return {self.relay._channel, wire.ERASED_CHANNEL} <= self.relay._subscription._live

    def problems(self) -> dict[str, int]:
        """The number of losses of each part of the relay; parts without a loss are left out."""
        return {part.part: part.losses for part in self.relay.parts if part.losses}

    @property
    def sound(self) -> bool:
        """Whether all parts of the relay work."""
        return all(part.lost_s == 0 for part in self.relay.parts)


class Replicas:
    """The replicas of a test, which are stopped at its end."""

    def __init__(self, url: str, store: Any = None) -> None:
        self.url = url
        self.store = store or DiscardingStore()
        self._started: list[Replica] = []

    async def start(self, name: str = "", *, url: str = "", subscribed: bool = True, **settings: Any) -> Replica:
        """Start a replica and wait for its subscriptions, since a message before that would be lost; with
        `subscribed=False` it does not wait."""
        replica = Replica(url or self.url, name or unique("replica"), self.store, **settings)
        await replica.relay.start(replica.events)
        self._started.append(replica)
        if subscribed:
            await until(lambda: replica.subscribed)
        return replica

    async def stop(self, replica: Replica) -> None:
        self._started.remove(replica)
        await replica.relay.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in self._started:
            await replica.relay.stop()


def unique(word: str) -> str:
    """An id that no other test has."""
    return f"{word}-{next(_numbers):06}"


def say(log: Log, text: str) -> None:
    """Append one entry per word, each with a space after it."""
    for word in text.split():
        log.append(TextDelta(word + " "))


def text_of(entries: Any) -> str:
    return "".join(entry.text for entry in entries if isinstance(entry, TextDelta))


async def same(copy: Copy, log: Log, limit_s: float = 10.0) -> None:
    """Wait until a copy has as many entries as the original, then compare them."""
    await until(lambda: copy.log.last_sequence >= log.last_sequence, limit_s)
    assert copy.entries == log.content()
