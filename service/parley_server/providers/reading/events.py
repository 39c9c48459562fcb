"""Converts vendors' finish reasons and token counts to the engine's. Shared by all dialects."""

from __future__ import annotations

from parley_server.core.counts import MOST_TOKENS
from parley_server.core.events import utf8_prefix
from parley_server.core.model import FinishReason
from parley_server.errors import ProviderError, ProviderMalformed, ProviderTruncated, ProviderUnavailable

MAX_WORD_BYTES = 64
"""Limit of UTF-8 bytes of a vendor's finish reason that is stored and shown."""

_WORDS: dict[FinishReason, tuple[str, ...]] = {
    FinishReason.STOP: ("stop", "eos", "end_turn", "stop_sequence", "completed"),
    FinishReason.MAX_TOKENS: (
        "length",
        "max_tokens",
        "model_length",
        "max_output_tokens",
        "continuation",
        "model_context_window_exceeded",
    ),
    FinishReason.TOOL_CALLS: ("tool_calls", "function_call", "tool_use"),
    FinishReason.CONTENT_FILTER: (
        "content_filter",
        "sensitive",
        "refusal",
        "safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "model_armor",
        "image_safety",
        "image_prohibited_content",
        "image_recitation",
        "escalation",
        "language",
    ),
}
FINISH_REASONS = {word: reason for reason, words in _WORDS.items() for word in words}

_FAILURES: dict[str, type[ProviderError]] = {
    "error": ProviderUnavailable,
    "network_error": ProviderUnavailable,
    "insufficient_system_resource": ProviderUnavailable,
    "abort": ProviderTruncated,
}
_NO_WORDS = ("", "null", "none")


def word_of(value: object) -> str:
    """The vendor's finish reason in a field of any type, cut to `MAX_WORD_BYTES`; empty if there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    word = clean(str(value)).strip()
    return "" if word.lower() in _NO_WORDS else utf8_prefix(word, MAX_WORD_BYTES)


def reason_of(word: str) -> FinishReason:
    """The engine's finish reason for that of a vendor; OTHER for an unknown one."""
    return FINISH_REASONS.get(word.lower(), FinishReason.OTHER)


def failure_of(word: str) -> type[ProviderError] | None:
    """The error that a vendor's finish reason reports; None if it is no failure."""
    word = word.lower()
    return ProviderMalformed if word.startswith("malformed_") else _FAILURES.get(word)


def count(value: object) -> int | None:
    """The count of tokens in an integer, a float or decimal digits. None for anything else, and for a count outside of
    0 to `MOST_TOKENS`: an implausible count must not be stored or charged, even clamped."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(MOST_TOKENS)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS else None  # NaN fails the comparison


def clean(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
