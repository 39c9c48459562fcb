"""Delays of the backoff stay within their bounds, and retries end after max_elapsed_s."""

from hypothesis import given
from hypothesis import strategies as st
from parley._backoff import Backoff, Patience


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2000))
def test_each_delay_lies_between_half_and_the_whole_of_its_step(fraction, attempts):
    patience = Patience(Backoff(random=lambda: fraction, max_elapsed_s=1e9, clock=lambda: 0.0))
    patience.attempts = attempts
    whole = min(0.1 * 2.0 ** min(attempts, 64), 5.0)
    assert whole / 2 <= patience.failed() <= whole


def test_retries_end_after_max_elapsed_s_without_progress():
    now = [0.0]
    patience = Patience(Backoff(random=lambda: 1.0, max_elapsed_s=10.0, clock=lambda: now[0]))
    delays = []
    while (delay := patience.failed()) is not None:
        delays.append(delay)
        now[0] += delay
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    patience.progressed()
    assert patience.failed() == 0.1


def test_retry_after_s_is_a_lower_bound_of_the_delay():
    patience = Patience(Backoff(max_elapsed_s=10.0))
    assert patience.failed(retry_after_s=3.0) == 3.0
    assert patience.failed(retry_after_s=60.0) is None


def test_zero_max_elapsed_s_disables_retries():
    assert Patience(Backoff(max_elapsed_s=0.0)).failed() is None
