"""Days and calendar months in UTC, by which quotas and usage are counted: `2026-11-28` and `2026-11`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def day_of(time_us: int) -> str:
    """The day that contains this time, from year 1 to 9999."""
    return _utc(time_us).strftime("%Y-%m-%d").rjust(10, "0")


def month_of(time_us: int) -> str:
    """The month that contains this time."""
    return day_of(time_us)[:7]


def end_of(period: str) -> int:
    """The end of a day or month, in microseconds since the epoch."""
    if len(period) > len("2026-11"):
        return _us(datetime.fromisoformat(period).replace(tzinfo=UTC)) + DAY_US
    year, month = (int(part) for part in period.split("-"))
    return _us(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC))


def shown_time(time_us: int) -> str:
    """The time in ISO 8601, in whole seconds."""
    return _utc(time_us).strftime("%Y-%m-%dT%H:%M:%SZ")


def _utc(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
