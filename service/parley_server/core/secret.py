"""Texts that no log line and no error may contain."""

from __future__ import annotations

import hashlib


class Secret:
    """A key. Its `repr` and its `str` do not contain it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "***"

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    @property
    def fingerprint(self) -> str:
        """Identifies the text without revealing it: 16 hexadecimal digits."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:16]
