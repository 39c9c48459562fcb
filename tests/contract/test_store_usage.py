"""Sums of usage: exact at any moment, whichever rows are in the sums by day, and in pages without gaps."""

import asyncio
import random

import msgspec
import pytest
from parley_server.core.counts import MOST_COST
from parley_server.core.model import FinishReason, ReplyError, State, Usage
from parley_server.core.periods import DAY_US, day_of
from parley_server.core.usage_values import UsageGroup, UsageKey, UsageQuery, UsageSums, key_columns
from parley_server.errors import Reason
from parley_server.store.usage import AMOUNTS

from tests.contract.store_values import ADA, BEN, NOW_US, RIVAL, acceptance, created, finalisation, summary, unique

MIDNIGHT_US = NOW_US // DAY_US * DAY_US
HOUR_US = DAY_US // 24
OUTCOMES = (
    {"state": State.COMPLETED, "finish_reason": FinishReason.STOP},
    {"state": State.CANCELLED, "finish_reason": FinishReason.CANCELLED},
    {"state": State.FAILED, "error": ReplyError(reason=Reason.OWNER_LOST, message="gone", retryable=True)},
)
RANGES = [
    (0, None),
    (MIDNIGHT_US - DAY_US, MIDNIGHT_US),
    (MIDNIGHT_US - 20 * HOUR_US, MIDNIGHT_US - 2 * HOUR_US),
    (MIDNIGHT_US - 30 * HOUR_US, MIDNIGHT_US - 5 * HOUR_US),
    (MIDNIGHT_US - 30 * HOUR_US, MIDNIGHT_US + 7 * HOUR_US),
    (MIDNIGHT_US, 2**62),
]
"""Whole days, parts of one day, and ranges that cut one day or two."""
GROUPINGS = [
    (),
    (UsageGroup.DAY,),
    (UsageGroup.MODEL, UsageGroup.TENANT),
    (UsageGroup.OUTCOME, UsageGroup.DAY),
    (UsageGroup.END_USER,),
    (UsageGroup.DAY, UsageGroup.END_USER, UsageGroup.TENANT),
]


class Ledger:
    """Replies with random usage, and the sums of them that plain Python makes."""

    def __init__(self, store):
        self.store = store
        self.random = random.Random(5)
        self.rows = []

    async def add(self, identity, time_us):
        chance = self.random
        conversation = await created(self.store, identity)
        asked = acceptance(conversation, identity=identity, now_us=time_us)
        assert await self.store.accept(asked)
        usage = Usage(
            prompt_tokens=chance.randrange(100),
            cached_prompt_tokens=3,
            cache_write_prompt_tokens=2,
            completion_tokens=chance.randrange(50),
            reasoning_tokens=1,
            cost_nano_usd=chance.choice([None, chance.randrange(10**9)]),
            estimated=chance.random() < 0.3,
        )
        first_us, end_us = chance.choice([0, time_us + 400]), time_us + chance.randrange(500, 900)
        end = chance.choice(OUTCOMES) | {"model": chance.choice(["fast", "cheap"])}
        end |= {"usage": usage, "first_token_time_us": first_us, "end_time_us": end_us, "text_length": 9}
        await self.store.finalise(finalisation(asked.reply, **({"finish_reason": None} | end)))
        key = UsageKey(
            tenant=identity.tenant,
            end_user=identity.end_user,
            day=day_of(time_us),
            model=end["model"],
            state=end["state"],
            finish_reason=end.get("finish_reason") or "",
            error_reason="OWNER_LOST" if end["state"] is State.FAILED else "",
        )
        sums = UsageSums(
            key=key,
            replies=1,
            unpriced=usage.cost_nano_usd is None,
            estimated=usage.estimated,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=3,
            cache_write_tokens=2,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=1,
            cost_nano_usd=usage.cost_nano_usd or 0,
            first_token_count=first_us > 0,
            first_token_us=400 if first_us else 0,
            duration_us=end_us - time_us,
            text_length=9,
        )
        self.rows.append((time_us, sums))
        return conversation

    def sums(self, query: UsageQuery) -> list[UsageSums]:
        """What the store must answer."""
        columns = key_columns(query)
        found: dict[tuple, dict[str, int]] = {}
        for time_us, row in self.rows:
            given = (query.tenant, row.key.tenant), (query.end_user, row.key.end_user), (query.model, row.key.model)
            inside = query.start_us <= time_us < (query.end_us or 2**62)
            if inside and all(not wanted or wanted == own for wanted, own in given):
                sums = found.setdefault(tuple(getattr(row.key, name) for name in columns), dict.fromkeys(AMOUNTS, 0))
                for name in AMOUNTS:
                    sums[name] += getattr(row, name)
        return [UsageSums(key=UsageKey(**dict(zip(columns, key, strict=True))), **found[key]) for key in sorted(found)]


@pytest.fixture
async def ledger(store):
    """Thirty replies of three users over three days."""
    made = Ledger(store)
    for number in range(30):
        time_us = MIDNIGHT_US + made.random.randrange(-2 * DAY_US, DAY_US)
        await made.add((ADA, BEN, RIVAL)[number % 3], time_us)
    return made


