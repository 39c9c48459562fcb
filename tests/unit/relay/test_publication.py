"""The next command for a log: how many entries it has, and what is left out after the end."""

from __future__ import annotations

import pytest
from parley_server.core.events import TextDelta, ToolCallDelta
from parley_server.core.lease import Lease
from parley_server.core.replies.log import Log
from parley_server.journal import entry_codec
from parley_server.relay import publication as publication_module
from parley_server.relay import wire
from parley_server.relay.publication import MAX_CHARACTERS, MAX_ENTRIES, Publication

from tests.fakes import ended, reply

HELD, LAPSED = Lease(lambda: 0.0, 1.0), Lease(lambda: 0.0)


@pytest.fixture
def stretches(monkeypatch):
    """The appended ranges, decoded."""
    made: list[tuple[int, int, list]] = []
    pack = wire.pack

    def note(epoch, number, values):
        made.append((epoch, number, [entry_codec.decode(value) for value in values]))
        return pack(epoch, number, values)

    monkeypatch.setattr(publication_module.wire, "pack", note)
    return made


def log_of(*texts: str, lease: Lease = HELD) -> Log:
    log = Log(reply("a", epoch=3), lease=HELD)
    for text in texts:
        log.append(TextDelta(text))
    log.lease = lease
    return log


def test_consecutive_ranges_have_no_gap(stretches):
    log = log_of("a", "b")
    publication = Publication(log)
    publication.append_command(1000)
    assert not publication.appended(2)
    assert not publication.behind
    log.append(TextDelta("c"))
    assert publication.behind
    publication.append_command(1000)
    assert not publication.appended(3)
    assert stretches == [(3, 1, [TextDelta("a"), TextDelta("b")]), (3, 3, [TextDelta("c")])]


def test_a_range_is_limited_in_entries_and_characters(stretches):
    many, large = Publication(log_of(*"x" * (MAX_ENTRIES + 1))), Publication(log_of(*["y" * 40_000] * 3))
    for publication, first in ((many, MAX_ENTRIES), (large, 2)):
        publication.append_command(1000)
        assert len(stretches[-1][2]) == first
        assert publication.appended(first)
        publication.append_command(1000)
        assert len(stretches[-1][2]) == 1
        assert not publication.appended(first + 1)
    assert MAX_CHARACTERS < 80_000


def test_entries_missing_in_redis_are_sent_again(stretches):
    publication = Publication(log_of("a", "b", "c"))
    publication.append_command(1000)
    assert not publication.appended(3)
    publication.log.append(TextDelta("d"))
    publication.append_command(1000)
    assert publication.appended(1)
    publication.append_command(1000)
    assert not publication.appended(4)
    assert stretches[-1] == (3, 2, [TextDelta("b"), TextDelta("c"), TextDelta("d")])


def test_a_position_beyond_the_sent_entries_is_ignored(stretches):
    publication = Publication(log_of("a"))
    publication.append_command(1000)
    publication.appended(17)
    assert publication.sent == 1


def test_the_terminal_entry_is_not_published(stretches):
    log = log_of("a", "b")
    publication = Publication(log)
    log.finish(ended(log.reply, last_sequence=3))
    publication.finish(expires_at=9.0)
    assert publication.behind
    publication.append_command(1000)
    assert publication.appended(2)
    assert not publication.behind
    assert stretches == [(3, 1, [TextDelta("a"), TextDelta("b")])]


def test_an_end_by_another_replica_publishes_no_content(stretches):
    log = log_of("a", "b")
    publication = Publication(log)
    log.replace(ended(log.reply, last_sequence=70_000))
    publication.finish(expires_at=9.0)
    assert not publication.behind
    assert not publication.running


def test_a_reply_without_content_has_nothing_to_append():
    log = log_of()
    publication = Publication(log)
    log.finish(ended(log.reply, last_sequence=1))
    publication.finish(expires_at=9.0)
    assert (publication.end, publication.behind) == (0, False)


def test_entries_without_a_lease_are_published_only_after_a_stored_end(stretches):
    log = log_of("a", lease=LAPSED)
    publication = Publication(log)
    publication.append_command(1000)
    assert not publication.appended(0)
    log.append(TextDelta("held back"))
    log.finish(ended(log.reply, last_sequence=3))
    publication.finish(expires_at=9.0)
    publication.append_command(1000)
    assert publication.appended(2)
    assert stretches == [(3, 1, []), (3, 1, [TextDelta("a"), TextDelta("held back")])]


def test_a_log_taken_over_is_not_appended_to():
    log = log_of("a", "b")
    publication = Publication(log)
    publication.refused = True
    assert not publication.behind
    log.finish(ended(log.reply, last_sequence=3))
    publication.finish(expires_at=9.0)
    assert not publication.behind


def test_every_kind_of_entry_is_appended_under_its_number(stretches):
    log = log_of("a")
    log.append(ToolCallDelta(0, "id", "name", "{}"))
    Publication(log).append_command(1000)
    assert stretches[0][2] == log.content()
