"""Validates requests before anything is read from the store. Every error names the field and its limit."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from parley_server.core.events import utf8_size
from parley_server.core.limits import Limits
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.errors import InputTooLarge, InvalidRequest

MAX_KEY = 128
MAX_LABELS = 16
MAX_LABEL = 64
MAX_TITLE = 1024
MAX_MESSAGES = 10_000
MAX_REMINDER_BYTES = 8192
MAX_FALLBACK_MODELS = 7

CONVERSATION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
MAGIC: dict[str, Callable[[bytes], bool]] = {
    "image/png": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
    "image/jpeg": lambda data: data.startswith(b"\xff\xd8\xff"),
    "image/gif": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
    "image/webp": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
}
PARTS: dict[Role, tuple[type[Part], ...]] = {
    Role.USER: (TextPart, ImagePart),
    Role.ASSISTANT: (TextPart, ImagePart, ToolCallPart, ReasoningPart),
    Role.TOOL: (ToolResultPart,),
}


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
        raise _too_large("fallback_models", f"{MAX_FALLBACK_MODELS} models")
    if request.background and payload.cancel_on_disconnect:
        raise InvalidRequest.field("on_disconnect", "CANCEL cannot be combined with a wait of zero")
    check_texts("system", payload.system, limits)
    check_labels("labels", payload.labels)
    _check_sampling(payload)
    _check_tools(payload)
    _check_times(payload, limits)
    messages = check_messages("input", payload.messages, limits)
    return msgspec.structs.replace(request, payload=msgspec.structs.replace(payload, messages=messages))


def check_key(path: str, value: str) -> None:
    """Checks an idempotency key or the id of an end user."""
    if len(value) > MAX_KEY:
        raise _too_large(path, f"{MAX_KEY} characters")
    if "\x00" in value:
        raise InvalidRequest.field(path, "must not contain a NUL character")


def check_conversation(conversation: Conversation, path: str, limits: Limits) -> None:
    """Checks the fields of a conversation that a caller sets."""
    if conversation.id and not CONVERSATION_ID.fullmatch(conversation.id):
        raise InvalidRequest.field(f"{path}.id", "must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
    if len(conversation.title) > MAX_TITLE:
        raise _too_large(f"{path}.title", f"{MAX_TITLE} characters")
    check_texts(f"{path}.title", (conversation.title,), limits)
    check_texts(f"{path}.system", conversation.system, limits)
    check_texts(f"{path}.post_system", (conversation.post_system,), limits)
    check_labels(f"{path}.labels", conversation.labels)
    check_context(f"{path}.context", conversation.context)


def check_context(path: str, policy: ContextPolicy) -> None:
    """Checks the numbers and the reminder of a context policy."""
    for name in ("max_messages", "max_tokens", "reminder_interval"):
        if getattr(policy, name) < 0:
            raise InvalidRequest.field(f"{path}.{name}", "must not be negative")
    if utf8_size(policy.reminder) > MAX_REMINDER_BYTES:
        raise _too_large(f"{path}.reminder", f"{MAX_REMINDER_BYTES} bytes of text")
    if "\x00" in policy.reminder:
        raise InvalidRequest.field(f"{path}.reminder", "must not contain a NUL character")


def check_labels(path: str, labels: dict[str, str]) -> None:
    """Checks labels: their number, lengths and characters."""
    if len(labels) > MAX_LABELS:
        raise _too_large(path, f"{MAX_LABELS} labels")
    for key, value in labels.items():
        if not key:
            raise InvalidRequest.field(path, "a label's key must not be empty")
        if len(key) > MAX_LABEL or len(value) > MAX_LABEL:
            raise _too_large(path, f"{MAX_LABEL} characters on each side of a label")
        if "\x00" in key or "\x00" in value:
            raise InvalidRequest.field(path, "must not contain a NUL character")


def check_texts(path: str, texts: tuple[str, ...], limits: Limits) -> None:
    """Checks the total size of texts, and that none contains NUL, which PostgreSQL cannot store."""
    if sum(utf8_size(text) for text in texts) > limits.max_input_text_bytes:
        raise _too_large(path, f"{limits.max_input_text_bytes} bytes of text")
    if any("\x00" in text for text in texts):
        raise InvalidRequest.field(path, "must not contain a NUL character")


def check_messages(path: str, messages: tuple[Message, ...], limits: Limits) -> tuple[Message, ...]:
    """The messages with the types of their images set. Raises `InvalidRequest` and its subclasses."""
    if len(messages) > MAX_MESSAGES:
        raise _too_large(path, f"{MAX_MESSAGES} messages")
    images = sum(len(part.data) for message in messages for part in message.parts if isinstance(part, ImagePart))
    if images > limits.max_images_bytes:
        raise _too_large(path, f"{limits.max_images_bytes} bytes of images")
    return tuple(_checked(message, f"{path}[{i}]", limits) for i, message in enumerate(messages))


def _checked(message: Message, path: str, limits: Limits) -> Message:
    if not message.parts:
        raise InvalidRequest.field(f"{path}.parts", "must not be empty")
    allowed = PARTS[message.role]
    for i, part in enumerate(message.parts):
        if not isinstance(part, allowed):
            raise InvalidRequest.field(f"{path}.parts[{i}]", f"is of a kind that a {message.role} message cannot hold")
    check_texts(path, texts_of(message), limits)
    parts = tuple(_checked_part(part, f"{path}.parts[{i}]") for i, part in enumerate(message.parts))
    return msgspec.structs.replace(message, parts=parts)


def _checked_part(part: Part, path: str) -> Part:
    if isinstance(part, ImagePart):
        return _checked_image(part, path)
    if isinstance(part, ToolCallPart):
        if not part.id or not TOOL_NAME.fullmatch(part.name):
            raise InvalidRequest.field(f"{path}.tool_call", "needs an id and a function's name")
        check_json(f"{path}.tool_call.arguments", part.arguments)
    if isinstance(part, ToolResultPart) and not part.tool_call_id:
        raise InvalidRequest.field(f"{path}.tool_result.tool_call_id", "must not be empty")
    return part


def _checked_image(image: ImagePart, path: str) -> ImagePart:
    if image.url:
        if not image.url.startswith("https://") or len(image.url) > 8192:
            raise InvalidRequest.field(f"{path}.image.url", "must be an https URL of at most 8192 characters")
        return image
    if image.image_id:
        return image
    if not image.data:
        raise InvalidRequest.field(f"{path}.image", "needs data, url or image_id")
    found = next((mime for mime, matches in MAGIC.items() if matches(image.data)), "")
    if not found:
        raise InvalidRequest.field(f"{path}.image.data", "is not a PNG, JPEG, WebP or GIF file")
    if image.mime_type and image.mime_type != found:
        raise InvalidRequest.field(f"{path}.image.mime_type", f"says {image.mime_type[:64]}, but the bytes are {found}")
    return msgspec.structs.replace(image, mime_type=found, size_bytes=len(image.data))


def refuse_unknown(path: str, unknown: list[tuple[str, str]]) -> None:
    """Raises `InvalidRequest` for the first of these tool results (path, id), if there is one."""
    for place, call_id in unknown[:1]:
        problem = f"no tool call above it has the id {call_id[:MAX_LABEL]!r}"
        raise InvalidRequest.field(f"{path}{place}.tool_result.tool_call_id", problem)


def check_json(path: str, text: str) -> None:
    """Raises `InvalidRequest` if the text is neither empty nor valid JSON."""
    if not text:
        return
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest.field(path, "is not valid JSON") from error


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
    if any(not stop for stop in sampling.stop):
        raise InvalidRequest.field("sampling.stop", "must not hold an empty text")


def _check_tools(payload: ReplyPayload) -> None:
    names = [tool.name for tool in payload.tools]
    for i, tool in enumerate(payload.tools):
        _check_tool(tool, f"tools[{i}]")
    if len(set(names)) != len(names):
        raise InvalidRequest.field("tools", "must not hold two functions of one name")
    if payload.tool_choice not in ("", "auto", "none", "required", *names):
        raise InvalidRequest.field("tool_choice", "must be auto, none, required or the name of a tool")
    if payload.tool_choice not in ("", "auto", "none") and not names:
        raise InvalidRequest.field("tool_choice", "needs tools")
    check_json("json_schema", payload.json_schema)


def _check_tool(tool: Tool, path: str) -> None:
    if not TOOL_NAME.fullmatch(tool.name):
        raise InvalidRequest.field(f"{path}.name", "must be 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-'")
    check_json(f"{path}.parameters", tool.parameters)


def _check_times(payload: ReplyPayload, limits: Limits) -> None:
    if payload.orphan_ttl_s is not None and payload.orphan_ttl_s < 0:
        raise InvalidRequest.field("orphan_ttl", "must not be negative")
    if payload.time_limit_s is not None and not 0 < payload.time_limit_s <= limits.time_limit_s:
        raise InvalidRequest.field("time_limit", f"must be above 0 and at most {limits.time_limit_s:g} s")


def texts_of(message: Message) -> tuple[str, ...]:
    """All texts of a message."""
    texts: list[str] = []
    for part in message.parts:
        if isinstance(part, TextPart | ReasoningPart):
            texts.append(part.text)
        elif isinstance(part, ToolCallPart):
            texts += [part.id, part.name, part.arguments]
        elif isinstance(part, ToolResultPart):
            texts += [part.tool_call_id, part.content]
    return tuple(texts)


def _too_large(path: str, limit: str) -> InputTooLarge:
    problem = f"is over the limit of {limit}"
    return InputTooLarge(f"{path}: {problem}", metadata={"limit": limit}, violations=((path, problem),))