async def everything(store, query, page=1000):
    """The rows of all pages."""
    rows, after = [], ()
    while True:
        part = await store.list_usage(query, after, page)
        rows += part.rows
        if not part.more:
            return rows
        assert len(part.rows) == page
        after = [getattr(part.rows[-1].key, name) for name in key_columns(query)]


@pytest.mark.parametrize("groups", GROUPINGS)
async def test_sums_are_exact_whatever_is_rolled(store, ledger, groups):
    queries = [
        UsageQuery(start_us=start, end_us=end, groups=groups, **filters)
        for start, end in RANGES
        for filters in ({}, {"tenant": "shop"}, {"tenant": "shop", "end_user": "ada"}, {"model": "fast"})
    ]
    for rolled in (0, 11, 1000):
        await store.roll_usage(rolled) if rolled else None
        for query in queries:
            assert await everything(store, query) == ledger.sums(query), (rolled, query)


@pytest.mark.parametrize("groups", GROUPINGS[1:])
async def test_pages_have_no_gap_while_rows_are_added(store, ledger, groups):
    query = UsageQuery(groups=groups)
    before = ledger.sums(query)
    rows, after = [], ()
    while True:
        page = await store.list_usage(query, after, 2)
        rows += page.rows
        if not page.more:
            break
        after = [getattr(page.rows[-1].key, name) for name in key_columns(query)]
        await ledger.add(ADA, MIDNIGHT_US)
        await store.roll_usage(5)
    keys = [row.key for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row.key for row in before} <= set(keys)
    assert await everything(store, query, page=3) == ledger.sums(query)


async def test_each_row_is_added_once_by_concurrent_jobs(store, ledger):
    added = await asyncio.gather(*(store.roll_usage(7) for _ in range(6)))
    while (more := await store.roll_usage(7)) > 0:
        added.append(more)
    assert sum(added) == 30
    query = UsageQuery(groups=(UsageGroup.DAY,))
    assert await everything(store, query) == ledger.sums(query)


async def test_summaries_count_tokens_and_no_replies(store, ledger):
    conversation = await ledger.add(ADA, MIDNIGHT_US)
    conversation = await store.get_conversation(ADA, conversation.id)
    made = summary(conversation, conversation.head_message_id, create_time_us=MIDNIGHT_US + 5)
    query = UsageQuery(groups=(UsageGroup.TENANT,), tenant="shop")
    [before] = await everything(store, query)
    counted = Usage(prompt_tokens=1000, completion_tokens=100, cost_nano_usd=7)
    assert await store.add_summary(made, counted, usage_id=unique("usage"), provider="scripted")
    expected = msgspec.structs.replace(
        before,
        summaries=1,
        prompt_tokens=before.prompt_tokens + 1000,
        completion_tokens=before.completion_tokens + 100,
        cost_nano_usd=before.cost_nano_usd + 7,
    )
    for _ in range(2):
        assert await everything(store, query) == [expected]
        await store.roll_usage(1000)


async def test_implausible_costs_of_earlier_releases_fit_into_the_sums(store, ledger, query):
    query(f"UPDATE usage SET cost_nano_usd = {2**63 - 1}")
    for _ in range(2):
        [row] = await everything(store, UsageQuery())
        assert row.cost_nano_usd == 30 * MOST_COST
        await store.roll_usage(1000)


async def test_sums_at_the_end_of_their_range_grow_no_further(store, ledger, query):
    while await store.roll_usage(1000):
        pass
    for name in AMOUNTS:
        query(f"UPDATE usage_day SET {name} = {2**63 - 2}")
    for number in range(3):
        await ledger.add(ADA, MIDNIGHT_US + number)
    query(f"UPDATE usage SET cost_nano_usd = {MOST_COST}, end_time_us = create_time_us - 5 WHERE NOT rolled")
    assert await store.count_unrolled() == 3
    assert await store.roll_usage(1000) == 3
    assert await store.count_unrolled() == 0
    for name in AMOUNTS:
        assert query(f"SELECT max({name}) FROM usage_day") == [(2**63 - 2,)], name


async def test_a_sum_of_days_may_be_larger_than_a_column(store, ledger, query):
    while await store.roll_usage(1000):
        pass
    query(f"UPDATE usage_day SET cost_nano_usd = {2**63 - 2}")
    [(days,)] = query("SELECT count(*) FROM usage_day")
    [row] = await everything(store, UsageQuery())
    assert row.cost_nano_usd == days * (2**63 - 2)


async def test_filters_that_no_row_can_hold_find_nothing(store, ledger):
    for name in ("tenant", "end_user", "model"):
        assert (await store.list_usage(UsageQuery(**{name: "a\0b"}), (), 10)).rows == ()
    assert (await store.list_usage(UsageQuery(groups=(UsageGroup.TENANT,)), ("\ud800",), 10)).rows == ()
    assert (await store.list_usage(UsageQuery(start_us=2**63 - 1), (), 10)).rows == ()
