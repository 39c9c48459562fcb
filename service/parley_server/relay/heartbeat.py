"""The heartbeat of an owner: keeps its running replies in Redis and reads their state, several replies per command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from parley_server.relay.publication import Publication
from parley_server.relay.scripts import HEARTBEAT, command, groups

FACTS = 3  # values per reply in the answer of heartbeat.lua


class ReplyStatus(NamedTuple):
    """The state of a reply in Redis.

    `last` is the last number of its stream, -1 if the log is closed to this writer. `seen_ms` is the time at which a
    reader on another replica was last reported (0: never), and `age_s` the seconds since then.
    """

    publication: Publication
    last: int
    cancel: bool
    seen_ms: int
    age_s: float


def heartbeat_commands(publications: Sequence[Publication], ttl_ms: int, replica: bytes) -> list[bytes]:
    """The commands that extend the lifetime of these replies and read their state. Without replies, one command that
    sets the replica's own key, which also shows whether Redis accepts writes."""
    return [
        HEARTBEAT.call(
            [name for each in group for name in each.names],
            ttl_ms,
            *[each.log.reply.epoch for each in group],
        )
        for group in groups(publications)
    ] or [command("SET", replica, 1, "PX", ttl_ms)]


def reply_statuses(publications: Sequence[Publication], answers: Sequence[Any]) -> Iterator[ReplyStatus]:
    """Decode the answers. Replies whose command was refused are left out."""
    # Without publications there is no group, but one answer: that of the command for the replica's own key.
    for group, answer in zip(groups(publications), answers, strict=False):
        if isinstance(answer, Exception):
            continue
        now_ms, *facts = answer
        for i, publication in enumerate(group):
            # After a failover, Redis' clock may be behind the time that the old server has written: no age is negative.
            last, cancel, seen_ms = facts[FACTS * i : FACTS * (i + 1)]
            yield ReplyStatus(publication, last, bool(cancel), seen_ms, max(0.0, (now_ms - seen_ms) / 1000))
