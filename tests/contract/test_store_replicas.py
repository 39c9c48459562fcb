"""Leases by the database's clock, and takeovers of replies."""

import asyncio

import msgspec
import pytest
from parley_server.core.events import TextDelta
from parley_server.core.model import FinishReason, State
from parley_server.core.store_types import Accepted, CancelTarget, Standing, Unfinished

from tests.contract.store_values import (
    ADA,
    NOW_US,
    SECOND_US,
    acceptance,
    answered,
    checkpoint,
    created,
    finalisation,
)

LONG_S = 60.0
OVER_S = -1.0
"""A lease that expires at once, so that tests do not wait."""


async def owned_by(store, owner: str, *, now_us: int = NOW_US):
    """A running reply of a replica."""
    asked = acceptance(await created(store), now_us=now_us)
    asked = msgspec.structs.replace(asked, reply=msgspec.structs.replace(asked.reply, owner=owner))
    outcome = await store.accept(asked)
    assert isinstance(outcome, Accepted)
    return outcome.reply


def standing(reply, **changes) -> Standing:
    return msgspec.structs.replace(
        Standing(reply_id=reply.id, owner=reply.owner, epoch=reply.epoch, terminal=reply.state.terminal), **changes
    )


def taken(reply, by: str):
    return msgspec.structs.replace(reply, owner=by, epoch=reply.epoch + 1)


def leases(query) -> dict[str, tuple[int, int]]:
    return {row[0]: row[1:] for row in query("SELECT id, start_time_us, lease_until_us FROM replica")}


async def test_a_reply_keeps_its_owner(store):
    reply = await owned_by(store, "a")
    assert (await store.get_reply(ADA, reply.id)).owner == "a"
    assert (await store.finalise(finalisation(reply))).reply.owner == "a"


async def test_a_lease_starts_now_by_the_databases_clock(store, query):
    assert await store.hold_lease("a", 12.0) == []
    ((start, until),) = leases(query).values()
    assert abs(until - start - 12 * SECOND_US) < SECOND_US
    assert start > NOW_US - 20 * 365 * 24 * 3600 * SECOND_US
    await store.hold_lease("a", 30.0)
    ((again, later),) = leases(query).values()
    assert again == start
    assert 17 * SECOND_US < later - until < 60 * SECOND_US


async def test_a_renewal_returns_owned_replies_and_their_cancel_requests(store):
    mine, wanted, others = [await owned_by(store, owner) for owner in ("a", "a", "b")]
    await answered(store, await created(store))
    ended = await owned_by(store, "a")
    await store.finalise(finalisation(ended))
    await store.request_cancel(ADA, CancelTarget(reply_id=wanted.id), FinishReason.INTERRUPTED, "stop", NOW_US)
    held = {each.reply_id: each for each in await store.hold_lease("a", LONG_S)}
    wish = standing(wanted, cancel=FinishReason.INTERRUPTED, cancel_reason="stop")
    assert held == {mine.id: standing(mine), wanted.id: wish}
    assert await store.hold_lease("b", LONG_S) == [standing(others)]


async def test_standings_leave_out_erased_replies(store):
    running = await owned_by(store, "a")
    ended = await owned_by(store, "b")
    await store.finalise(finalisation(ended))
    found = await store.standings([ended.id, "unknown", "a\0", "\ud800", running.id])
    assert {each.reply_id: each for each in found} == {
        running.id: standing(running),
        ended.id: standing(ended, terminal=True),
    }
    assert await store.standings([]) == []


async def test_a_takeover_returns_a_dead_replicas_replies_with_their_durable_text(store):
    await store.hold_lease("dead", OVER_S)
    first = await owned_by(store, "dead")
    second = await owned_by(store, "dead", now_us=NOW_US + 1)
    await store.append_checkpoints([checkpoint(first, "he", "llo"), checkpoint(first, " world", start=3)])
    await store.request_cancel(ADA, CancelTarget(reply_id=second.id), FinishReason.CANCELLED, "enough", NOW_US)

    left = await store.take_over("me", 10)

    streaming = {"state": State.STREAMING, "first_token_time_us": NOW_US + SECOND_US}
    assert left == [
        Unfinished(
            reply=msgspec.structs.replace(taken(first, "me"), **streaming),
            entries=(TextDelta("he"), TextDelta("llo"), TextDelta(" world")),
            durable_sequence=3,
        ),
        Unfinished(
            reply=msgspec.structs.replace(taken(second, "me"), cancel_reason="enough"), cancel=FinishReason.CANCELLED
        ),
    ]
    assert await store.standings([first.id]) == [standing(first, owner="me", epoch=2)]
    again = await store.take_over("other", 10)
    assert [each.reply.epoch for each in again] == [3, 3], "a taker without a lease is as dead"


