"""Counts messages in the memory of one process."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice, takewhile

from parley_server.core.ports import Clock
from parley_server.core.rate_values import WINDOW_S, Taken


class MemoryRateLimiter:
    """Implements `RateLimiter` for the calls of this process. It keeps only windows that have members."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # The members of each window with the times of their takes, in this order. The windows are in the order of their
        # last takes, so that those without members are found at the front.
        self._windows: OrderedDict[str, dict[str, float]] = OrderedDict()

    async def take(self, key: str, member: str, limit: int) -> Taken:
        now = self._clock.monotonic()
        window = self._window(key, now)
        if member in window:
            return Taken(allowed=True, used=len(window))
        if len(window) >= limit:
            # After the limit was lowered, several members must leave before there is room.
            last_to_leave = next(islice(window.values(), len(window) - limit, None))
            return Taken(allowed=False, used=len(window), wait_s=last_to_leave + WINDOW_S - now)
        window[member] = now
        self._windows[key] = window
        self._windows.move_to_end(key)
        self._drop_empty(now)
        return Taken(allowed=True, used=len(window), fresh=True)

    async def give_back(self, key: str, member: str) -> None:
        self._windows.get(key, {}).pop(member, None)

    async def look(self, key: str) -> int:
        return len(self._window(key, self._clock.monotonic()))

    def _window(self, key: str, now: float) -> dict[str, float]:
        """The window without members that have left it; a new one is not kept yet."""
        window = self._windows.get(key, {})
        for member in [each for each, _ in takewhile(lambda item: item[1] <= now - WINDOW_S, window.items())]:
            del window[member]
        return window

    def _drop_empty(self, now: float) -> None:
        while self._windows:
            window = next(iter(self._windows.values()))
            if window and next(reversed(window.values())) > now - WINDOW_S:
                return
            self._windows.popitem(last=False)
