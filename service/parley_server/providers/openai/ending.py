"""Decides how an answer has ended, once its body has: complete, cut off, or without sense."""

from __future__ import annotations

from parley_server.core.model import Finish, FinishReason, Value
from parley_server.errors import ProviderError, ProviderMalformed, ProviderTruncated
from parley_server.providers.openai.content import ContentAssembler
from parley_server.providers.reading.events import reason_of

DONE = "[DONE]"
"""The event that ends a stream; also the `provider_reason` of an answer that ended with it alone."""

_OPEN_REASONS = (FinishReason.STOP, FinishReason.OTHER, FinishReason.TOOL_CALLS)
"""Reasons that leave no tool call incomplete."""


class Evidence(Value, frozen=True, kw_only=True):
    """What the stream has shown of its end.

    word: the last finish word, empty for none.
    completed: the word, or what stands for it, completes the answer.
    odd: something came that is in no form that is read.
    unread: a first choice held something that may be content, in a field that is not read.
    """

    word: str
    completed: bool
    odd: bool
    unread: bool


def finish_of(provider: str, content: ContentAssembler, evidence: Evidence) -> Finish:
    """The finish of an answer whose calls are pushed to their end. Raises a `ProviderError` for an answer that is not
    complete, or in which nothing was understood."""
    if not evidence.completed:
        raise _incomplete(provider, content, evidence)
    reason = reason_of(evidence.word) if evidence.word else FinishReason.STOP
    content.push_rest()
    content.end_calls(complete=reason in _OPEN_REASONS)
    if reason in _OPEN_REASONS:
        reason = _with_calls(provider, content, reason)
    if not content.begun and (not evidence.word or reason is FinishReason.OTHER or evidence.unread):
        raise _malformed(provider)
    return Finish(reason=reason, provider_reason=evidence.word or DONE)


def _with_calls(provider: str, content: ContentAssembler, reason: FinishReason) -> FinishReason:
    """A turn of calls is TOOL_CALLS whatever its word. Without a whole call it is an error: no turn may vanish."""
    if content.tools.whole:
        return FinishReason.TOOL_CALLS
    if reason is FinishReason.TOOL_CALLS or (content.tools.any and not content.has_text):
        raise ProviderMalformed(f"{provider} ended its answer with tool calls, none of which is whole")
    return reason


def _incomplete(provider: str, content: ContentAssembler, evidence: Evidence) -> ProviderError:
    if (evidence.odd or evidence.unread) and not evidence.word and not content.begun:
        return _malformed(provider)
    return ProviderTruncated(f"{provider} ended its answer without saying that it was complete")


def _malformed(provider: str) -> ProviderError:
    return ProviderMalformed(f"{provider} sent nothing that can be read as an answer")
