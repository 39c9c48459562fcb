"""The calculation of what many streams need."""

from __future__ import annotations

import pytest

from benchmarks.sizing import Units, apart, need

UNITS = Units(
    token_us=100.0,
    reply_ms=5.0,
    postgres_token_us=2.0,
    postgres_reply_ms=3.0,
    redis_token_us=10.0,
    redis_reply_ms=0.5,
    base_mib=128.0,
    stream_kib=64.0,
)


def test_costs_per_token_and_per_reply_are_separated() -> None:
    token_us, reply_ms = 80.0, 4.0
    long_us = (500 * token_us + reply_ms * 1000) / 500
    short_ms = reply_ms + 2 * token_us / 1000
    assert apart(long_us, short_ms) == pytest.approx((token_us, reply_ms))


def test_what_a_thousand_streams_need() -> None:
    one = need(UNITS, 1_000, 20)
    assert one.processes == 5  # 20,000 tokens/s: 2.2 cores, at 60 % and with a third more
    assert one.postgres_cores == pytest.approx(0.04 + 0.12)
    assert one.redis_cores == pytest.approx(0.2 + 0.02)
    assert one.cells == 1
    assert one.commits_per_s == pytest.approx(80 + 5 * (0.5 + 2 / 3))
    assert one.memory_gib == pytest.approx((5 * 128 + 1_000 / 16) / 1024)
