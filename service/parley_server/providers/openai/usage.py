"""Merges the token counts of a chat completion, from anywhere in its stream, into one usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parley_server.core.model import Usage
from parley_server.providers.reading.events import count

_Fields = dict[str, Any]


class UsageMeter:
    """Takes `usage` objects of any form, and keeps the last nonzero value of each count.

    `on_ignored` is called for each implausible count.
    """

    def __init__(self, *, on_ignored: Callable[[], None]) -> None:
        self._on_ignored = on_ignored
        self._counts: dict[str, int] = {}
        self._doubtful: set[str] = set()
        self.changed = False

    @property
    def known(self) -> bool:
        """Whether anything has been counted."""
        return bool(self._counts.get("prompt") or self._counts.get("completion"))

    def add(self, usage: object) -> None:
        """Take one `usage` object. Other values, and zeros, are ignored."""
        if not isinstance(usage, dict):
            return
        prompt = _fields(usage.get("prompt_tokens_details"))
        completion = _fields(usage.get("completion_tokens_details"))
        self._take("prompt", usage.get("prompt_tokens"))
        self._take("completion", usage.get("completion_tokens"))
        self._take("total", usage.get("total_tokens"))
        self._take("reasoning", completion.get("reasoning_tokens"))
        cached = (prompt.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("cached_tokens"))
        self._take("cached", next((value for value in cached if value), None))

    def usage(self) -> Usage:
        """The usage so far. It is an estimate if a count of the prompt or the completion was ignored."""
        self.changed = False
        get = self._counts.get
        prompt, completion, reasoning = get("prompt", 0), get("completion", 0), get("reasoning", 0)
        if reasoning and get("total") == prompt + completion + reasoning:
            completion += reasoning  # xAI excludes the reasoning from the completion
        return Usage(
            prompt_tokens=prompt,
            cached_prompt_tokens=min(get("cached", 0), prompt),
            completion_tokens=completion,
            reasoning_tokens=min(reasoning, completion),
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


def _fields(value: object) -> _Fields:
    return value if isinstance(value, dict) else {}
