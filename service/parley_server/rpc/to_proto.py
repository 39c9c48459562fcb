"""Converts the core's values to messages of the contract."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from parley.v1 import admin_pb2, chat_pb2, resources_pb2

from parley_server.core.counts import INT64_MAX, clamped, holdable_usage
from parley_server.core.events import (
    Chunk,
    Entry,
    Failed,
    Finished,
    ReasoningDelta,
    Snapshot,
    TextDelta,
    ToolCallDelta,
    UsageUpdate,
)
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    FinishReason,
    ImagePart,
    Message,
    Model,
    Overflow,
    Part,
    ReasoningPart,
    Reply,
    TextPart,
    ToolCallPart,
    Usage,
)
from parley_server.core.quota_values import QuotaState
from parley_server.core.store_types import StoredKey
from parley_server.rpc.status import error_message

_OVERFLOWS = {
    Overflow.DROP_OLDEST: resources_pb2.ContextPolicy.OVERFLOW_UNSPECIFIED,  # the default is not shown
    Overflow.SUMMARIZE: resources_pb2.ContextPolicy.OVERFLOW_SUMMARIZE,
}


def token_chunk(chunk: Chunk) -> chat_pb2.TokenChunk:
    """A chunk of a log."""
    entry = chunk.entry
    # Text is tested first, because nearly all chunks are text. This runs for each token and each reader.
    if isinstance(entry, TextDelta):
        return chat_pb2.TokenChunk(sequence=chunk.sequence, text=entry.text)
    return _other_chunk(chunk.sequence, entry)


def accepted(reply: Reply, *, position: int, replayed: bool, quota: QuotaState | None = None) -> chat_pb2.TokenChunk:
    """The first chunk of every stream."""
    return chat_pb2.TokenChunk(
        reply_id=reply.id,
        sequence=position,
        accepted=chat_pb2.Accepted(
            conversation_id=reply.conversation_id,
            input_message_ids=reply.input_message_ids,
            message_id=reply.message_id,
            model=reply.requested_model or reply.model,
            replayed=replayed,
            quota=None if quota is None else quota_message(quota),
            ignored_settings=reply.ignored_settings,
        ),
    )


def quota_message(state: QuotaState) -> resources_pb2.Quota:
    """A limit and its use."""
    presented = resources_pb2.Quota(name=state.name, limit=state.limit, used=clamped(state.used, INT64_MAX))
    _set_time(presented.reset_time, state.reset_time_us)
    return presented


def provider_key(stored: StoredKey) -> admin_pb2.ProviderKey:
    """A stored key without the key itself."""
    presented = admin_pb2.ProviderKey(provider=stored.provider, tenant=stored.tenant, hint=stored.hint)
    _set_time(presented.update_time, stored.update_time_us)
    return presented


def reply_message(reply: Reply) -> resources_pb2.Reply:
    """A reply."""
    presented = resources_pb2.Reply(
        id=reply.id,
        conversation_id=reply.conversation_id,
        request_id=reply.request_id,
        state=resources_pb2.Reply.State.Value(f"STATE_{reply.state}"),
        finish_reason=finish_reason(reply.finish_reason),
        model=reply.model,
        provider=reply.provider,
        last_sequence=reply.last_sequence,
        cancel_reason=reply.cancel_reason,
        labels=reply.labels,
        ignored_settings=reply.ignored_settings,
        message_id=reply.message_id,
        parent_message_id=reply.parent_message_id,
    )
    if reply.message is not None:
        presented.message.CopyFrom(message(reply.message))
    if reply.usage is not None:
        presented.usage.CopyFrom(usage_message(reply.usage))
    if reply.error is not None:
        presented.error.CopyFrom(error_message(reply.error))
    _set_time(presented.create_time, reply.create_time_us)
    _set_time(presented.first_token_time, reply.first_token_time_us)
    _set_time(presented.end_time, reply.end_time_us)
    return presented


def message(given: Message) -> resources_pb2.Message:
    """A message of a conversation."""
    presented = resources_pb2.Message(
        id=given.id,
        role=resources_pb2.Role.Value(f"ROLE_{given.role}"),
        parts=[_part(part) for part in given.parts],
        parent_id=given.parent_id,
        reply_id=given.reply_id,
        partial=given.partial,
    )
    _set_time(presented.create_time, given.create_time_us)
    return presented


def conversation(given: Conversation) -> resources_pb2.Conversation:
    """A conversation."""
    presented = resources_pb2.Conversation(
        id=given.id,
        title=given.title,
        system=given.system,
        post_system=given.post_system,
        model=given.model,
        labels=given.labels,
        head_message_id=given.head_message_id,
        active_reply_id=given.active_reply_id,
        etag=given.etag,
        end_user=given.end_user,
    )
    if given.context != ContextPolicy():
        presented.context.CopyFrom(_context(given.context))
    _set_time(presented.create_time, given.create_time_us)
    _set_time(presented.update_time, given.update_time_us)
    return presented


def _context(given: ContextPolicy) -> resources_pb2.ContextPolicy:
    return resources_pb2.ContextPolicy(
        max_messages=given.max_messages,
        max_tokens=given.max_tokens,
        overflow=_OVERFLOWS[given.overflow],
        reminder=given.reminder,
        reminder_interval=given.reminder_interval,
    )


def image(given: ImagePart) -> resources_pb2.Image:
    """An image with its bytes, or else with its id or URL."""
    presented = resources_pb2.Image(mime_type=given.mime_type, size_bytes=given.size_bytes)
    if given.data:
        presented.data = given.data
    elif given.image_id:
        presented.image_id = given.image_id
    else:
        presented.url = given.url
    return presented


def model(given: Model) -> resources_pb2.Model:
    """An entry of the catalog."""
    presented = resources_pb2.Model(
        alias=given.alias,
        provider=given.provider,
        provider_model=given.name,
        context_tokens=given.context_tokens,
        max_output_tokens=given.max_output_tokens,
        images=given.images,
        tools=given.tools,
        prompt_nano_usd_per_million=given.prices.prompt,
        cached_prompt_nano_usd_per_million=given.prices.cached_prompt,
        completion_nano_usd_per_million=given.prices.completion,
        fallback_models=given.fallback,
        is_default=given.is_default,
        reasoning=given.reasoning,
        json_schema=given.json_schema,
        reasoning_efforts=given.efforts,
        sampling=given.sampling,
        cache_write_nano_usd_per_million=given.prices.cache_write,
    )
    _set_time(presented.retire_time, given.retire_time_us)
    return presented


def finish_reason(reason: FinishReason | None) -> resources_pb2.FinishReason.ValueType:
    """A finish reason; UNSPECIFIED for None."""
    if reason is None:
        return resources_pb2.FINISH_REASON_UNSPECIFIED
    return resources_pb2.FinishReason.Value(f"FINISH_REASON_{reason}")


def usage_message(usage: Usage) -> resources_pb2.Usage:
    """Tokens and cost, clamped to the range of the contract, because older releases stored unchecked counts."""
    usage = holdable_usage(usage)
    return resources_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        cache_write_prompt_tokens=usage.cache_write_prompt_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nano_usd=usage.cost_nano_usd,
        estimated=usage.estimated,
    )


def time_message(time_us: int) -> Timestamp:
    """A point in time."""
    return Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1000)


def _other_chunk(sequence: int, entry: Entry) -> chat_pb2.TokenChunk:
    chunk = chat_pb2.TokenChunk(sequence=sequence)
    if isinstance(entry, ReasoningDelta):
        chunk.reasoning.text = entry.text
        chunk.reasoning.signature = entry.signature
    elif isinstance(entry, ToolCallDelta):
        chunk.tool_call.CopyFrom(
            chat_pb2.ToolCallDelta(index=clamped(entry.index), id=entry.id, name=entry.name, arguments=entry.arguments)
        )
    elif isinstance(entry, UsageUpdate):
        chunk.usage.CopyFrom(usage_message(entry.usage))
    elif isinstance(entry, Snapshot):
        chunk.snapshot.CopyFrom(reply_message(entry.reply))
    elif isinstance(entry, Finished):
        chunk.finished.CopyFrom(_finished(entry))
    elif isinstance(entry, Failed):
        chunk.failed.CopyFrom(_failed(entry))
    return chunk


def _finished(entry: Finished) -> chat_pb2.Finished:
    return chat_pb2.Finished(
        reason=finish_reason(entry.reason),
        provider_reason=entry.provider_reason,
        usage=usage_message(entry.usage),
        model=entry.model,
        cancel_reason=entry.cancel_reason,
        provider=entry.provider,
    )


def _failed(entry: Failed) -> chat_pb2.Failed:
    return chat_pb2.Failed(
        error=error_message(entry.error),
        usage=usage_message(entry.usage),
        model=entry.model,
        provider=entry.provider,
    )


def _part(part: Part) -> resources_pb2.Part:
    if isinstance(part, TextPart):
        return resources_pb2.Part(text=part.text)
    if isinstance(part, ImagePart):
        return resources_pb2.Part(image=image(part))
    if isinstance(part, ToolCallPart):
        call = resources_pb2.ToolCall(id=part.id, name=part.name, arguments=part.arguments)
        return resources_pb2.Part(tool_call=call)
    if isinstance(part, ReasoningPart):
        return resources_pb2.Part(reasoning=resources_pb2.Reasoning(text=part.text, signature=part.signature))
    result = resources_pb2.ToolResult(tool_call_id=part.tool_call_id, content=part.content)
    return resources_pb2.Part(tool_result=result)


def _set_time(field: Timestamp, time_us: int) -> None:
    if time_us:  # 0 means that it has not happened, which is an absent field in the contract
        field.CopyFrom(time_message(time_us))
