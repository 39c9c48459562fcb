"""Old conversations and usage are erased at each interval, in parts."""

import asyncio

import pytest
from parley_server.core.periods import DAY_US, day_of
from parley_server.core.retention import CONVERSATIONS_PER_PART, INTERVAL_S, USAGE_PER_PART, Retention
from parley_server.core.store_types import ErasedConversations
from parley_server.errors import StorageUnavailable

from tests.clock import ManualClock
from tests.fakes import RecordingObserver


class OldRows:
    """Implements `ErasureStore` for one tenant. Arguments: numbers of old rows. The next `outages` calls fail."""

    def __init__(self, conversations, usage):
        self.conversations, self.usage, self.outages = conversations, usage, 0
        self.limits_us = set()
        self.period = ""

    async def delete_quota_use(self, before_period):
        if self.outages:
            self.outages -= 1
            raise StorageUnavailable
        self.period = before_period
        return 0

    async def tenants(self):
        return ["shop"]

    async def erase_idle(self, tenant, before_us, limit):
        self.limits_us.add(before_us)
        part = min(limit, self.conversations)
        self.conversations -= part
        return ErasedConversations(count=part, reply_ids=("reply",) * part)

    async def delete_usage(self, tenant, before_us, limit):
        self.limits_us.add(before_us)
        part = min(limit, self.usage)
        self.usage -= part
        return part


@pytest.mark.parametrize(
    ("days", "left"),
    [
        ({"conversations_days": 30, "usage_days": 0}, (0, USAGE_PER_PART)),
        ({"conversations_days": 0, "usage_days": 90}, (CONVERSATIONS_PER_PART + 1, 0)),
        ({"conversations_days": 0, "usage_days": 0}, (CONVERSATIONS_PER_PART + 1, USAGE_PER_PART)),
    ],
)
async def test_old_rows_are_erased_also_after_an_outage(days, left):
    clock, observer, erased = ManualClock(), RecordingObserver(), []
    store = OldRows(CONVERSATIONS_PER_PART + 1, USAGE_PER_PART)
    store.outages = 1
    running = asyncio.create_task(Retention(store, clock, observer, on_erased=erased.extend, **days).run())
    await clock.advance(INTERVAL_S)
    assert (store.conversations, store.usage) == (CONVERSATIONS_PER_PART + 1, USAGE_PER_PART)
    erasing_us = clock.now_us() + int(INTERVAL_S * 1e6)
    await clock.advance(INTERVAL_S + 1)
    running.cancel()
    assert (store.conversations, store.usage) == left
    assert store.period == day_of(erasing_us - 400 * DAY_US)
    assert (
        len(erased) == observer.erased["retention"] == (CONVERSATIONS_PER_PART + 1 if days["conversations_days"] else 0)
    )
    today_us = erasing_us // DAY_US * DAY_US
    expected = {erasing_us - 30 * DAY_US} if days["conversations_days"] else set()
    assert store.limits_us == (expected | ({today_us - 90 * DAY_US} if days["usage_days"] else set()))
