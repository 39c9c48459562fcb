"""Validates requests and conversations before anything is read from the store. Every error names the field and its
limit."""

from __future__ import annotations

import re

import msgspec

from parley_server.core.events import utf8_size
from parley_server.core.field_checks import (
    MAX_MODEL,
    MAX_TITLE,
    TOOL_NAME,
    check_json,
    check_key,
    check_labels,
    check_name,
    check_texts,
    too_large,
)
from parley_server.core.limits import Limits
from parley_server.core.message_checks import check_messages
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    Tool,
)
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.errors import InvalidRequest

KIB = 1024
MAX_SYSTEM_SECTIONS = 64
MAX_REMINDER_BYTES = 8 * KIB
MAX_FALLBACK_MODELS = 7
MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 64 * KIB
MAX_TOOLS_BYTES = 512 * KIB
MAX_STOPS = 16
MAX_STOP = 256

CONVERSATION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def check_request(request: ReplyRequest, limits: Limits) -> ReplyRequest:
    """The request with the types of its images set. Raises `InvalidRequest` and its subclasses."""
    payload = request.payload
    check_key("request_id", request.request_id)
    check_key("x-end-user", request.identity.end_user)
    if payload.conversation_id and payload.new_conversation is not None:
        raise InvalidRequest.field("new_conversation", "must not be set together with conversation_id")
    _check_position(payload)
    if payload.new_conversation is not None:
        check_conversation(payload.new_conversation, "new_conversation", limits)
    if len(payload.fallback_models) > MAX_FALLBACK_MODELS:
        raise too_large("fallback_models", f"{MAX_FALLBACK_MODELS} models")
    for path, alias in (("model", payload.model), *(("fallback_models", alias) for alias in payload.fallback_models)):
        check_name(path, alias, MAX_MODEL)
    if request.background and payload.cancel_on_disconnect:
        raise InvalidRequest.field("on_disconnect", "CANCEL cannot be combined with a wait of zero")
    check_system("system", payload.system, limits)
    check_labels("labels", payload.labels)
    _check_sampling(payload)
    _check_tools(payload)
    _check_times(payload, limits)
    messages = check_messages("input", payload.messages, limits)
    return msgspec.structs.replace(request, payload=msgspec.structs.replace(payload, messages=messages))


def check_conversation(conversation: Conversation, path: str, limits: Limits) -> None:
    """Checks the fields of a conversation that a caller sets."""
    if conversation.id and not CONVERSATION_ID.fullmatch(conversation.id):
        raise InvalidRequest.field(f"{path}.id", "must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
    check_name(f"{path}.title", conversation.title, MAX_TITLE)
    check_name(f"{path}.model", conversation.model, MAX_MODEL)
    check_system(f"{path}.system", conversation.system, limits)
    check_texts(f"{path}.post_system", (conversation.post_system,), limits)
    check_labels(f"{path}.labels", conversation.labels)
    check_context(f"{path}.context", conversation.context)


def check_context(path: str, policy: ContextPolicy) -> None:
    """Checks the numbers and the reminder of a context policy."""
    for name in ("max_messages", "max_tokens", "reminder_interval"):
        if getattr(policy, name) < 0:
            raise InvalidRequest.field(f"{path}.{name}", "must not be negative")
    if utf8_size(policy.reminder) > MAX_REMINDER_BYTES:
        raise too_large(f"{path}.reminder", f"{MAX_REMINDER_BYTES} bytes of text")
    if "\x00" in policy.reminder:
        raise InvalidRequest.field(f"{path}.reminder", "must not contain a NUL character")


def check_system(path: str, sections: tuple[str, ...], limits: Limits) -> None:
    """Checks the sections of a system prompt."""
    if len(sections) > MAX_SYSTEM_SECTIONS:
        raise too_large(path, f"{MAX_SYSTEM_SECTIONS} sections")
    check_texts(path, sections, limits)


def _check_position(payload: ReplyPayload) -> None:
    position = payload.position
    if (position.after or position.replace) and not payload.conversation_id:
        raise InvalidRequest.field("position", "needs a conversation_id")
    if not payload.messages and not position.replace:
        raise InvalidRequest.field("input", "must not be empty without replace_message_id")


def _check_sampling(payload: ReplyPayload) -> None:
    sampling = payload.sampling
    if sampling.temperature is not None and not 0 <= sampling.temperature <= 2:
        raise InvalidRequest.field("sampling.temperature", "must be from 0 to 2")
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise InvalidRequest.field("sampling.top_p", "must be above 0 and at most 1")
    if sampling.max_output_tokens is not None and sampling.max_output_tokens < 1:
        raise InvalidRequest.field("sampling.max_output_tokens", "must be at least 1")
    if len(sampling.stop) > MAX_STOPS:
        raise too_large("sampling.stop", f"{MAX_STOPS} texts")
    if any(len(stop) > MAX_STOP for stop in sampling.stop):
        raise too_large("sampling.stop", f"{MAX_STOP} characters in a text")
    if any(not stop for stop in sampling.stop):
        raise InvalidRequest.field("sampling.stop", "must not hold an empty text")


def _check_tools(payload: ReplyPayload) -> None:
    if len(payload.tools) > MAX_TOOLS:
        raise too_large("tools", f"{MAX_TOOLS} tools")
    if sum(utf8_size(text) for tool in payload.tools for text in _texts_of_tool(tool)) > MAX_TOOLS_BYTES:
        raise too_large("tools", f"{MAX_TOOLS_BYTES} bytes of text")
    names = [tool.name for tool in payload.tools]
    for i, tool in enumerate(payload.tools):
        _check_tool(tool, f"tools[{i}]")
    if len(set(names)) != len(names):
        raise InvalidRequest.field("tools", "must not hold two functions of one name")
    if payload.tool_choice not in ("", "auto", "none", "required", *names):
        raise InvalidRequest.field("tool_choice", "must be auto, none, required or the name of a tool")
    if payload.tool_choice not in ("", "auto", "none") and not names:
        raise InvalidRequest.field("tool_choice", "needs tools")
    _check_schema("json_schema", payload.json_schema)


def _check_tool(tool: Tool, path: str) -> None:
    if not TOOL_NAME.fullmatch(tool.name):
        raise InvalidRequest.field(f"{path}.name", "must be 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-'")
    _check_schema(f"{path}.parameters", tool.parameters)


def _check_schema(path: str, text: str) -> None:
    if utf8_size(text) > MAX_SCHEMA_BYTES:
        raise too_large(path, f"{MAX_SCHEMA_BYTES} bytes of text")
    check_json(path, text)


def _texts_of_tool(tool: Tool) -> tuple[str, ...]:
    return tool.name, tool.description, tool.parameters


def _check_times(payload: ReplyPayload, limits: Limits) -> None:
    if payload.orphan_ttl_s is not None and payload.orphan_ttl_s < 0:
        raise InvalidRequest.field("orphan_ttl", "must not be negative")
    if payload.time_limit_s is not None and not 0 < payload.time_limit_s <= limits.time_limit_s:
        raise InvalidRequest.field("time_limit", f"must be above 0 and at most {limits.time_limit_s:g} s")
