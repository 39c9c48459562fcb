"""Collects the arguments of a tool call from pieces, and detects when they are complete."""

from __future__ import annotations

import re

from parley_server.providers.reading.events import clean
from parley_server.providers.reading.json_values import is_object

_STRUCTURE = re.compile(r'[{}\[\]"]')
_IN_STRING = re.compile(r'\\.|"', re.DOTALL)


class Arguments:
    """The arguments of a call. Detects in linear time when they are a complete JSON object."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._unscanned: list[str] = []
        self._depth = 0
        self._broken = False
        self._in_string = False
        self._escape = ""

    @property
    def empty(self) -> bool:
        """Whether there is only white space."""
        return not any(piece.strip() for piece in self._pieces)

    @property
    def text(self) -> str:
        """The arguments so far."""
        return clean("".join(self._pieces))

    def add(self, text: str) -> None:
        """Append a piece."""
        if text:
            self._pieces.append(text)
            self._unscanned.append(text)

    @property
    def whole(self) -> bool:
        """Whether the arguments are a complete JSON object."""
        if self._unscanned:
            self._scan("".join([self._escape, *self._unscanned]))
            self._unscanned = []
        if self._depth or self._in_string or self._broken or self.empty:
            return False
        self._broken = not is_object(self.text)  # all brackets are closed: no later piece can correct it
        return not self._broken

    def _scan(self, text: str) -> None:
        """Track strings and brackets, so that the JSON is decoded only when all brackets are closed."""
        self._escape = ""
        place = 0
        while True:
            found = (_IN_STRING if self._in_string else _STRUCTURE).search(text, place)
            if found is None:
                break
            place = found.end()
            mark = found.group()
            if mark == '"':
                self._in_string = not self._in_string
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
        if self._in_string and text.endswith("\\") and place < len(text):
            self._escape = "\\"  # the escaped character comes with the next piece
