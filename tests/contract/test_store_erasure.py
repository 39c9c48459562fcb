"""Retention and the erasure of an end user on both databases."""

import pytest
from parley_server.core.periods import DAY_US

from tests.contract.store_values import ADA, BEN, NOW_US, RIVAL, accepted, answered, created

LATER_US = NOW_US + 10 * DAY_US
CUT_US = NOW_US + 5 * DAY_US
CONTENT = ("conversation", "message", "reply", "idempotency_key")


@pytest.fixture
def users(query):
    """The end users in a table."""
    return lambda table: sorted({row[0] for row in query(f"SELECT end_user FROM {table}")})


async def test_idle_conversations_are_erased_in_parts_except_those_with_a_running_reply(store, query):
    for _ in range(3):
        await answered(store, await created(store))
    running = await created(store)
    await accepted(store, running)
    newer = await created(store, now_us=LATER_US)
    rival = await created(store, RIVAL)
    parts = [await store.erase_idle("shop", CUT_US, 2) for _ in range(3)]
    assert [(part.count, len(part.reply_ids)) for part in parts] == [(2, 2), (1, 1), (0, 0)]
    assert sorted(query("SELECT id FROM conversation")) == sorted([(each.id,) for each in (running, newer, rival)])
    assert query("SELECT count(*) FROM reply") == [(1,)]
    assert query("SELECT count(*) FROM usage") == [(3,)]
    assert await store.tenants() == ["rival", "shop"]


async def test_usage_is_deleted_once_it_is_part_of_the_sums(store, query):
    for now_us in (NOW_US, NOW_US, NOW_US, LATER_US):
        await answered(store, await created(store), now_us=now_us)
    assert await store.delete_usage("shop", CUT_US, 2) == 0
    while await store.roll_usage(100):
        pass
    assert await store.delete_usage("rival", CUT_US, 2) == 0
    assert [await store.delete_usage("shop", CUT_US, 2) for _ in range(3)] == [2, 1, 0]
    assert query("SELECT create_time_us FROM usage") == [(LATER_US,)]
    assert query("SELECT sum(replies) FROM usage_day") == [(4,)]


async def test_old_quota_rows_are_deleted(store, query):
    for period in ("2025-10-23", "2025-10-24", "2025-10", "2025-11"):
        query("INSERT INTO quota_use (tenant, scope, end_user, period) VALUES ('shop', 'user', 'ada', ?)", period)
    assert await store.delete_quota_use("2025-10-24") == 2
    assert query("SELECT period FROM quota_use ORDER BY period") == [("2025-10-24",), ("2025-11",)]


async def test_all_rows_of_an_end_user_are_erased_and_no_others(store, query, users):
    for identity in (ADA, BEN):
        conversation = await created(store, identity)
        await answered(store, conversation, identity=identity)
        for scope, user in (("user", identity.end_user), ("tenant", "")):
            query(
                "INSERT INTO quota_use (tenant, scope, end_user, period) VALUES ('shop', ?, ?, '2027-01')"
                " ON CONFLICT DO NOTHING",
                scope,
                user,
            )
    before = {table: query(f"SELECT * FROM {table} WHERE end_user <> 'ada' ORDER BY 1, 2, 3") for table in CONTENT}
    assert (await store.erase_conversations(ADA, 10, running=False)).count == 1
    assert await store.forget_user(ADA) == (1, 1)
    assert [await store.rename_user(ADA, "erased-1", 10) for _ in range(2)] == [1, 0]
    assert [users(table) for table in CONTENT] == [["ben"]] * 4
    assert {table: query(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in CONTENT} == before
    assert (users("usage"), users("quota_use")) == (["ben", "erased-1"], ["", "ben"])


async def test_a_running_reply_is_erased_only_if_its_server_is_dead(store, query):
    reply = await accepted(store, await created(store))
    assert await store.running_of(ADA) == [reply.id]
    assert await store.running_of(BEN) == []
    assert (await store.erase_conversations(ADA, 10, running=False)).count == 0
    erased = await store.erase_conversations(ADA, 10, running=True)
    assert (erased.count, erased.reply_ids) == (1, (reply.id,))
    assert query("SELECT count(*) FROM reply") == [(0,)]


async def test_the_ended_replies_of_an_end_user_are_listed_and_no_running_one(store):
    conversation = await created(store, ADA)
    ended = await answered(store, conversation, identity=ADA)
    await answered(store, await created(store, BEN), identity=BEN)
    await accepted(store, await created(store, ADA))
    assert await store.ended_of(ADA) == [ended.id]
    assert await store.ended_of(RIVAL) == []
