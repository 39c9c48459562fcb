"""Joins the halves of UTF-16 surrogate pairs that a provider's JSON escapes have split between two deltas."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGH_AT_END = re.compile("[\ud800-\udbff]\\Z")


class SurrogateJoin:
    """Takes texts that may hold lone surrogates and gives out whole code points; what finds no other half is U+FFFD."""

    def __init__(self) -> None:
        self.held = ""

    def add(self, text: str) -> str:
        """The text, with the half held back before it, and without a half at its end, which is held back."""
        if self.held and text:
            text = self.held + text
            self.held = ""
        if not _SURROGATE.search(text):
            return text
        if _HIGH_AT_END.search(text):
            self.held = text[-1]
            text = text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def rest(self) -> str:
        """What is still held back, at the end."""
        held, self.held = self.held, ""
        return "\N{REPLACEMENT CHARACTER}" if held else ""
