"""Speakers: each writes answers in the wire format of one dialect, so that one suite can test all of them.

A new dialect adds a module with a `Speaker`, and an instance of it to `SPEAKERS` in `conftest.py`.
"""

from __future__ import annotations

import abc
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parley_server.core.model import FinishReason, Model, Prompt, PromptMessage, TextPart
from parley_server.core.ports import Provider
from parley_server.errors import Failure

from tests.upstream import Script

_ESCAPES = re.compile(rb"(?:\\u[0-9a-f]{4})+")


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    words: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of the reasoning."""

    words: str


@dataclass(frozen=True)
class Call:
    """A tool call whose arguments come in these pieces."""

    id: str
    name: str
    pieces: tuple[str, ...] = ()

    @property
    def arguments(self) -> str:
        return "".join(self.pieces) or "{}"


Part = Text | Reasoning | Call


@dataclass(frozen=True)
class Counts:
    """Tokens as the engine counts them: the prompt with what is cached or written, the completion with reasoning."""

    prompt: int = 50
    cached: int = 0
    written: int = 0
    completion: int = 7
    reasoning: int = 0


USUAL = Counts()


@dataclass(frozen=True)
class Spoken:
    """An answer as events, each in bytes; it is complete with the event number `last`, whatever follows."""

    events: list[bytes]
    last: int

    @property
    def body(self) -> bytes:
        return b"".join(self.events)


@dataclass(frozen=True)
class Asked:
    """What a request says, independently of its dialect. `turns`: role ("user", "assistant", "tool") and text; a tool
    turn's text is its result, an assistant's calls are `calls` by id."""

    system: str
    turns: list[tuple[str, str]]
    images: list[str]
    calls: dict[str, tuple[str, Any]]
    results: dict[str, str]
    tools: list[str]
    schema: Any
    max_tokens: int | None


class Speaker(abc.ABC):
    """One dialect. `name` is the name of the tests' parameter; `api` is that of the model."""

    name: str
    api: str = "chat"
    content_type: str = "text/event-stream"
    words: Mapping[str, FinishReason]
    """Finish words of the vendor, without those of tool calls."""
    call_word: str
    """The finish word of an answer with tool calls."""
    counts: tuple[Counts, ...]
    """Counts that the dialect can express, at least one with cached, written and reasoning tokens as far as it can."""
    shows_call_ids: bool = True
    """Whether the vendor names the calls."""
    keeps: bool = True
    """Whether an answer with reasoning and a call leaves wire items for the next request."""

    @abc.abstractmethod
    def provider(self, url: str, **options: Any) -> Provider:
        """The shipped provider at this base URL, with the key "sk-secret"."""

    @abc.abstractmethod
    def speak(self, *parts: Part, word: str = "", counts: Counts | None = USUAL) -> Spoken:
        """A whole answer. Without a word, the usual one for its parts."""

    @abc.abstractmethod
    def error(self, failure: Failure) -> bytes | None:
        """An event within a stream that reports a failure, with the word "secret" in its message; None if the vendor
        has none for it."""

    @abc.abstractmethod
    def refusal(self, failure: Failure) -> Script | None:
        """An error response that reports a failure, with the word "secret"; None if the vendor has none for it."""

    @abc.abstractmethod
    def filtered(self) -> list[Script]:
        """Responses of a filter that refused the prompt."""

    @abc.abstractmethod
    def asked(self, body: Any) -> Asked:
        """Read a request."""

    def script(self, *parts: Part, **options: Any) -> Script:
        """A whole answer, an event a write."""
        return self.scripted(self.speak(*parts, **options).events)

    def scripted(self, steps: Sequence[Any], **options: Any) -> Script:
        """A response of these steps."""
        return Script(steps, headers={"Content-Type": self.content_type}, **options)

    def prompt(self, *messages: PromptMessage, **fields: Any) -> Prompt:
        """A prompt for a model of this dialect; without messages a short one."""
        model = Model(alias="fast", provider="acme", name="acme-1", api=self.api, **fields.pop("model", {}))
        return Prompt(model=model, messages=messages or (said("user", "Hi"),), **fields)


def said(role: str, *parts: Any, **fields: Any) -> PromptMessage:
    """A message; a string is a text part."""
    whole = tuple(TextPart(text=part) if isinstance(part, str) else part for part in parts)
    return PromptMessage(role=role, parts=whole, **fields)


def event(value: Any, *, name: str = "", end: str = "\n") -> bytes:
    """A server-sent event of JSON, named where a name is given."""
    lines = [f"event: {name}"] * bool(name) + [f"data: {json.dumps(value, separators=(',', ':'))}"]
    return (end.join(lines) + 2 * end).encode()


def unescaped(body: bytes) -> bytes:
    """The same JSON with UTF-8 in place of escapes."""
    return _ESCAPES.sub(lambda found: json.loads(b'"%s"' % found[0]).encode(), body)


def refused(status: int, body: Any, **headers: str) -> Script:
    """An error response with a JSON body."""
    return Script([json.dumps(body).encode()], status=status, headers={"Content-Type": "application/json"} | headers)
