"""Decides at the end of a body whether the answer is complete, truncated or malformed."""

from __future__ import annotations

from parley_server.core.model import Finish, FinishReason, Value
from parley_server.errors import ProviderError, ProviderMalformed, ProviderTruncated
from parley_server.providers.reading.content import Content
from parley_server.providers.reading.events import reason_of
from parley_server.providers.reading.response_name import ResponseName

DONE = "[DONE]"
"""The event that ends a stream, and the `provider_reason` of an answer that has no finish reason but this event."""

_OPEN_REASONS = (FinishReason.STOP, FinishReason.OTHER, FinishReason.TOOL_CALLS)
"""Reasons with which every tool call is complete."""


class Evidence(Value, frozen=True, kw_only=True):
    """What the stream contained that decides how it ended.

    word: the last finish reason, empty if there was none.
    completed: the finish reason, or its substitute, completes the answer.
    unknown_form: the body contained data of an unknown form.
    unread: a first choice contained possible content in an unknown field.
    """

    word: str
    completed: bool
    unknown_form: bool
    unread: bool


def finish_of(provider: str, content: Content, evidence: Evidence, name: ResponseName) -> Finish:
    """Push the rest of the content and return the finish. Raises `ProviderTruncated` for an incomplete answer, and
    `ProviderMalformed` for one without readable content."""
    if not evidence.completed:
        raise _incomplete(provider, content, evidence)
    reason = reason_of(evidence.word) if evidence.word else FinishReason.STOP
    content.push_rest()
    content.end_calls(complete=reason in _OPEN_REASONS)
    if reason in _OPEN_REASONS:
        reason = _with_calls(provider, content, reason)
    if not content.begun and (not evidence.word or reason is FinishReason.OTHER or evidence.unread):
        raise _malformed(provider)
    word = evidence.word or DONE
    return Finish(reason=reason, provider_reason=word, response_id=name.id, response_model=name.model)


def _with_calls(provider: str, content: Content, reason: FinishReason) -> FinishReason:
    """The reason of an answer that may have tool calls: TOOL_CALLS if one is complete. If none is, although the answer
    consists of calls, it is an error, so that no call is lost silently."""
    if content.tools.whole:
        return FinishReason.TOOL_CALLS
    if reason is FinishReason.TOOL_CALLS or (content.tools.any and not content.has_text):
        raise ProviderMalformed(f"{provider} ended its answer without a complete tool call")
    return reason


def _incomplete(provider: str, content: Content, evidence: Evidence) -> ProviderError:
    if (evidence.unknown_form or evidence.unread) and not evidence.word and not content.begun:
        return _malformed(provider)
    return ProviderTruncated(f"{provider} ended its answer before it was complete")


def _malformed(provider: str) -> ProviderError:
    return ProviderMalformed(f"{provider} sent no readable answer")
