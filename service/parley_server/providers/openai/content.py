"""Reads the content of a chat completion's chunks, in all forms that servers use."""

from __future__ import annotations

from collections.abc import Callable

from parley_server.core.ports import Sink
from parley_server.providers.openai.chunk import Choice, Delta, delta_of, parts_of, text_of
from parley_server.providers.openai.kept import KeptMessage
from parley_server.providers.reading.content import Content, Notice
from parley_server.providers.reading.tool_calls import pieces_of

_REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""Fields of a delta with reasoning, in order of preference. Thinking parts of `content` are the fourth source."""


class ChatContent(Content):
    """The content of one chat completion. Reasoning is read from the first field that has any, because servers repeat
    it in several fields."""

    def __init__(self, sink: Sink, *, now_s: Callable[[], float], notice: Notice, keeps_details: bool = False) -> None:
        super().__init__(sink, now_s=now_s, notice=notice)
        self._kept = KeptMessage()
        self._keeps_details = keeps_details
        self._reasoning_source = ""
        self._by_message = False

    def kept_fields(self) -> str:
        """What the vendor requires back with this message (see `KeptMessage.fields`)."""
        return self._kept.fields(self.tools)

    def add_irregular(self, content: object) -> None:
        """Add text that may contain lone surrogates, or a list of parts."""
        for kind, text in parts_of(content):
            if kind == "other":
                self._notice("content")
            elif kind == "reasoning":
                self._reason("content", text)
            else:
                self.add_text(text)

    def add_rare(self, delta: Delta) -> None:
        """Add the reasoning, the refusal and the tool calls of a delta."""
        for field in _REASONING:
            if text := text_of(getattr(delta, field)):
                self._reason(field, text)
        if self._keeps_details:
            self._kept.add_details(delta.reasoning_details)
        if delta.refusal:
            self.add_irregular(delta.refusal)
        if delta.tool_calls:
            self.add_calls(delta)

    def add_calls(self, delta: Delta) -> None:
        """Add the pieces of tool calls of a delta."""
        self.push_text()
        for piece in pieces_of(delta.tool_calls, delta.function_call):
            self.add_call(piece)

    def add_in_place_of_delta(self, choice: Choice) -> None:
        """Add a `message` or `text` in place of a delta. After deltas it is ignored, because it repeats them."""
        self.push_text()
        if self.begun and not self._by_message:
            return  # the message repeats the deltas
        self._by_message = True
        delta = delta_of(choice.message if choice.message is not None else choice.text)
        if delta is not None:
            if delta.content:
                self.add_irregular(delta.content)
            self.add_rare(delta)
            if delta.function_call and not delta.tool_calls:
                self.add_calls(delta)

    def _reason(self, source: str, text: str) -> None:
        self._reasoning_source = self._reasoning_source or (source if text else "")
        if source == self._reasoning_source:
            self.add_reasoning(text)
