"""From a conversation's branch and the new messages to the prompt that a provider is told.

Order: system sections, history, post-system text right before the newest user message, new messages.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from parley_server.core.content import complete
from parley_server.core.model import (
    ImagePart,
    Message,
    Part,
    PromptMessage,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.records import StoredImage

SECTION_BREAK = "\n---\n"


def build_messages(
    path: Iterable[Message],
    new: tuple[Message, ...],
    *,
    system: tuple[str, ...],
    post_system: str,
    max_messages: int,
    images: tuple[StoredImage, ...],
) -> tuple[PromptMessage, ...]:
    """The prompt's messages. `max_messages` counts the newest of history and new ones together (0: all), but a new
    message is never left out. Tool calls without a result, and results without their call, are."""
    history = [message for message in path if not message.failed]
    if max_messages:
        room = max(0, max_messages - len(new))
        history = history[len(history) - room :] if room < len(history) else history
    kept = _paired([*history, *new])
    stored = {image.id: image for image in images}
    shown = [PromptMessage(role=message.role.lower(), parts=_shown(message.parts, stored)) for message in kept]
    prompt = [message for message in shown if message.parts]
    if post_system:
        at = next((i for i in reversed(range(len(prompt))) if prompt[i].role == "user"), len(prompt))
        prompt.insert(at, _system_message(post_system))
    if sections := [section for section in system if section]:
        prompt.insert(0, _system_message(SECTION_BREAK.join(sections)))
    return tuple(prompt)


def prompt_bytes(messages: tuple[PromptMessage, ...]) -> int:
    """About how much memory the content of a prompt takes."""
    return sum(_part_bytes(part) for message in messages for part in message.parts)


def prompt_characters(messages: tuple[PromptMessage, ...]) -> int:
    """Characters of text in a prompt, images left out."""
    return sum(_part_bytes(part) for message in messages for part in message.parts if not isinstance(part, ImagePart))


def _system_message(text: str) -> PromptMessage:
    return PromptMessage(role="system", parts=(TextPart(text=text),))


def _paired(messages: list[Message]) -> list[Message]:
    """Drop calls and results that have lost each other, and messages that are left empty by it."""
    if not any(isinstance(part, ToolCallPart | ToolResultPart) for message in messages for part in message.parts):
        return [message for message in messages if message.parts]
    answered = _results(messages)
    called: set[str] = set()
    kept = []
    for index, message in enumerate(messages):
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                if not complete(part) or answered.get(part.id, -1) < index:
                    continue
                called.add(part.id)
            elif isinstance(part, ToolResultPart) and part.tool_call_id not in called:
                continue
            parts.append(part)
        if any(not isinstance(part, ReasoningPart) for part in parts):
            kept.append(msgspec.structs.replace(message, parts=tuple(parts)))
    return kept


def _results(messages: list[Message]) -> dict[str, int]:
    return {
        part.tool_call_id: index
        for index, message in enumerate(messages)
        for part in message.parts
        if isinstance(part, ToolResultPart) and message.role is Role.TOOL
    }


def _shown(parts: tuple[Part, ...], stored: dict[str, StoredImage]) -> tuple[Part, ...]:
    if not any(isinstance(part, ImagePart) for part in parts):
        return parts
    shown: list[Part] = []
    for part in parts:
        if isinstance(part, ImagePart) and part.image_id:
            image = stored.get(part.image_id)
            if image is None:
                continue
            shown.append(ImagePart(mime_type=image.mime_type, data=image.data, size_bytes=len(image.data)))
        else:
            shown.append(part)
    return tuple(shown)


def _part_bytes(part: Part) -> int:
    if isinstance(part, TextPart | ReasoningPart):
        return len(part.text)
    if isinstance(part, ImagePart):
        return len(part.data) + len(part.url)
    if isinstance(part, ToolCallPart):
        return len(part.arguments) + len(part.name)
    return len(part.content)
