"""Assembles the content of a chat completion's chunks and pushes it into a sink in order."""

from __future__ import annotations

from collections.abc import Callable

from parley_server.core.ports import Sink
from parley_server.providers.openai.chunk import Choice, Delta, delta_of, parts_of, text_of
from parley_server.providers.openai.tools import ToolCalls, pieces_of
from parley_server.providers.reading.surrogates import SurrogateJoin

Notice = Callable[[str], None]

_REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""Fields of a delta with reasoning, in order of preference. Thinking parts of `content` are the fourth source."""


class ContentAssembler:
    """Text, reasoning and tool calls of one answer.

    The reader's fast path appends strings to `texts` directly, while `text_join.held` is empty. Reasoning is read from
    the first field that has any, because servers repeat it in several fields.
    """

    def __init__(self, sink: Sink, *, now_s: Callable[[], float], notice: Notice) -> None:
        self._sink = sink
        self._now_s = now_s
        self._notice = notice
        self._reasoning_join = SurrogateJoin()
        self._reasoning_source = ""
        self._by_message = False
        self.texts: list[str] = []
        self.text_join = SurrogateJoin()
        self.tools = ToolCalls(sink)
        self.irregular_pieces = 0
        """Number of pieces that did not take the fast path."""
        self.has_text = False
        self.last_s: float | None = None
        """Time of the last piece, by `now_s`; None before the first."""

    @property
    def begun(self) -> bool:
        """Whether any text, reasoning or tool call has arrived."""
        return self.last_s is not None

    def add_irregular(self, content: object) -> None:
        """Add text that may contain lone surrogates, or a list of parts."""
        for kind, text in parts_of(content):
            if kind == "other":
                self._notice("content")
            elif kind == "reasoning":
                self._reason("content", text)
            elif text:
                self._note_piece()
                self.texts.append(self.text_join.add(text))

    def add_rare(self, delta: Delta) -> None:
        """Add the reasoning, the refusal and the tool calls of a delta."""
        for field in _REASONING:
            if text := text_of(getattr(delta, field)):
                self._reason(field, text)
        if delta.refusal:
            self.add_irregular(delta.refusal)
        if delta.tool_calls:
            self.add_calls(delta)

    def add_calls(self, delta: Delta) -> None:
        """Add the pieces of tool calls of a delta."""
        self.push_text()
        for piece in pieces_of(delta.tool_calls, delta.function_call):
            self.tools.add(piece)
            self._note_piece()

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

    def push_text(self) -> None:
        """Push the collected texts as one."""
        texts = self.texts
        if texts:
            text = "".join(texts)
            texts.clear()
            if text:
                self.has_text = True
                self.last_s = self._now_s()
                self._sink.text(text)

    def push_rest(self) -> None:
        """Push held text and reasoning at the end."""
        if reasoning := self._reasoning_join.rest():
            self._sink.reasoning(reasoning)
        if text := self.text_join.rest():
            self.texts.append(text)
        self.push_text()

    def end_calls(self, *, complete: bool) -> None:
        """End all tool calls. If the answer is `complete`, a call without arguments counts as complete."""
        self.tools.end(complete=complete)
        if self.tools.dropped:
            self._notice("tool_call")

    def _reason(self, source: str, text: str) -> None:
        self._reasoning_source = self._reasoning_source or (source if text else "")
        if not text or source != self._reasoning_source:
            return
        self.push_text()
        self._note_piece()
        if whole := self._reasoning_join.add(text):
            self._sink.reasoning(whole)

    def _note_piece(self) -> None:
        self.irregular_pieces += 1
        self.last_s = self._now_s()
