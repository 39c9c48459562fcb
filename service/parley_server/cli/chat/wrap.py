"""Wraps text at word boundaries while it streams into a terminal, piece by piece."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

_TAB_COLUMNS = 8


class WordWrap:
    """Tracks the cursor's column and the word before it.

    Each piece is written as soon as it arrives. A word that outgrows the line is erased with backspaces and written
    again on the next line. The last column stays empty, because terminals differ in when they wrap after it.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._column = 0
        self._word = ""

    def wrap(self, piece: str) -> str:
        """The characters to write for `piece`, which has no control characters other than tab and newline."""
        out: list[str] = []
        last = max(1, self._columns() - 1)
        for character in piece:
            if character == "\n":
                self._new_line(out)
            elif character in " \t":
                self._space(out, character, last)
            else:
                self._letter(out, character, last)
        return "".join(out)

    def _new_line(self, out: list[str]) -> None:
        out.append("\n")
        self._column, self._word = 0, ""

    def _space(self, out: list[str], character: str, last: int) -> None:
        columns = 1 if character == " " else _TAB_COLUMNS - self._column % _TAB_COLUMNS
        if self._column + columns > last:
            self._new_line(out)
            return
        out.append(character)
        self._column, self._word = self._column + columns, ""

    def _letter(self, out: list[str], character: str, last: int) -> None:
        columns = columns_of(character)
        if columns == 2:
            self._word = ""  # a line may break before each character of Chinese, Japanese and Korean
        if self._column + columns > last:
            self._move_word(out, columns, last)
        out.append(character)
        self._column += columns
        self._word += character

    def _move_word(self, out: list[str], columns: int, last: int) -> None:
        """Move the word to a new line, or break it if it is longer than a line."""
        word, width = self._word, columns_of(self._word)
        self._word = ""
        if width == self._column or width + columns > last:
            self._new_line(out)
            return
        # The part of the word that came with this piece is not on the screen yet; the part before it must be erased.
        here = min(len(word), len(out))
        if here:
            del out[-here:]
        out.append("\b \b" * columns_of(word[: len(word) - here]) + "\n" + word)
        self._column, self._word = width, word


def columns_of(text: str) -> int:
    """The number of terminal columns that the text takes."""
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
