"""The right of this process to write its replies: held until a moment of its own clock, some time before others may
take the replies over. Where there is one process alone, for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable


class Lease:
    """`held` until `until`, without a break since `since`, by a clock that runs on while the machine sleeps and that no
    correction moves."""

    __slots__ = ("_now", "since", "until")

    def __init__(self, now: Callable[[], float], until: float = -math.inf) -> None:
        self._now = now
        self.until = until
        self.since = -math.inf

    @property
    def held(self) -> bool:
        """Whether nobody else can have taken the replies over by now. Asked before all that readers are to see."""
        return self.until == math.inf or self._now() < self.until

    @property
    def left_s(self) -> float | None:
        """For how many seconds it is still held, 0 if it is not; None: for ever."""
        return None if self.until == math.inf else max(0.0, self.until - self._now())


FOR_EVER = Lease(lambda: 0.0, math.inf)
NEVER = Lease(lambda: 0.0)
