"""Adapts the messages of a prompt to providers that require strict alternation of user and assistant, user first.

Such a provider answers any other order with HTTP 400, for this message and every later one of the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from parley_server.core.model import Part, PromptMessage, TextPart

BREAK = "\n\n"
START = "(start)"
CONTINUE = "(continue)"
NO_ANSWER = "(no answer)"

Messages = tuple[PromptMessage, ...]


def fold_system(messages: Iterable[PromptMessage]) -> Messages:
    """System messages after the first message become text before the next user message, or a user message at the
    end."""
    folded: list[PromptMessage] = []
    waiting: tuple[Part, ...] = ()
    for message in messages:
        if message.role == "system" and folded:
            waiting = joined(waiting, message.parts)
        elif message.role == "user" and waiting:
            folded.append(msgspec.structs.replace(message, parts=joined(waiting, message.parts)))
            waiting = ()
        else:
            folded.append(message)
    if waiting:
        folded.append(PromptMessage(role="user", parts=waiting))
    return tuple(folded)


def alternate(messages: Iterable[PromptMessage]) -> Messages:
    """Messages in strict alternation: adjacent user messages are joined, and missing turns are filled in.

    System messages between two user messages become part of the joined message.
    """
    strict: list[PromptMessage] = []
    for message in messages:
        at = next((i for i in reversed(range(len(strict))) if strict[i].role != "system"), -1)
        before = strict[at].role if at >= 0 else ""
        if message.role == "user" and before == "user":
            parts: tuple[Part, ...] = ()
            for each in (*strict[at:], message):
                parts = joined(parts, each.parts)
            strict[at:] = [msgspec.structs.replace(message, parts=parts)]
            continue
        if message.role == "user" and before == "tool":
            strict.insert(at + 1, _said("assistant", NO_ANSWER))
        elif message.role == "assistant" and before in ("", "assistant"):
            strict.append(_said("user", CONTINUE if before else START))
        strict.append(message)
    return tuple(strict)


def ask_at_end(messages: Messages) -> Messages:
    """Adds a user message if the last message is an assistant message."""
    if messages and messages[-1].role == "assistant":
        return (*messages, _said("user", CONTINUE))
    return messages


def joined(first: tuple[Part, ...], second: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts of two messages joined, with a blank line between adjacent texts."""
    if first and second and isinstance(first[-1], TextPart) and isinstance(second[0], TextPart):
        text = TextPart(text=f"{first[-1].text}{BREAK}{second[0].text}")
        return (*first[:-1], text, *second[1:])
    return first + second


def _said(role: str, text: str) -> PromptMessage:
    return PromptMessage(role=role, parts=(TextPart(text=text),))