async def test_text_of_earlier_epochs_is_not_lost_by_a_second_takeover(store):
    await store.hold_lease("dead", OVER_S)
    reply = await owned_by(store, "dead")
    await store.append_checkpoints([checkpoint(reply, "a", "b")])
    for taker, epoch in (("second", 2), ("third", 3)):
        await store.hold_lease(taker, OVER_S)
        (left,) = await store.take_over(taker, 10)
        assert (left.reply.epoch, left.entries, left.durable_sequence) == (epoch, (TextDelta("a"), TextDelta("b")), 2)


async def test_after_a_takeover_only_the_new_epoch_can_write_and_finalise(store, query):
    await store.hold_lease("dead", OVER_S)
    reply = await owned_by(store, "dead")
    (left,) = await store.take_over("me", 10)
    await store.append_checkpoints([checkpoint(reply, "zombie")])
    assert query("SELECT count(*) FROM checkpoint") == [(0,)]
    lost = await store.finalise(finalisation(reply, "zombie"))
    assert (lost.won, lost.reply) == (False, left.reply)
    won = await store.finalise(finalisation(left.reply, "mine"))
    assert (won.won, won.reply.owner, won.reply.epoch) == (True, "me", 2)
    assert await store.hold_lease("dead", LONG_S) == []


async def test_a_takeover_skips_live_replicas_and_itself(store):
    await store.hold_lease("alive", LONG_S)
    await store.hold_lease("me", OVER_S)
    for owner in ("alive", "me"):
        await owned_by(store, owner)
    assert await store.take_over("me", 10) == []
    assert await store.take_over("other", 10) != []


async def test_a_replica_without_a_sure_lease_takes_nothing_over(store):
    """The process may have been paused between its check of the lease and this call, as may all others."""
    reply = await owned_by(store, "dead")
    assert await store.take_over("me", 10, sure_s=0.0) == []
    await store.hold_lease("me", OVER_S)
    assert await store.take_over("me", 10, sure_s=0.0) == []
    await store.hold_lease("me", LONG_S)
    assert await store.take_over("me", 10, sure_s=LONG_S + 1) == []
    assert [each.reply for each in await store.take_over("me", 10, sure_s=LONG_S / 2)] == [taken(reply, "me")]


async def test_replies_of_a_released_lease_can_be_taken_over_at_once(store, query):
    await store.hold_lease("leaving", LONG_S)
    reply = await owned_by(store, "leaving")
    assert await store.take_over("me", 10) == []
    await store.release_lease("leaving")
    await store.release_lease("leaving")
    assert leases(query) == {}
    assert [each.reply for each in await store.take_over("me", 10)] == [taken(reply, "me")]


@pytest.mark.parametrize("owner", ["", "never heard of"])
async def test_owners_without_a_replica_row_count_as_dead(store, query, owner):
    reply = await owned_by(store, owner)
    assert [each.reply for each in await store.take_over("me", 10)] == [taken(reply, "me")]
    assert leases(query) == {}


async def test_rows_of_dead_replicas_stay_until_they_own_nothing(store, query):
    await store.hold_lease("idle", OVER_S)
    await store.hold_lease("alive", LONG_S)
    await store.hold_lease("dead", OVER_S)
    for number in range(5):
        await owned_by(store, "dead", now_us=NOW_US + number)
    assert [each.reply.create_time_us - NOW_US for each in await store.take_over("me", 3)] == [0, 1, 2]
    assert sorted(leases(query)) == ["alive", "dead"]
    assert [each.reply.create_time_us - NOW_US for each in await store.take_over("me", 3)] == [3, 4]
    assert sorted(leases(query)) == ["alive"]
    assert await store.take_over("me", 3) == []


async def test_a_replica_can_renew_its_lease_after_a_takeover(store):
    await store.hold_lease("late", OVER_S)
    reply = await owned_by(store, "late")
    await store.take_over("me", 10)
    assert await store.hold_lease("late", LONG_S) == []
    again = await owned_by(store, "late")
    assert await store.hold_lease("late", LONG_S) == [standing(again)]
    assert await store.standings([reply.id]) == [standing(reply, owner="me", epoch=2)]


async def test_concurrent_takeovers_never_take_a_reply_twice(store):
    await store.hold_lease("dead", OVER_S)
    replies = [await owned_by(store, owner) for owner in ("dead", "unknown", "") for _ in range(20)]
    sweepers = [f"s{number}" for number in range(6)]
    for each in sweepers:
        await store.hold_lease(each, LONG_S)
    found: list[Unfinished] = []
    for _ in range(20):
        outcomes = await asyncio.gather(*(store.take_over(each, 7) for each in sweepers))
        found += [each for outcome in outcomes for each in outcome]
        if len(found) >= len(replies):
            break
    assert sorted(each.reply.id for each in found) == sorted(each.id for each in replies)
    assert {each.reply.epoch for each in found} == {2}
