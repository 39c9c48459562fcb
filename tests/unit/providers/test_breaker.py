"""When a circuit breaker opens, probes and closes."""

import pytest
from parley_server.providers.policies.breaker import Breaker

from tests.clock import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def breaker(clock, changes):
    return Breaker(clock, on_change=changes.append)


def run(breaker, *successes):
    """Requests one after the other; returns how many were admitted."""
    admitted = 0
    for success in successes:
        if (permit := breaker.enter()) is not None:
            admitted += 1
            if success:
                permit.succeeded()
            else:
                permit.failed()
            permit.release()
    return admitted


@pytest.mark.parametrize(
    ("outcomes", "is_open"),
    [
        ([False] * 4, False),
        ([False] * 5, True),
        ([True] * 5 + [False] * 5, True),
        ([True] * 6 + [False] * 5, False),
        ([True] * 30 + [False] * 9, False),  # 9 of the last 20
        ([True] * 30 + [False] * 10, True),
    ],
)
def test_it_opens_at_five_failures_and_half_of_the_last_twenty(breaker, changes, outcomes, is_open):
    run(breaker, *outcomes)
    assert (breaker.is_open, changes) == (is_open, [True] if is_open else [])


async def test_outcomes_of_more_than_thirty_seconds_ago_do_not_count(breaker, clock):
    run(breaker, *[False] * 4)
    await clock.advance(30.1)
    run(breaker, False)
    assert not breaker.is_open


async def test_after_failed_probes_it_waits_twice_as_long_up_to_a_minute(breaker, clock, changes):
    run(breaker, *[False] * 5)
    for seconds in (5, 10, 20, 40, 60, 60):
        assert breaker.left_s == seconds
        await clock.advance(seconds - 0.1)
        assert run(breaker, True) == 0
        await clock.advance(0.1)
        assert run(breaker, False) == 1
    await clock.advance(60)
    assert run(breaker, True) == 1
    assert (breaker.is_open, changes) == (False, [True, False])
    run(breaker, *[False] * 5)
    assert breaker.left_s == 5


async def test_one_probe_at_a_time(breaker, clock):
    run(breaker, *[False] * 5)
    await clock.advance(5)
    probe = breaker.enter()
    assert (breaker.enter(), breaker.left_s > 0) == (None, True)
    probe.release()  # neither success nor failure, such as a cancel
    again = breaker.enter()
    again.succeeded()  # its first token: others need not wait for the end of its answer
    assert breaker.enter() is not None


async def test_a_cut_after_the_first_token_counts(breaker):
    for _ in range(5):
        permit = breaker.enter()
        permit.succeeded()
        permit.failed()
        permit.release()
    assert breaker.is_open


def test_without_a_number_of_failures_it_never_opens(clock):
    breaker = Breaker(clock, failures=None)
    assert run(breaker, *[False] * 30) == 30
