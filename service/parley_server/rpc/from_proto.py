"""Converts messages of the contract to the core's values. Raises `InvalidRequest` with the field for invalid ones."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from parley.v1 import chat_pb2, conversations_pb2, resources_pb2

from parley_server.core.conversations.service import Creation
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    ImagePart,
    Message,
    Overflow,
    Part,
    ReasoningPart,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.requests import ReplyPayload
from parley_server.core.store_types import CancelTarget, ConversationUpdate, MessageFilter, Position
from parley_server.errors import InvalidRequest

DEFAULT_POLL_S = 20.0
MAX_POLL_S = 60.0
# Tokens come in quick succession, so this short wait saves a polling client many calls.
DEFAULT_GATHER_S = 0.2

_ROLES = {
    resources_pb2.ROLE_USER: Role.USER,
    resources_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    resources_pb2.ROLE_TOOL: Role.TOOL,
}
_CONTEXT = ("max_messages", "max_tokens", "overflow", "reminder", "reminder_interval")
_MASKABLE = frozenset(
    {"title", "system", "post_system", "model", "context", "labels", "head_message_id"}
    | {f"context.{name}" for name in _CONTEXT}
)
_OVERFLOWS = {
    resources_pb2.ContextPolicy.OVERFLOW_UNSPECIFIED: Overflow.DROP_OLDEST,
    resources_pb2.ContextPolicy.OVERFLOW_DROP_OLDEST: Overflow.DROP_OLDEST,
    resources_pb2.ContextPolicy.OVERFLOW_SUMMARIZE: Overflow.SUMMARIZE,
}
_POLICIES = {
    chat_pb2.CONCURRENCY_POLICY_UNSPECIFIED: False,
    chat_pb2.CONCURRENCY_POLICY_REJECT: False,
    chat_pb2.CONCURRENCY_POLICY_INTERRUPT: True,
}
_DISCONNECTS = {
    chat_pb2.DISCONNECT_POLICY_UNSPECIFIED: False,
    chat_pb2.DISCONNECT_POLICY_CONTINUE: False,
    chat_pb2.DISCONNECT_POLICY_CANCEL: True,
}


def payload(request: chat_pb2.ReplyRequest) -> ReplyPayload:
    """The payload of a request to create or stream a reply."""
    if request.text and request.input:
        raise InvalidRequest.field("text", "must not be set together with input")
    # An enum field can have a number that only a newer release defines. Treated as the default, it would be ignored
    # silently.
    if request.concurrency not in _POLICIES:
        raise InvalidRequest.field("concurrency", "is not a policy of this server")
    if request.on_disconnect not in _DISCONNECTS:
        raise InvalidRequest.field("on_disconnect", "is not a policy of this server")
    return ReplyPayload(
        conversation_id=request.conversation_id,
        new_conversation=conversation(request.new_conversation, "new_conversation")
        if request.HasField("new_conversation")
        else None,
        messages=_input(request),
        position=Position(after=request.after_message_id, replace=request.replace_message_id),
        model=request.model,
        fallback_models=tuple(request.fallback_models),
        system=tuple(request.system),
        sampling=_sampling(request.sampling),
        tools=tuple(
            Tool(name=tool.name, description=tool.description, parameters=tool.parameters) for tool in request.tools
        ),
        tool_choice=request.tool_choice,
        json_schema=request.json_schema,
        interrupt=_POLICIES[request.concurrency],
        cancel_on_disconnect=_DISCONNECTS[request.on_disconnect],
        orphan_ttl_s=seconds(request.orphan_ttl, "orphan_ttl") if request.HasField("orphan_ttl") else None,
        time_limit_s=seconds(request.time_limit, "time_limit") if request.HasField("time_limit") else None,
        labels=dict(request.labels),
    )


def conversation(given: resources_pb2.Conversation, path: str) -> Conversation:
    """The fields of a conversation that a caller sets on creation. Fields that the server sets are ignored."""
    # The others are ignored, so that a conversation that was read can be sent back as a copy. But a head would name a
    # message of the original.
    if given.head_message_id:
        raise InvalidRequest.field(f"{path}.head_message_id", "must not be set on creation")
    return Conversation(
        id=given.id,
        title=given.title,
        system=tuple(given.system),
        post_system=given.post_system,
        model=given.model,
        context=_context(given.context, f"{path}.context"),
        labels=dict(given.labels),
    )


def creation(request: conversations_pb2.CreateConversationRequest) -> Creation:
    """A conversation to create, with its first messages."""
    return Creation(
        conversation=conversation(request.conversation, "conversation"),
        messages=messages(request.messages, "messages"),
    )


def conversation_update(request: conversations_pb2.UpdateConversationRequest) -> ConversationUpdate:
    """The changes of the fields in the mask; without a mask, of the fields that are set."""
    given = request.conversation
    if not given.id:
        raise InvalidRequest.field("conversation.id", "must not be empty")
    # Without a mask, an empty field looks like one that was not set. So only a mask can clear a field.
    paths = set(request.update_mask.paths) or {field.name for field, _ in given.ListFields()} & _MASKABLE
    if unknown := sorted(paths - _MASKABLE):
        raise InvalidRequest.field("update_mask", f"{unknown[0][:64]!r} is not a field that can be updated")
    context = _context(given.context, "conversation.context")
    return ConversationUpdate(
        conversation_id=given.id,
        etag=given.etag,
        title=given.title if "title" in paths else None,
        system=tuple(given.system) if "system" in paths else None,
        post_system=given.post_system if "post_system" in paths else None,
        model=given.model if "model" in paths else None,
        **{name: getattr(context, name) for name in _CONTEXT if paths & {"context", f"context.{name}"}},
        labels=dict(given.labels) if "labels" in paths else None,
        head_message_id=given.head_message_id if "head_message_id" in paths else None,
    )


def message_filter(request: conversations_pb2.ListMessagesRequest) -> MessageFilter:
    """The selection of messages to list."""
    return MessageFilter(
        conversation_id=request.conversation_id,
        leaf="" if request.all_branches else request.leaf_message_id,
        all_branches=request.all_branches,
    )


def messages(given: Iterable[resources_pb2.Message], path: str) -> tuple[Message, ...]:
    """Messages of a caller. Their ids and times are ignored, because the server sets them."""
    return tuple(_message(message, f"{path}[{i}]") for i, message in enumerate(given))


def cancel_target(request: chat_pb2.CancelRequest) -> CancelTarget:
    """The reply to cancel."""
    return CancelTarget(
        reply_id=request.reply_id, request_id=request.request_id, conversation_id=request.conversation_id
    )


def heartbeat_s(options: chat_pb2.StreamOptions, default_s: float) -> float:
    """Seconds of silence after which a stream sends a heartbeat."""
    if not options.HasField("heartbeat"):
        return default_s
    value = seconds(options.heartbeat, "stream_options.heartbeat")
    if not 1 <= value <= 60:
        raise InvalidRequest.field("stream_options.heartbeat", "must be from 1 s to 60 s")
    return value


def wait_s(request: chat_pb2.PollReplyRequest) -> float:
    """Seconds that a poll waits for the first new chunk."""
    return _poll_s(request.wait, "wait") if request.HasField("wait") else DEFAULT_POLL_S


def gather_s(request: chat_pb2.PollReplyRequest) -> float:
    """Seconds that a poll collects further chunks after the first."""
    return _poll_s(request.gather, "gather") if request.HasField("gather") else DEFAULT_GATHER_S


def seconds(duration: Duration, path: str) -> float:
    """A duration in seconds. Raises `InvalidRequest` for a negative one."""
    if duration.seconds < 0 or duration.nanos < 0:
        raise InvalidRequest.field(path, "must not be negative")
    return float(duration.seconds) + duration.nanos / 1e9


def _poll_s(duration: Duration, path: str) -> float:
    value = seconds(duration, path)
    if value > MAX_POLL_S:
        raise InvalidRequest.field(path, f"must be from 0 to {MAX_POLL_S:g} s")
    return value


def _input(request: chat_pb2.ReplyRequest) -> tuple[Message, ...]:
    if request.text:
        return (Message(role=Role.USER, parts=(TextPart(text=request.text),)),)
    return messages(request.input, "input")


def _message(given: resources_pb2.Message, path: str) -> Message:
    role = _ROLES.get(given.role)
    if role is None:
        raise InvalidRequest.field(f"{path}.role", "must be USER, ASSISTANT or TOOL")
    return Message(role=role, parts=tuple(_part(part, f"{path}.parts[{i}]") for i, part in enumerate(given.parts)))


def _part(given: resources_pb2.Part, path: str) -> Part:
    kind = given.WhichOneof("content")
    if kind == "text":
        return TextPart(text=given.text)
    if kind == "image":
        image = given.image
        return ImagePart(mime_type=image.mime_type, data=image.data, url=image.url, image_id=image.image_id)
    if kind == "tool_call":
        call = given.tool_call
        return ToolCallPart(id=call.id, name=call.name, arguments=call.arguments)
    if kind == "tool_result":
        return ToolResultPart(tool_call_id=given.tool_result.tool_call_id, content=given.tool_result.content)
    if kind == "reasoning":
        return ReasoningPart(text=given.reasoning.text, signature=given.reasoning.signature)
    raise InvalidRequest.field(path, "must have content")


def _sampling(given: chat_pb2.Sampling) -> Sampling:
    return Sampling(
        temperature=given.temperature if given.HasField("temperature") else None,
        top_p=given.top_p if given.HasField("top_p") else None,
        max_output_tokens=given.max_output_tokens if given.HasField("max_output_tokens") else None,
        seed=given.seed if given.HasField("seed") else None,
        stop=tuple(given.stop),
        reasoning_effort=given.reasoning_effort,
    )


def _context(given: resources_pb2.ContextPolicy, path: str) -> ContextPolicy:
    if given.overflow not in _OVERFLOWS:
        raise InvalidRequest.field(f"{path}.overflow", "is not a policy of this server")
    return ContextPolicy(
        max_messages=given.max_messages,
        max_tokens=given.max_tokens,
        overflow=_OVERFLOWS[given.overflow],
        reminder=given.reminder,
        reminder_interval=given.reminder_interval,
    )
