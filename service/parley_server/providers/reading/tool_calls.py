"""Assembles tool calls from pieces: assigns each piece to its call, and gives each call an index and an id.

Servers omit indexes and ids, repeat them, or send several calls under one index. Two calls must never be merged.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from typing import Any

import msgspec

from parley_server.core.ports import Sink
from parley_server.errors import ProviderMalformed
from parley_server.providers.reading.arguments import Arguments
from parley_server.providers.reading.events import clean
from parley_server.providers.reading.json_values import json_text
from parley_server.providers.reading.surrogates import SurrogateJoin

MAX_INDEX = 256
"""The highest index of a tool call in one reply."""


class Piece(msgspec.Struct, gc=False):
    """A piece of a call. `key`: the server's index or name of the call, None if it sent none. Absent texts are
    empty. `extra`: what the vendor requires back with the call."""

    key: Hashable = None
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: Any = None


def pieces_of(tool_calls: object, function_call: object = None) -> list[Piece]:
    """The pieces in `tool_calls` of a delta, or in the legacy `function_call`, which is a call with index 0."""
    calls = tool_calls if isinstance(tool_calls, list) else [tool_calls]
    pieces = [_piece(call) for call in calls if isinstance(call, dict)]
    if not pieces and isinstance(function_call, dict):
        pieces = [_piece({"index": 0, "function": function_call})]
    return pieces


class Call:
    """One tool call so far. `index`: its number in the reply, and `sent_id` its id, once its first delta was pushed."""

    def __init__(self, piece: Piece) -> None:
        self.id = piece.id
        self.name = ""
        self.index: int | None = None
        self.sent_id = ""
        self.extra: Any = None
        self.arguments = Arguments()
        self.join = SurrogateJoin()
        self.unsent = ""


class ToolCalls:
    """Collects the calls of an answer. The first delta of a call is pushed when it has a name and arguments, when the
    next call begins, or at the end."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._calls: list[Call] = []
        self._by_key: dict[Hashable, Call] = {}
        self.ids: set[str] = set()
        """The ids of the calls that were pushed."""
        self._pushed = 0

    @property
    def any(self) -> bool:
        """Whether any call has a name."""
        return any(call.name for call in self._calls)

    @property
    def pushed(self) -> list[Call]:
        """The calls that were pushed, by index."""
        return sorted([call for call in self._calls if call.index is not None], key=lambda call: call.index or 0)

    @property
    def whole(self) -> bool:
        """Whether any call has a name and complete arguments."""
        return any(call.name and call.arguments.whole for call in self._calls)

    def add(self, piece: Piece) -> None:
        """Take a piece. Raises `ProviderMalformed` for more than `MAX_INDEX + 1` calls."""
        call = self._call_of(piece)
        if call is None:
            call = self._begin(piece)
        if piece.key is not None:
            self._by_key[piece.key] = call
        call.id = call.id or piece.id
        # A server may send the name in pieces, or repeat it with each piece.
        if call.index is None and piece.name != call.name:
            call.name += piece.name
        if piece.extra is not None:
            call.extra = piece.extra
        call.arguments.add(piece.arguments)
        call.unsent += call.join.add(piece.arguments)
        if call.name and call.unsent:
            self._push(call)

    def end(self, *, complete: bool) -> None:
        """End the answer. If it is `complete`, a call without arguments gets `{}`."""
        for call in self._calls:
            call.unsent += call.join.rest()
            if complete and call.arguments.empty:
                call.arguments.add("{}")
                call.unsent = "{}"
            if call.name and call.unsent:
                self._push(call)

    @property
    def dropped(self) -> bool:
        """Whether any call has no name, so that nobody can execute it."""
        return any(not call.name for call in self._calls)

    def _call_of(self, piece: Piece) -> Call | None:
        """The call of a piece; None if the piece begins a new call."""
        if piece.key is not None:
            call = self._by_key.get(piece.key)
            return None if call is None or _begins_another(piece, call) else call
        newest = self._calls[-1] if self._calls else None
        if piece.id:
            # Without an index, an id decides. A server may also send the id after the first piece of its call.
            same = next((call for call in reversed(self._calls) if call.id == piece.id), None)
            adopts = newest is not None and not newest.id and not piece.name
            return same or (newest if adopts else None)
        if newest is None or (piece.name and newest.name and (piece.name != newest.name or newest.arguments.whole)):
            return None
        return newest

    def _begin(self, piece: Piece) -> Call:
        # Indexes follow the order in which calls begin, so a call without arguments gets its index first.
        if self._calls and self._calls[-1].name and self._calls[-1].index is None:
            self._push(self._calls[-1])
        call = Call(piece)
        self._calls.append(call)
        if len(self._calls) > MAX_INDEX + 1:
            raise ProviderMalformed(f"the provider sent more than {MAX_INDEX + 1} tool calls")
        return call

    def _push(self, call: Call) -> None:
        arguments, call.unsent = call.unsent, ""
        if call.index is not None:
            self._sink.tool_call(call.index, "", "", arguments)
            return
        call.index = self._pushed
        self._pushed += 1
        # A missing or repeated id is replaced, so that results can be assigned to their calls.
        known = call.id and call.id not in self.ids
        call.sent_id = call.id if known else f"call_{secrets.token_hex(12)}"
        self.ids.add(call.sent_id)
        self._sink.tool_call(call.index, call.sent_id, call.name, arguments)


def _begins_another(piece: Piece, call: Call) -> bool:
    """Whether a piece with the index of `call` begins another call."""
    if piece.id and call.id:
        return piece.id != call.id
    return bool(piece.name and call.name and call.arguments.whole)


def _piece(call: dict[str, Any]) -> Piece:
    function = call.get("function")
    function = function if isinstance(function, dict) else call
    return Piece(
        key=key_of(call.get("index")),
        id=text_of_field(call.get("id")),
        name=text_of_field(function.get("name")),
        arguments=arguments_of(function.get("arguments")),
        extra=call.get("extra_content"),
    )


def key_of(index: object) -> Hashable:
    """The key of an index: 0, 0.0 and "0" have the same key. None for any other value."""
    if isinstance(index, str) and index.isascii() and index.isdecimal():
        return index.lstrip("0") or "0"
    if isinstance(index, float) and index.is_integer():
        index = int(index)
    return str(index) if isinstance(index, int | float | str) and index != "" else None


def text_of_field(value: object) -> str:
    """The text of an id or a name, which may be a number; empty for any other value."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return clean(str(value))


def arguments_of(value: object) -> str:
    """A string unchanged (it may end within a surrogate pair), any other value as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json_text(value)
