"""The loop monitor, with a scripted clock and CPU time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from parley_server.core.ports import Timer
from parley_server.telemetry.loop import SAMPLE_INTERVAL_S, WEIGHT_OF_NEWEST, LoopMonitor
from parley_server.telemetry.metrics import Metrics


class ScriptedClock:
    """Each sleep takes the time and the CPU of the next sample; after the last one, it waits forever."""

    def __init__(self, *samples: tuple[float, float]) -> None:
        self._samples = list(samples)
        self._now = 100.0
        self.cpu = 5.0
        self.done = asyncio.Event()

    def now_us(self) -> int:
        return int(self._now * 1e6)

    def monotonic(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        raise NotImplementedError

    async def sleep(self, delay_s: float) -> None:
        assert delay_s == SAMPLE_INTERVAL_S
        if not self._samples:
            self.done.set()
            await asyncio.Event().wait()
        elapsed_s, cpu_s = self._samples.pop(0)
        self._now += elapsed_s
        self.cpu += cpu_s


async def measured(*samples: tuple[float, float]) -> tuple[LoopMonitor, Metrics]:
    metrics, clock = Metrics(), ScriptedClock(*samples)
    monitor = LoopMonitor(metrics, clock, cpu_time=lambda: clock.cpu)
    monitor.start()
    await clock.done.wait()
    await monitor.stop()
    return monitor, metrics


async def test_an_idle_loop_has_no_lag_and_no_utilisation() -> None:
    monitor, metrics = await measured((0.1, 0.0), (0.1, 0.0))
    assert monitor.utilisation == 0.0
    assert metrics.registry.get_sample_value("parley_loop_lag_seconds_sum") == pytest.approx(0.0, abs=1e-9)


async def test_tasks_are_counted() -> None:
    more = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(3)]
    _, metrics = await measured((0.1, 0.0))
    assert metrics.registry.get_sample_value("parley_loop_tasks") == 3 + len(("this one", "the monitor"))
    for each in more:
        each.cancel()


async def test_the_newest_sample_has_the_highest_weight() -> None:
    monitor, metrics = await measured((0.1, 0.1), (0.2, 0.05))
    expected = WEIGHT_OF_NEWEST + WEIGHT_OF_NEWEST * (0.25 - WEIGHT_OF_NEWEST)
    assert monitor.utilisation == pytest.approx(expected)
    assert metrics.registry.get_sample_value("parley_loop_utilisation") == pytest.approx(expected)
    assert metrics.registry.get_sample_value("parley_loop_lag_seconds_sum") == pytest.approx(0.1)


async def test_the_utilisation_of_a_saturated_loop_approaches_one() -> None:
    monitor, _ = await measured(*[(0.1, 0.2)] * 60)
    assert monitor.utilisation == pytest.approx(1.0)
    assert monitor.utilisation <= 1.0


async def lateness(*samples: float) -> bool:
    """Whether a loop is overloaded after samples with these delays."""
    monitor, _ = await measured(*[(0.1 + late_s, 0.1) for late_s in samples])
    return monitor.overloaded


@pytest.mark.parametrize("late_s", [0.15, 0.5, 2.0])
async def test_a_lasting_lag_is_an_overload(late_s) -> None:
    assert await lateness(*[late_s] * 30)


async def test_a_busy_loop_without_lag_is_no_overload() -> None:
    assert not await lateness(*[0.06] * 100)


async def test_a_single_stall_is_no_overload() -> None:
    for stall_s in (0.5, 1.0, 3.0, 60.0):
        for after in range(30):
            assert not await lateness(0.0, stall_s, *[0.0] * after)
            assert not await lateness(0.0, stall_s, *[0.03] * after)


async def test_two_stalls_in_a_row_are_no_overload() -> None:
    for between in range(4):
        for after in range(30):
            assert not await lateness(0.0, 3.0, *[0.0] * between, 3.0, *[0.0] * after)


async def test_a_burst_of_less_than_a_second_is_no_overload() -> None:
    assert not await lateness(0.3, 0.3, 0.2, *[0.0] * 20)


async def test_an_overload_ends_when_the_lag_falls() -> None:
    busy = [0.3] * 20
    assert await lateness(*busy, 0.0)
    assert await lateness(*busy, *[0.06] * 50)
    assert not await lateness(*busy, *[0.0] * 10)
    assert not await lateness(*busy, *[0.0] * 10, 0.3, 0.3)


async def test_stop_before_start_has_no_effect() -> None:
    await LoopMonitor(Metrics(), ScriptedClock()).stop()
