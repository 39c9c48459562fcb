"""One event of a chat completion's stream: a struct for the fast path, and a lenient decoder for unusual events.

The struct has only the fields in use. Fields whose form differs between servers are `Any`, so that one unusual value
does not fail an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from parley_server.providers.reading.json_values import json_of
from parley_server.providers.reading.response_name import NamedEvent, name_reader


class Delta(msgspec.Struct, gc=False):
    """The content that a chunk adds to the answer."""

    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: Any = None
    function_call: Any = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers."""

    delta: Delta | None = None
    message: Any = None
    text: Any = None
    finish_reason: Any = None
    index: Any = 0
    usage: Any = None
    error: Any = None


class WireChunk(msgspec.Struct, gc=False):
    """One event of the stream."""

    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None


decode: Callable[[bytes], WireChunk] = msgspec.json.Decoder(WireChunk).decode
"""Decodes an event. Raises ValueError; `decode_loosely` may still read the event then."""


name_in = name_reader(NamedEvent)
"""The name of the answer in a chunk. Every chunk repeats it, so that it is read from one chunk alone."""


def decode_loosely(event: bytes) -> WireChunk | None:
    """The chunk of an event with unusual types, lone surrogates or invalid UTF-8; None if it has none.

    A `content` string becomes a list, so that the reader leaves its fast path and joins surrogates.
    """
    value = json_of(event)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # some servers put an error into a list of one
        if not (isinstance(value, dict) and value.get("error")):
            return None
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    if choices is not None and not isinstance(choices, list):
        return None
    return WireChunk(
        choices=[_choice(choice) for choice in choices or () if isinstance(choice, dict)],
        usage=value.get("usage"),
        error=value.get("error"),
        x_groq=value.get("x_groq"),
    )


def delta_of(value: object) -> Delta | None:
    """The delta in a value of any form, or in a message; None if there is none."""
    if isinstance(value, dict):
        delta = Delta(**{field: value.get(field) for field in Delta.__struct_fields__})
        if isinstance(delta.content, str):
            delta.content = [delta.content]
        return delta
    return Delta(content=[value]) if isinstance(value, str) else None


def text_of(value: object) -> str:
    """The text in a string, in an object with a `text` or `summary`, or in a list of these."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return text_of(value.get("text") or value.get("summary"))
    return "".join([text_of(part) for part in value]) if isinstance(value, list) else ""


def parts_of(content: object) -> Iterable[tuple[str, str]]:
    """The parts of a content that is not a string, each as (kind, text): "text", "reasoning", or "other" without
    text."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield "text", part
        elif isinstance(part, dict) and (part.get("type") == "thinking" or "thinking" in part):
            yield "reasoning", text_of(part.get("thinking"))
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            yield "text", part["text"]
        else:
            yield "other", ""


def is_first(index: object) -> bool:
    """Whether the index of a choice, of any type, is that of the first answer."""
    return not index or index == "0"


class ContentlessEvents:
    """Inspects events without content, to tell an empty answer from an answer in an unknown form."""

    def __init__(self) -> None:
        self.unread = False
        """Whether a first choice had possible content in an unknown field."""
        self.foreign = False
        """Whether an event had no choices at all."""

    def inspect(self, events: Iterable[bytes]) -> None:
        """Inspect events without content."""
        for event in events:
            value = json_of(event)
            if isinstance(value, dict):
                self._inspect_event(value)

    def _inspect_event(self, value: dict[str, Any]) -> None:
        choices = value.get("choices")
        self.foreign = self.foreign or ("choices" not in value and not value.get("usage"))
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and is_first(choice.get("index")):
                inner = [choice.get(name) for name in ("delta", "message")]
                places = [choice, *[place for place in inner if isinstance(place, dict)]]
                fields = [field for place in places for field in place.items()]
                self.unread = self.unread or any(_may_be_content(name, field) for name, field in fields)


_QUIET = {
    "annotations",
    "content_filter_offsets",
    "content_filter_result",
    "content_filter_results",
    "delta",
    "error",
    "finish_details",
    "finish_reason",
    "function_call",
    "index",
    "logprobs",
    "matched_stop",
    "message",
    "name",
    "native_finish_reason",
    "obfuscation",
    "provider_specific_fields",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "refusal",
    "role",
    "stop_reason",
    "tool_calls",
    "usage",
}
"""Fields of a choice or a delta that are read, or have no content."""


def _may_be_content(name: str, value: object) -> bool:
    return name not in _QUIET and bool(value) and isinstance(value, str | list | dict)


def _choice(value: dict[str, Any]) -> Choice:
    fields = {field: value.get(field) for field in Choice.__struct_fields__}
    return Choice(**(fields | {"delta": delta_of(value.get("delta"))}))
