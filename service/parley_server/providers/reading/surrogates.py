"""Joins UTF-16 surrogate pairs that a provider's JSON escapes have split between two deltas."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGH_AT_END = re.compile("[\ud800-\udbff]\\Z")


class SurrogateJoin:
    """Turns texts with lone surrogates into whole code points. A surrogate without its other half becomes U+FFFD."""

    def __init__(self) -> None:
        self.held = ""

    def add(self, text: str) -> str:
        """The held half followed by the text, without a high surrogate at its end, which is held for the next text."""
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
        """The text for a half that is still held at the end: U+FFFD, or empty."""
        held, self.held = self.held, ""
        return "\N{REPLACEMENT CHARACTER}" if held else ""
