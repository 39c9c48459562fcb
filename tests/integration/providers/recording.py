"""A sink that records, and prompts for tests."""

from __future__ import annotations

import asyncio
from typing import Any

from parley_server.core.model import Model, Prompt, PromptMessage, TextPart, Usage
from parley_server.providers.openai.provider import OpenAIProvider
from parley_server.settings import ApiKey, OpenAISettings


class RecordingSink:
    """Keeps what is pushed, in order, and sets an event at the first token and at every flush."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.first = asyncio.Event()
        self.flushed = asyncio.Event()
        self.flushes = 0

    @property
    def content(self) -> str:
        return "".join([event[1] for event in self.events if event[0] == "text"])

    @property
    def reasoning_content(self) -> str:
        return "".join([event[1] for event in self.events if event[0] == "reasoning"])

    @property
    def counted(self) -> list[Usage]:
        return [event[1] for event in self.events if event[0] == "usage"]

    def text(self, text: str) -> None:
        text.encode()  # whole code points, or it raises
        assert text
        self._add("text", text)

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        text.encode()
        self._add("reasoning", text)

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        arguments.encode()
        self._add("tool_call", index, call_id, name, arguments)

    def usage(self, usage: Usage) -> None:
        self._add("usage", usage)

    def keep(self, origin: str, item: str) -> None:
        self._add("keep", origin, item)

    def flush(self) -> None:
        self.flushes += 1
        self.flushed.set()

    def _add(self, *event: Any) -> None:
        self.events.append(event)
        self.first.set()


def model(**fields: Any) -> Model:
    return Model(**({"alias": "fast", "provider": "acme", "name": "acme-1"} | fields))


def prompt(text: str = "Hi", **fields: Any) -> Prompt:
    messages = (PromptMessage(role="user", parts=(TextPart(text=text),)),)
    return Prompt(**({"model": model(), "messages": messages} | fields))


def provider_at(url: str, settings: OpenAISettings | None = None, **options: Any) -> OpenAIProvider:
    """A provider at this URL: as `settings` say, else with a key."""
    settings = settings or OpenAISettings(api_key=ApiKey("sk-secret"))
    return OpenAIProvider("acme", settings.model_copy(update={"base_url": url}), **options)
