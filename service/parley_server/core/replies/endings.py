"""Decides how a reply ends and what is stored. Pure functions, shared by generation and recovery."""

from __future__ import annotations

import msgspec

from parley_server.core.content import Answer
from parley_server.core.cost import estimate_tokens
from parley_server.core.model import (
    FinishReason,
    Message,
    Part,
    ReasoningPart,
    Reply,
    ReplyError,
    Role,
    State,
    TextPart,
    ToolCallPart,
    Usage,
    Value,
)
from parley_server.errors import InternalError, OwnerLost, ProviderTimeout


class Cancel(Value, frozen=True, kw_only=True):
    """Why the engine ends a generation before its provider does: a request, a limit, or a shutdown.

    `finish` None: the process gives the reply up (OWNER_LOST)."""

    finish: FinishReason | None
    reason: str = ""


class Ending(Value, frozen=True, kw_only=True):
    """How a generation ended. `billed`: the provider may have charged for it, although it reported no usage."""

    state: State
    finish: FinishReason | None = None
    provider_reason: str = ""
    cancel_reason: str = ""
    error: ReplyError | None = None
    billed: bool = True


def ending_of_cancel(cancel: Cancel, *, started: bool) -> Ending:
    """The ending of a cancelled reply; `started`: it has shown its first token."""
    if cancel.finish is None:
        lost = OwnerLost("the server stopped before the reply was complete; the text so far is kept")
        return Ending(state=State.FAILED, error=ReplyError.of(lost))
    if cancel.finish is FinishReason.TIME_LIMIT and not started:
        late = ProviderTimeout("the provider sent nothing within the reply's time limit")
        return Ending(state=State.FAILED, error=ReplyError.of(late))
    if cancel.finish in (FinishReason.TIME_LIMIT, FinishReason.MAX_TOKENS):
        return Ending(state=State.COMPLETED, finish=cancel.finish)
    return Ending(state=State.CANCELLED, finish=cancel.finish, cancel_reason=cancel.reason)


def internal_error(call_id: str) -> ReplyError:
    """The error of a defect of this service. The details are in the log, under `call_id`."""
    return ReplyError.of(InternalError("internal error", metadata={"call_id": call_id}))


def answer_message(reply: Reply, parts: tuple[Part, ...], state: State, now_us: int) -> Message:
    """The message with the answer; partial unless the reply is COMPLETED."""
    return Message(
        id=reply.message_id,
        role=Role.ASSISTANT,
        parts=parts,
        parent_id=reply.parent_message_id,
        reply_id=reply.id,
        partial=state is not State.COMPLETED,
        failed=state is State.FAILED,
        create_time_us=now_us,
    )


def estimated_usage(prompt_tokens: int, answer: Answer) -> Usage:
    """An estimate of what the provider has counted; `prompt_tokens` is the estimate of the prompt."""
    reasoning = sum(estimate_tokens(part.text) for part in answer.parts if isinstance(part, ReasoningPart))
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=sum(_tokens(part) for part in answer.parts),
        reasoning_tokens=reasoning,
        estimated=True,
    )


def completed_usage(counted: Usage | None, prompt_tokens: int, answer: Answer) -> Usage:
    """The provider's count, with estimates for a missing count of the prompt or of content that was received."""
    if counted is None:
        return estimated_usage(prompt_tokens, answer)
    if counted.prompt_tokens and (counted.completion_tokens or not answer.parts):
        return counted
    estimate = estimated_usage(prompt_tokens, answer)
    known = bool(counted.completion_tokens)
    completed = msgspec.structs.replace(
        counted,
        prompt_tokens=counted.prompt_tokens or estimate.prompt_tokens,
        completion_tokens=counted.completion_tokens if known else estimate.completion_tokens,
        reasoning_tokens=counted.reasoning_tokens if known else estimate.reasoning_tokens,
    )
    return completed if completed == counted else msgspec.structs.replace(completed, estimated=True)


def _tokens(part: Part) -> int:
    if isinstance(part, TextPart | ReasoningPart):
        return estimate_tokens(part.text)
    assert isinstance(part, ToolCallPart)
    return estimate_tokens(part.name) + estimate_tokens(part.arguments)
