"""Keeps what a provider sends, for traces that contain answers."""

from __future__ import annotations

from parley_server.core.content import answer_of
from parley_server.core.events import Entry, ReasoningDelta, TextDelta, ToolCallDelta
from parley_server.core.model import Part, Usage
from parley_server.core.ports import Sink


class RecordedSink:
    """Passes everything on to a sink, and keeps the content."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._entries: list[Entry] = []

    @property
    def parts(self) -> tuple[Part, ...]:
        """The answer so far."""
        return answer_of(self._entries).parts

    def text(self, text: str) -> None:
        self._entries.append(TextDelta(text))
        self._sink.text(text)

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        self._entries.append(ReasoningDelta(text, signature))
        self._sink.reasoning(text, signature)

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        self._entries.append(ToolCallDelta(index, call_id, name, arguments))
        self._sink.tool_call(index, call_id, name, arguments)

    def usage(self, usage: Usage) -> None:
        self._sink.usage(usage)

    def keep(self, origin: str, item: str) -> None:
        self._sink.keep(origin, item)

    def flush(self) -> None:
        self._sink.flush()
