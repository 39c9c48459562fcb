"""The dialects whose recorded streams are read: how each is read plainly, and by the server's code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from parley_server.core.model import Prompt
from parley_server.core.ports import Provider, Sink
from parley_server.providers.anthropic.reader import MessageReader
from parley_server.providers.endpoint import Reader
from parley_server.providers.gemini.provider import GeminiProvider
from parley_server.providers.gemini.reader import GeminiReader
from parley_server.providers.openai.reader import ChunkReader
from parley_server.providers.openai.responses_reader import ResponsesReader
from parley_server.settings import ApiKey, GeminiSettings

from tests.dialects.anthropic import MessagesSpeaker
from tests.integration.providers.recording import model, prompt, provider_at
from tests.recordings.plain import Outcome, PlainReading
from tests.recordings.plain_gemini import PlainGemini, with_plain_calls
from tests.recordings.plain_messages import PlainMessage
from tests.recordings.plain_responses import PlainResponse


class Plain(Protocol):
    """A simple reader: takes whole events, and says at any time what the answer is if it ends there."""

    def add_all(self, part: bytes) -> None: ...

    def outcome(self) -> Outcome: ...


@dataclass(frozen=True)
class Dialect:
    """`reader` makes the server's reader of a sink and of a callback that ends the body. `comparable` removes from its
    outcome what the plain reader cannot know."""

    name: str
    plain: Callable[[], Plain]
    reader: Callable[[Sink, Callable[[], None]], Reader]
    provider: Callable[..., Provider] = provider_at
    api: str = "chat"
    comparable: Callable[[Outcome], Outcome] = lambda outcome: outcome

    @property
    def prompt(self) -> Prompt:
        return prompt(model=model(api=self.api))

    def read_plainly(self, body: bytes) -> Outcome:
        """What a whole body says."""
        reading = self.plain()
        reading.add_all(body)
        return reading.outcome()


def _chat(sink: Sink, on_done: Callable[[], None]) -> Reader:
    return ChunkReader("acme", sink, on_finish=_ignore, on_done=on_done)


def _responses(sink: Sink, on_done: Callable[[], None]) -> Reader:
    return ResponsesReader("acme", sink, on_done=on_done)


def _messages(sink: Sink, on_done: Callable[[], None]) -> Reader:
    return MessageReader("acme", sink, on_finish=_ignore, on_done=on_done)


def _anthropic_at(url: str) -> Provider:
    return MessagesSpeaker().provider(url)


def _gemini(sink: Sink, on_done: Callable[[], None]) -> Reader:
    return GeminiReader("acme", sink, on_finish=_ignore, on_done=on_done, origin="acme", keeps=True)


def _gemini_at(url: str) -> Provider:
    return GeminiProvider("acme", GeminiSettings(base_url=url, api_key=ApiKey("sk-secret")))


def _ignore(_: Any) -> None:
    pass


DIALECTS = (
    Dialect("chat", PlainReading, _chat),
    Dialect("responses", PlainResponse, _responses, api="responses"),
    Dialect("messages", PlainMessage, _messages, _anthropic_at),
    Dialect("gemini", PlainGemini, _gemini, _gemini_at, comparable=with_plain_calls),
)
