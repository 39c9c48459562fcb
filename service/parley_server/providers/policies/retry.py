"""Which failures allow another try: the rules for each class, the waits between tries, and the budget for retries."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from parley_server.errors import Failure

MAX_RETRIES = 10
FIRST_WAIT_S = 1.0
JITTER = 0.25
MAX_WAIT_BEFORE_NEXT_S = 2.0
"""A longer wait is not begun while there is another model to ask."""
MIN_LEFT_S = 1.0
"""A wait is not begun if it leaves less time than this for the try after it."""
CREDIT_COOL_DOWN_S = 60.0


class Rule(NamedTuple):
    """What a class of failures before the first token allows.

    retries: how often the same model may be asked again because of it. next_model: whether another model may be asked.
    breaker: whether it counts as a failure of the provider. misconfigured: an operator must act."""

    retries: int
    next_model: bool
    breaker: bool = False
    misconfigured: bool = False


RULES = {
    Failure.UNAVAILABLE: Rule(MAX_RETRIES, next_model=True, breaker=True),
    Failure.RATE: Rule(MAX_RETRIES, next_model=True),
    Failure.CREDIT: Rule(0, next_model=True),
    Failure.SILENCE: Rule(MAX_RETRIES, next_model=True, breaker=True),
    Failure.NONSENSE: Rule(1, next_model=True, breaker=True),
    Failure.KEY: Rule(0, next_model=True, misconfigured=True),
    Failure.NO_MODEL: Rule(0, next_model=True, misconfigured=True),
    Failure.REJECTED: Rule(0, next_model=False),  # another model would hide the fault of the request
    Failure.KEPT_ITEMS: Rule(0, next_model=False),
    Failure.TOO_LONG: Rule(0, next_model=True),
}


def wait_s(retries: int, *, asked_s: float | None, random: Callable[[], float]) -> float:
    """Seconds to wait after a failure, where `retries` were made before: 1, 2, 4, ... with 25 % of jitter, or the wait
    that the provider has asked for, if that is longer. `random` returns a number from 0 to 1."""
    backoff_s: float = FIRST_WAIT_S * 2**retries * (1 - JITTER + 2 * JITTER * random())
    return max(backoff_s, asked_s or 0.0)


class RetryBudget:
    """Limits the retries at one provider: each first try adds a tenth of a retry, up to 10 retries. So an outage costs
    the provider at most 1.1 times its usual load, and 10 requests."""

    FULL = 100
    RETRY = 10

    def __init__(self) -> None:
        self._tenths = self.FULL

    def first_try(self) -> None:
        """A model is asked for a reply for the first time."""
        self._tenths = min(self._tenths + 1, self.FULL)

    def take(self) -> bool:
        """Take one retry out of the budget, if there is one."""
        if self._tenths < self.RETRY:
            return False
        self._tenths -= self.RETRY
        return True
