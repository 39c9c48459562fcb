"""The arithmetic of a connection's budget and of its timers, on a loop whose time the tests move."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest
from parley_server.rpc.http2.frames import Code, ConnectionFault
from parley_server.rpc.http2.lifetime import BURST, RATE, STRIKES, Budget, Lifetime, Limits

LIMITS = Limits(keepalive_s=30, ping_s=10, greeting_s=5, age_s=1000, age_grace_s=100, min_ping_interval_s=9)


class Timer:
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of a loop as timers need."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, int, Timer]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[[], object]) -> Timer:
        timer = Timer(call)
        heapq.heappush(self._timers, (self.now + delay_s, id(timer), timer))
        return timer

    def move_to(self, when: float) -> None:
        """Later, by what is due until then."""
        while self._timers and self._timers[0][0] <= when:
            self.now, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.call()
        self.now = when

    @property
    def waiting(self) -> int:
        return sum(not timer.cancelled for _, _, timer in self._timers)


@pytest.fixture
def loop() -> Any:
    return Loop()


def spend(budget, times, price=1.0):
    for _ in range(times):
        budget.spend(price)


def test_a_budget_is_a_burst_and_then_a_rate(loop):
    budget = Budget(loop, LIMITS)
    spend(budget, BURST)
    with pytest.raises(ConnectionFault) as fault:
        budget.spend()
    assert fault.value.code is Code.ENHANCE_YOUR_CALM
    loop.now += 1
    spend(budget, int(RATE) - 1)
    with pytest.raises(ConnectionFault):
        spend(budget, 2)


def test_a_budget_forgives_no_more_than_a_burst(loop):
    budget = Budget(loop, LIMITS)
    spend(budget, BURST)
    loop.now += 1e6
    spend(budget, BURST)
    with pytest.raises(ConnectionFault):
        spend(budget, 2)


def test_a_price(loop):
    budget = Budget(loop, LIMITS)
    spend(budget, BURST * 2, 0.5)
    with pytest.raises(ConnectionFault):
        budget.spend(0.5)


def test_pings_that_come_too_often(loop):
    budget = Budget(loop, LIMITS)
    for _ in range(100):
        budget.ping()
        loop.now += 9
    for _ in range(STRIKES):
        budget.ping()
        budget.ping()
        budget.sent()
    for _ in range(STRIKES):
        budget.ping()
    with pytest.raises(ConnectionFault, match="too_many_pings"):
        budget.ping()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def lifetime(loop, told):
    return Lifetime(
        loop,
        LIMITS,
        ping=lambda: told.append(f"ping {loop.now}"),
        go_away=lambda: told.append("go away"),
        abort=lambda: told.append(f"abort {loop.now}"),
    )


def test_who_does_not_greet(loop, lifetime, told):
    loop.move_to(104.9)
    assert told == []
    loop.move_to(105)
    assert told == ["abort 105.0"]


def test_who_falls_silent(loop, lifetime, told):
    lifetime.greeted()
    loop.now = lifetime.heard_at = 120.0
    loop.move_to(1_000)
    assert told[:2] == ["ping 150.0", "abort 160.0"]


def test_who_answers(loop, lifetime, told):
    lifetime.greeted()
    for when in (131.0, 162.0, 193.0):
        loop.move_to(when)
        lifetime.heard_at = when
    assert told == ["ping 130.0", "ping 161.0", "ping 192.0"]


def test_who_grows_old(loop, lifetime, told):
    lifetime.greeted()
    for when in range(100, 1_210):
        loop.move_to(float(when))
        lifetime.heard_at = loop.now
    assert told == ["go away"]
    lifetime.leaving(lambda: told.append("refuse"))
    loop.move_to(loop.now + 9.9)
    assert told == ["go away"]
    loop.move_to(loop.now + 0.2)
    assert told == ["go away", "refuse"]


def test_a_farewell_ends_after_its_grace(loop, lifetime, told):
    lifetime.leaving(lambda: None)
    lifetime._alive.cancel()
    loop.move_to(199.9)
    assert told == []
    loop.move_to(200)
    assert told == ["abort 200.0"]


def test_who_is_closing(loop, lifetime, told):
    lifetime.leaving(lambda: told.append("refuse"))
    lifetime.closing(3)
    loop.move_to(10_000)
    assert told == ["abort 103.0"]


def test_after_the_end_nothing_happens(loop, lifetime, told):
    lifetime.greeted()
    lifetime.leaving(lambda: told.append("refuse"))
    lifetime.end()
    assert loop.waiting == 0
    loop.move_to(10_000)
    assert told == []
