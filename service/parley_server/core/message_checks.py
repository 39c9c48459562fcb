"""Validates messages of callers, and sets the types of their images. Every error names the field and its limit."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from parley_server.core.field_checks import (
    MAX_LABEL,
    MAX_MIME_TYPE,
    MAX_TOOL_CALL_ID,
    TOOL_NAME,
    check_json,
    check_name,
    check_texts,
    too_large,
)
from parley_server.core.limits import Limits
from parley_server.core.model import (
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.errors import InvalidRequest

MAX_MESSAGES = 10_000
MAX_CONVERSATION_MESSAGES = 100_000
MAX_PARTS = 256
MAX_IMAGES = 20

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


def check_messages(path: str, messages: tuple[Message, ...], limits: Limits) -> tuple[Message, ...]:
    """The messages with the types of their images set. Raises `InvalidRequest` and its subclasses."""
    if len(messages) > MAX_MESSAGES:
        raise too_large(path, f"{MAX_MESSAGES} messages")
    images = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
    if len(images) > MAX_IMAGES:
        raise too_large(path, f"{MAX_IMAGES} images")
    if sum(len(image.data) for image in images) > limits.max_images_bytes:
        raise too_large(path, f"{limits.max_images_bytes} bytes of images")
    return tuple(_checked(message, f"{path}[{i}]", limits) for i, message in enumerate(messages))


def _checked(message: Message, path: str, limits: Limits) -> Message:
    if not message.parts:
        raise InvalidRequest.field(f"{path}.parts", "must not be empty")
    if len(message.parts) > MAX_PARTS:
        raise too_large(f"{path}.parts", f"{MAX_PARTS} parts")
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
        check_name(f"{path}.tool_call.id", part.id, MAX_TOOL_CALL_ID)
        check_json(f"{path}.tool_call.arguments", part.arguments)
    if isinstance(part, ToolResultPart):
        if not part.tool_call_id:
            raise InvalidRequest.field(f"{path}.tool_result.tool_call_id", "must not be empty")
        check_name(f"{path}.tool_result.tool_call_id", part.tool_call_id, MAX_TOOL_CALL_ID)
    return part


def _checked_image(image: ImagePart, path: str) -> ImagePart:
    check_name(f"{path}.image.mime_type", image.mime_type, MAX_MIME_TYPE)
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
        raise InvalidRequest.field(f"{path}.image.mime_type", f"says {image.mime_type}, but the bytes are {found}")
    return msgspec.structs.replace(image, mime_type=found, size_bytes=len(image.data))


def refuse_unknown(path: str, unknown: list[tuple[str, str]]) -> None:
    """Raises `InvalidRequest` for the first of these tool results (path, id), if there is one."""
    for place, call_id in unknown[:1]:
        problem = f"no tool call above it has the id {call_id[:MAX_LABEL]!r}"
        raise InvalidRequest.field(f"{path}{place}.tool_result.tool_call_id", problem)


def check_full(stored: int, added: int) -> None:
    """Raises `InputTooLarge` if a conversation of `stored` messages cannot take `added` ones and an answer."""
    if stored + added + 1 > MAX_CONVERSATION_MESSAGES:
        raise too_large("conversation_id", f"{MAX_CONVERSATION_MESSAGES} messages in a conversation")


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
