"""The log lines for a part that fails and recovers, and the delays of its retries."""

from __future__ import annotations

import pytest
from parley_server.relay.health import MAX_RETRY_S, MIN_RETRY_S, Health

from tests.clock import ManualClock


async def test_each_change_is_logged_once(caplog):
    caplog.set_level("INFO", "parley.relay")
    clock = ManualClock()
    health = Health("publish", clock)
    await clock.advance(5)
    assert (health.lost_s, health.works_s, health.worked()) == (0.0, 5.0, False)
    for _ in range(3):
        health.failed("gone")
        await clock.advance(2)
    assert (health.lost_s, health.works_s, health.losses) == (6.0, 0.0, 1)
    assert health.worked()
    assert not health.worked()
    await clock.advance(1)
    assert (health.lost_s, health.works_s) == (0.0, 1.0)
    logged = [(record.message, record.fields) for record in caplog.records]
    assert logged == [
        ("relay_lost", {"part": "publish", "problem": "gone"}),
        ("relay_restored", {"part": "publish", "lost_s": 6.0}),
    ]


async def test_the_loss_counts_from_the_first_failure():
    health = Health("publish", ManualClock())
    health.failed("gone")
    assert health.lost_s > 0


async def test_retries_slow_down_and_start_over():
    clock = ManualClock()
    health = Health("publish", clock)
    waits = []
    for _ in range(8):
        health.failed("gone")
        waits.append(health.retry_at - clock.monotonic())
        await clock.advance(1)
    for number, wait in enumerate(waits):
        longest = min(MAX_RETRY_S, MIN_RETRY_S * 2**number)
        assert longest / 2 <= wait <= longest
    health.worked()
    assert health.retry_at == 0
    health.failed("gone")
    assert health.retry_at - clock.monotonic() == pytest.approx(MIN_RETRY_S, rel=0.51)
