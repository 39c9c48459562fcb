"""Merges the token counts and the cost in a vendor's `usage` objects into one usage, for both of OpenAI's APIs."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from parley_server.core.model import Usage
from parley_server.providers.reading.events import count

MAX_COST_USD = 10_000
NANO_USD = 1_000_000_000
NANO_USD_PER_TICK = Decimal("0.1")
"""xAI states its cost in ticks of 10^-10 US dollars."""
MAX_TICKS = MAX_COST_USD * 10**10

_Fields = dict[str, Any]


class UsageMeter:
    """Takes `usage` objects of any form, and keeps the last nonzero value of each count.

    `on_ignored` is called for each implausible count or cost.
    """

    def __init__(self, *, on_ignored: Callable[[], None]) -> None:
        self._on_ignored = on_ignored
        self._counts: dict[str, int] = {}
        self._doubtful: set[str] = set()
        self._cost_nano_usd: int | None = None
        self.changed = False

    @property
    def known(self) -> bool:
        """Whether anything has been counted."""
        return bool(self._counts.get("prompt") or self._counts.get("completion"))

    def add(self, usage: object) -> None:
        """Take one `usage` object. Other values, and zeros, are ignored."""
        if not isinstance(usage, dict):
            return
        prompt = _first_object(usage, "prompt_tokens_details", "input_tokens_details")
        completion = _first_object(usage, "completion_tokens_details", "output_tokens_details")
        cached = (prompt.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("cached_tokens"))
        self._take("prompt", usage.get("prompt_tokens", usage.get("input_tokens")))
        self._take("completion", usage.get("completion_tokens", usage.get("output_tokens")))
        self._take("total", usage.get("total_tokens"))
        self._take("reasoning", completion.get("reasoning_tokens"))
        self._take("cached", next((value for value in cached if value), None))
        self._take("written", prompt.get("cache_write_tokens"))
        self._take_cost(usage)

    def usage(self) -> Usage:
        """The usage so far. It is an estimate if a count of the prompt or the completion was ignored."""
        self.changed = False
        get = self._counts.get
        prompt, completion, reasoning = get("prompt", 0), get("completion", 0), get("reasoning", 0)
        if reasoning and get("total") == prompt + completion + reasoning:
            completion += reasoning  # xAI excludes the reasoning from the completion
        cached = min(get("cached", 0), prompt)
        return Usage(
            prompt_tokens=prompt,
            cached_prompt_tokens=cached,
            cache_write_prompt_tokens=min(get("written", 0), prompt - cached),
            completion_tokens=completion,
            reasoning_tokens=min(reasoning, completion),
            cost_nano_usd=self._cost_nano_usd,
            estimated=any(not get(name) for name in self._doubtful),
        )

    def _take(self, name: str, value: object) -> None:
        if value is None:
            return
        counted = count(value)
        if counted is None:
            self._on_ignored()
            if name in ("prompt", "completion"):
                self._doubtful.add(name)
        elif counted and self._counts.get(name) != counted:
            self._counts[name] = counted
            self.changed = True

    def _take_cost(self, usage: _Fields) -> None:
        """Take the cost that OpenRouter states in US dollars, or xAI in ticks."""
        cost, ticks = usage.get("cost"), usage.get("cost_in_usd_ticks")
        if cost is None and ticks is None:
            return
        nano_usd = _nano_usd(ticks, NANO_USD_PER_TICK) if cost is None else _nano_usd(cost, Decimal(NANO_USD))
        if nano_usd is not None and usage.get("is_byok") is True:
            # With a key of one's own, `cost` is OpenRouter's fee, and the vendor charges the rest to that key.
            upstream = _first_object(usage, "cost_details").get("upstream_inference_cost")
            nano_usd += _nano_usd(upstream, Decimal(NANO_USD)) or 0
        if nano_usd is None:
            self._on_ignored()
        elif nano_usd != self._cost_nano_usd:
            self._cost_nano_usd = nano_usd
            self.changed = True


def _nano_usd(value: object, factor: Decimal) -> int | None:
    """The amount in billionths of a US dollar, rounded half up; None if it is no number from 0 to `MAX_COST_USD`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TICKS:
        return None  # NaN fails the comparison
    amount = Decimal(str(value)) * factor
    return int(amount.to_integral_value(ROUND_HALF_UP)) if amount <= MAX_COST_USD * NANO_USD else None


def _first_object(fields: _Fields, *names: str) -> _Fields:
    return next((value for name in names if isinstance(value := fields.get(name), dict)), {})
