"""Builds the messages of a prompt from a branch of a conversation and the new messages.

Order: system sections, history, new messages. The post-system text comes directly before the newest user message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from parley_server.core.context.groups import paired
from parley_server.core.model import (
    ImagePart,
    Message,
    Part,
    PromptMessage,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
)
from parley_server.core.store_types import StoredImage

SECTION_BREAK = "\n---\n"


def build_messages(
    path: Iterable[Message],
    new: tuple[Message, ...],
    *,
    system: tuple[str, ...],
    post_system: str,
    max_messages: int,
    images: tuple[StoredImage, ...],
    refused: Mapping[str, str],
) -> tuple[PromptMessage, ...]:
    """The messages of the prompt.

    `max_messages` limits history and new messages together to the newest ones (0: no limit); new messages are always
    kept. `refused` is `PromptSource.refused`."""
    history = _without_refused([message for message in path if not message.failed], new, refused)
    if max_messages:
        room = max(0, max_messages - len(new))
        history = history[len(history) - room :] if room < len(history) else history
    while history and history[0].role is Role.TOOL:  # the limit has removed its tool call
        history = history[1:]
    kept = paired([*history, *new])
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
    """The approximate size of the prompt's content in bytes."""
    return sum(_part_bytes(part) for message in messages for part in message.parts)


def _system_message(text: str) -> PromptMessage:
    return PromptMessage(role="system", parts=(TextPart(text=text),))


def _without_refused(history: list[Message], new: tuple[Message, ...], refused: Mapping[str, str]) -> list[Message]:
    """The history without input that a provider refused as too large, if other input follows it.

    With that input, the provider would refuse every later prompt. Input that was answered by a later reply stays."""
    if not refused:
        return history
    kept: list[Message] = []
    follows: set[str] = set()  # requests whose input follows, up to the next answer
    for message in reversed([*history, *new]):
        if message.role is Role.ASSISTANT:
            follows = set()
            kept.append(message)
            continue
        request = refused.get(message.id, "")
        if not request or not follows - {request}:
            kept.append(message)
        follows.add(request)
    kept.reverse()
    return kept[: len(kept) - len(new)]


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
