"""The content blocks of an answer: pushes what they add, and rebuilds each one as the vendor needs it back."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from parley_server.core.ports import Sink
from parley_server.providers.anthropic.wire import KNOWN_DELTAS, Delta, string_of
from parley_server.providers.reading.content import Content, Notice
from parley_server.providers.reading.events import clean
from parley_server.providers.reading.json_values import is_object, json_text
from parley_server.providers.reading.kept import MAX_KEPT_BYTES, KeptItems
from parley_server.providers.reading.tool_calls import Piece, arguments_of, key_of, text_of_field

JOINED_PIECES = 64
"""Pieces of a block that are joined to one, because each piece of its own takes ten times the memory of its text."""

_JOINED = ("text", "thinking")
_READ = ("text", "thinking", "redacted_thinking", "tool_use")
"""Kinds of blocks that are read. Others belong to tools that the vendor executes."""


class Block:
    """One content block: how it began, and what its deltas have added so far."""

    def __init__(self, start: dict[str, Any], key: Hashable) -> None:
        self.kind = text_of_field(start.get("type"))
        self.key = key
        self.start = start
        self.whole = True
        """Whether the block can be rebuilt: every delta is known, and it is not too large to be kept."""
        self._pieces: dict[str, list[str]] = {}
        self._size = 0
        self._signature = ""
        self._citations: list[Any] = []

    @property
    def argued(self) -> bool:
        """Whether a delta has brought any input."""
        return bool(self._text("input"))

    def add(self, field: str, text: str) -> None:
        """Add text to a field."""
        if self._fits(text):
            pieces = self._pieces.setdefault(field, [])
            pieces.append(text)
            if len(pieces) == JOINED_PIECES:
                pieces[:] = ["".join(pieces)]

    def add_rare(self, delta: Delta) -> None:
        """Add what a delta has beside text: a signature replaces the one before."""
        self.whole = self.whole and delta.type in KNOWN_DELTAS
        self._signature = string_of(delta.signature) or self._signature
        if delta.citation is not None and self._fits(json_text(delta.citation)):
            self._citations.append(delta.citation)

    def item(self) -> str:
        """The finished block as JSON. Empty for a blank text, which the vendor refuses, and for a block that cannot be
        rebuilt: that one is then no longer `whole`."""
        fields = dict(self.start)
        for field in _JOINED:
            if field in self._pieces:
                fields[field] = self._text(field)
        if self.kind == "text" and not string_of(fields.get("text")).strip():
            return ""
        if self._signature:
            fields["signature"] = self._signature
        if self._citations:
            fields["citations"] = self._citations
        sent = clean(self._text("input"))
        if self.kind == "tool_use" or sent:
            fields.pop("input", None)
            sent = sent or "{}"
            self.whole = self.whole and is_object(sent)
        item = json_text(fields)
        if sent:
            # The input is inserted as it was sent: decoded and encoded again, its numbers could change.
            item = f'{item[:-1]},"input":{sent}}}'
        self.whole = self.whole and is_object(item)
        return item if self.whole else ""

    def _fits(self, text: str) -> bool:
        self._size += len(text)
        self.whole = self.whole and self._size <= MAX_KEPT_BYTES
        return self.whole

    def _text(self, field: str) -> str:
        return "".join(self._pieces.get(field, ()))


class BlockContent(Content):
    """The content of one answer. It keeps the finished blocks, for the next request of a tool turn."""

    def __init__(self, sink: Sink, *, now_s: Callable[[], float], notice: Notice) -> None:
        super().__init__(sink, now_s=now_s, notice=notice)
        self._open: dict[Hashable, Block] = {}
        self._newest: Block | None = None
        self._kept = KeptItems()
        self._kept_calls: set[str] = set()
        self._keeps = True
        self.unread = False
        """Whether the answer had blocks of another kind than those that are read."""

    def push_text(self) -> None:
        """Push the collected texts as one, and add them to the newest block."""
        if self.texts and (text := "".join(self.texts)):
            if self._newest is not None and self._newest.kind == "text":
                self._newest.add("text", text)
            else:
                self._keeps = False  # text without a block cannot be sent back in its place
        super().push_text()

    def restart(self) -> None:
        """The message starts again: only what follows can be sent back."""
        self.push_text()
        self._open, self._newest = {}, None
        self._kept, self._kept_calls, self._keeps = KeptItems(), set(), True

    def begin(self, index: object, start: object) -> None:
        """A block begins, perhaps with content."""
        if not isinstance(start, dict):
            return
        self.push_text()
        block = Block(start, key_of(index))
        self._open[block.key] = self._newest = block
        if block.kind == "tool_use":
            call_id, name = text_of_field(start.get("id")), text_of_field(start.get("name"))
            self.add_call(Piece(key=block.key, id=call_id, name=name))
        elif block.kind in ("text", "thinking"):
            first = Delta(text=start.get("text"), thinking=start.get("thinking"), signature=start.get("signature"))
            self._add(block, first)
        elif block.kind not in _READ:
            self.unread = True
            self._notice("content")

    def add(self, index: object, delta: Delta) -> None:
        """A delta of a block; without an index, of the newest one."""
        key = key_of(index)
        block = self._newest if key is None else self._open.get(key)
        if block is None:
            self._keeps = False
            block = Block({}, key)
        block.add_rare(delta)
        self._add(block, delta)

    def end(self, index: object) -> None:
        """A block ends."""
        self.push_text()
        block = self._open.pop(key_of(index), None)
        if block is not None:
            self._end(block)

    def end_all(self) -> None:
        """End all blocks whose end was not sent."""
        self.push_text()
        while self._open:
            self._end(self._open.pop(next(iter(self._open))))

    def push_kept(self, origin: str) -> None:
        """Pass the blocks of an answer with tool calls to the sink, if they are complete and have the calls' ids."""
        called = {call.sent_id for call in self.tools.pushed if call.arguments.whole}
        if self._keeps and called == self._kept_calls:
            self._kept.push(self._sink, origin)

    def _add(self, block: Block, delta: Delta) -> None:
        if text := string_of(delta.text):
            self.add_text(text)
        if thinking := string_of(delta.thinking):
            self.add_reasoning(thinking)
            block.add("thinking", thinking)
        if signature := string_of(delta.signature):
            self.add_reasoning("", clean(signature).encode())
        if delta.partial_json is not None:
            self._add_input(block, arguments_of(delta.partial_json))

    def _add_input(self, block: Block, arguments: str) -> None:
        block.add("input", arguments)
        if block.kind == "tool_use" and arguments:
            self.add_call(Piece(key=block.key, arguments=arguments))

    def _end(self, block: Block) -> None:
        if block.kind == "tool_use" and not block.argued and block.start.get("input"):
            self._add_input(block, arguments_of(block.start["input"]))  # some servers send it whole
        if block is self._newest:
            self._newest = None
        item = block.item()
        self._keeps = self._keeps and block.whole
        if item:
            self._kept.add(item)
            if block.kind == "tool_use":
                self._kept_calls.add(text_of_field(block.start.get("id")))
