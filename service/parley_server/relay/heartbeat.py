"""What an owner asks Redis about its running replies, a few at a time, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from parley_server.relay.publication import Publication
from parley_server.relay.scripts import HEARTBEAT, command

REPLIES_PER_CALL = 64
FACTS = 3


class Beat(NamedTuple):
    """How a reply stands in Redis. `last` is -1 where the log is closed to its writer; `seen_ms` is 0 where no reader
    elsewhere is known, and `age_s` how long ago that was."""

    publication: Publication
    last: int
    cancel: bool
    seen_ms: int
    age_s: float


def questions(publications: Sequence[Publication], ttl_ms: int, replica: bytes) -> list[bytes]:
    """The commands that keep these replies and ask about them. Where there are none, one that shows that this replica
    is there, and finds out whether Redis takes writes."""
    return [
        HEARTBEAT.call(
            [name for each in group for name in each.names],
            ttl_ms,
            *[each.log.reply.epoch for each in group],
        )
        for group in _groups(publications)
    ] or [command("SET", replica, 1, "PX", ttl_ms)]


def beats(publications: Sequence[Publication], answers: Sequence[Any]) -> Iterator[Beat]:
    """What the answers say; nothing of those that were refused."""
    for group, answer in zip(_groups(publications), answers, strict=False):
        if isinstance(answer, Exception):
            continue
        now_ms, *facts = answer
        for i, publication in enumerate(group):
            last, cancel, seen_ms = facts[FACTS * i : FACTS * (i + 1)]
            yield Beat(publication, last, bool(cancel), seen_ms, max(0.0, (now_ms - seen_ms) / 1000))


def _groups(publications: Sequence[Publication]) -> list[Sequence[Publication]]:
    starts = range(0, len(publications), REPLIES_PER_CALL)
    return [publications[start : start + REPLIES_PER_CALL] for start in starts]
