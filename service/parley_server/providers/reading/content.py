"""Collects the content of an answer and pushes it into a sink in order. All dialects share it."""

from __future__ import annotations

from collections.abc import Callable

from parley_server.core.ports import Sink
from parley_server.providers.reading.surrogates import SurrogateJoin
from parley_server.providers.reading.tool_calls import Piece, ToolCalls

Notice = Callable[[str], None]


def ignore(*_: object) -> None:
    """Do nothing: the default of a reader's callbacks."""


class Content:
    """Text, reasoning and tool calls of one answer.

    A reader's fast path appends strings without lone surrogates to `texts` directly, while `text_join.held` is empty,
    and calls `push_text` at the end of each read.
    """

    def __init__(self, sink: Sink, *, now_s: Callable[[], float], notice: Notice) -> None:
        self._sink = sink
        self._now_s = now_s
        self._notice = notice
        self._reasoning_join = SurrogateJoin()
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

    def add_text(self, text: str) -> None:
        """Add text that may contain lone surrogates."""
        if text:
            self._note_piece()
            self.texts.append(self.text_join.add(text))

    def add_reasoning(self, text: str, signature: bytes = b"") -> None:
        """Add reasoning text, which may contain lone surrogates, or the signature that ends it."""
        if not text and not signature:
            return
        self.push_text()
        self._note_piece()
        whole = self._reasoning_join.add(text)
        if whole or signature:
            self._sink.reasoning(whole, signature)

    def add_call(self, piece: Piece) -> None:
        """Add a piece of a tool call. Raises `ProviderMalformed` for too many calls."""
        self.push_text()
        self.tools.add(piece)
        self._note_piece()

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

    def _note_piece(self) -> None:
        self.irregular_pieces += 1
        self.last_s = self._now_s()
