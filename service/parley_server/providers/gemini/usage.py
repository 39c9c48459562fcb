"""Converts Gemini's token counts to the engine's."""

from __future__ import annotations

from collections.abc import Callable

from parley_server.core.model import Usage
from parley_server.providers.gemini.wire import Counts
from parley_server.providers.reading.events import count


def has_counts(counts: Counts) -> bool:
    """Whether anything was counted. Early chunks may only say how the request is billed."""
    return bool(counts.totalTokenCount or counts.promptTokenCount or counts.candidatesTokenCount)


def usage_of(counts: Counts, *, on_ignored: Callable[[], None]) -> Usage:
    """The usage of an answer. `on_ignored` is called for each implausible count; without it, the usage is an
    estimate."""
    prompt, for_tools, completion, thoughts = (
        _counted(value, on_ignored)
        for value in (
            counts.promptTokenCount,
            counts.toolUsePromptTokenCount,
            counts.candidatesTokenCount,
            counts.thoughtsTokenCount,
        )
    )
    cached = _counted(counts.cachedContentTokenCount, on_ignored) or 0
    whole_prompt = (prompt or 0) + (for_tools or 0)
    return Usage(
        prompt_tokens=whole_prompt,
        cached_prompt_tokens=min(cached, whole_prompt),
        completion_tokens=(completion or 0) + (thoughts or 0),
        reasoning_tokens=thoughts or 0,
        estimated=None in (prompt, for_tools, completion, thoughts),
    )


def _counted(value: object, on_ignored: Callable[[], None]) -> int | None:
    """The count in a field: 0 for a missing one, None for an implausible one."""
    counted = 0 if value is None else count(value)
    if counted is None:
        on_ignored()
    return counted
