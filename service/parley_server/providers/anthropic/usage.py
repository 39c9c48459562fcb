"""Merges the token counts in the `usage` objects of one answer."""

from __future__ import annotations

from collections.abc import Callable

from parley_server.core.model import Usage
from parley_server.providers.reading.events import count

_PROMPT = {
    "input_tokens": "input",
    "cache_creation_input_tokens": "written",
    "cache_read_input_tokens": "cached",
}
"""The parts of the prompt: Anthropic's input tokens exclude those that were written to the cache or read from it."""


class MessageUsage:
    """Keeps the last value of each count. Zeros of a usage without any count are ignored: some servers end with one.

    `on_ignored` is called for each implausible count.
    """

    def __init__(self, *, on_ignored: Callable[[], None]) -> None:
        self._on_ignored = on_ignored
        self._counts: dict[str, int] = {}
        self._doubtful: set[str] = set()
        self.changed = False

    def add(self, usage: object, *, at_start: bool = False) -> None:
        """Take one `usage` object; other values are ignored. `at_start`: it is that of the message's start, whose count
        of output tokens is not the final one."""
        if not isinstance(usage, dict):
            return
        empty = not any(usage.get(field) for field in _PROMPT)
        for field, name in _PROMPT.items():
            self._take(name, usage.get(field), zero=not empty)
        if at_start:
            return
        self._take("completion", usage.get("output_tokens"))
        details = usage.get("output_tokens_details")
        if isinstance(details, dict):
            self._take("reasoning", details.get("thinking_tokens"))

    def usage(self) -> Usage:
        """The usage so far. It is an estimate if a count of the input or the completion was ignored."""
        self.changed = False
        get = self._counts.get
        cached, written, completion = get("cached", 0), get("written", 0), get("completion", 0)
        return Usage(
            prompt_tokens=get("input", 0) + cached + written,
            cached_prompt_tokens=cached,
            cache_write_prompt_tokens=written,
            completion_tokens=completion,
            reasoning_tokens=min(get("reasoning", 0), completion),
            estimated=any(not get(name) for name in self._doubtful),
        )

    def _take(self, name: str, value: object, *, zero: bool = False) -> None:
        """Take a count; with `zero`, also one of 0."""
        if value is None:
            return
        counted = count(value)
        if counted is None:
            self._on_ignored()
            if name != "reasoning" and name not in self._doubtful:
                self._doubtful.add(name)
                self.changed = True
        elif (counted or zero) and self._counts.get(name, 0) != counted:
            self._counts[name] = counted
            self.changed = True
