"""Which usage a caller may read, and the job that adds usage up."""

import asyncio

import pytest
from parley_server.core.access import AccessRole, Principal
from parley_server.core.replies.log import Reader
from parley_server.core.usage.reports import UsageReports
from parley_server.core.usage.rollup import INTERVAL_S, PAUSE_S, UsageRollup
from parley_server.core.usage_values import UsageGroup, UsageKey, UsageQuery
from parley_server.errors import Forbidden, StorageUnavailable

from tests.clock import ManualClock, until
from tests.fakes import ADA, OTHERS

ADMIN = Principal(tenant="office", roles=frozenset({AccessRole.ADMIN}))
SHOP = Principal(tenant="shop", roles=frozenset({AccessRole.CLIENT}))
USER = Principal(tenant="shop", end_user="ada", roles=frozenset({AccessRole.CLIENT}))
GROUPS = (UsageGroup.TENANT, UsageGroup.END_USER)


@pytest.mark.parametrize(
    ("caller", "filters", "seen"),
    [
        (ADMIN, {}, [("bank", "ada"), ("shop", "ada"), ("shop", "ben")]),
        (ADMIN, {"tenant": "bank"}, [("bank", "ada")]),
        (SHOP, {}, [("shop", "ada"), ("shop", "ben")]),
        (SHOP, {"tenant": "shop", "end_user": "ben"}, [("shop", "ben")]),
        (SHOP, {"tenant": "bank"}, None),
        (USER, {}, [("shop", "ada")]),
        (USER, {"end_user": "ada"}, [("shop", "ada")]),
        (USER, {"end_user": "ben"}, None),
    ],
)
async def test_a_caller_sees_the_usage_of_its_tenant_and_end_user(harness, caller, filters, seen):
    for identity in (ADA, *OTHERS):
        generation = await harness.begin(identity=identity)
        await Reader(generation.log, 0).until_ended()
    listing = UsageReports(harness.store, harness.clock, usage_days=0).list(
        caller, UsageQuery(groups=GROUPS, **filters), 0, ""
    )
    if seen is None:
        with pytest.raises(Forbidden):
            await listing
    else:
        assert [row.key for row in (await listing).rows] == [UsageKey(tenant=t, end_user=user) for t, user in seen]


async def test_a_day_whose_rows_are_deleted_counts_whole_in_a_range_that_has_a_part_of_it(harness):
    await harness.stored_end(await harness.begin())
    await harness.store.roll_usage(10)
    noon_us = harness.clock.now_us() + 1
    reports = UsageReports(harness.store, harness.clock, usage_days=3)
    later, earlier = UsageQuery(start_us=noon_us), UsageQuery(end_us=noon_us - 10)
    assert [(await reports.list(ADMIN, query, 0, "")).rows for query in (later, earlier)] == [(), ()]
    harness.clock.correct(5 * 86_400)
    for query in (later, earlier):
        [row] = (await reports.list(ADMIN, query, 0, "")).rows
        assert row.replies == 1


async def test_the_job_continues_after_failures_and_adds_all_parts_in_one_interval(harness):
    for _ in range(5):
        await harness.stored_end(await harness.begin())
    store, clock = harness.store, ManualClock()
    job = asyncio.ensure_future(UsageRollup(store, clock, harness.observer, rows=2).run())
    for error in (StorageUnavailable(), RuntimeError("a bug"), None):
        store.fail("roll_usage", times=0 if error is None else 1, error=error)
        done = store.calls.count("roll_usage")
        await clock.advance(INTERVAL_S if done else 0)
        await until(lambda done=done: store.calls.count("roll_usage") > done and clock.waiting)
    for _ in range(2):
        await clock.advance(PAUSE_S)
        await until(lambda: not store.pending_calls and clock.waiting)
    assert await store.roll_usage(100) == 0, "nothing is left"
    await clock.advance(INTERVAL_S)
    await until(lambda: not store.pending_calls and clock.waiting)
    assert harness.observer.unrolled == [3, 0], "counted once per interval, after a part was added"
    job.cancel()
