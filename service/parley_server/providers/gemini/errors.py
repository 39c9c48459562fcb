"""The finish reasons with which Gemini reports a failure instead of an answer."""

from __future__ import annotations

from parley_server.errors import ProviderError, ProviderMalformed, ProviderUnauthenticated
from parley_server.providers.reading.events import failure_of
from parley_server.providers.reading.failures import KeptItemsRefused

_FAILURES: dict[str, type[ProviderError]] = {
    "MISSING_THOUGHT_SIGNATURE": KeptItemsRefused,
    "PUP_LIMITED_DISABLED": ProviderUnauthenticated,  # the account is limited
    "TOO_MANY_TOOL_CALLS": ProviderMalformed,
    "UNEXPECTED_TOOL_CALL": ProviderMalformed,
}


def failure_of_word(word: str) -> type[ProviderError] | None:
    """The error that a finish reason reports; None if it is no failure."""
    return _FAILURES.get(word.upper()) or failure_of(word)


def block_word(feedback: object) -> str:
    """The reason in `promptFeedback` for which a filter refused the prompt; empty if it was not refused."""
    if not isinstance(feedback, dict):
        return ""
    reason = feedback.get("blockReason")
    if isinstance(reason, str) and reason:
        return reason
    return "BLOCKED_REASON_UNSPECIFIED" if feedback.get("blockReasonMessage") else ""
