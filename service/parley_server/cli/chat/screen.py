"""Writes text, notes and errors to the terminal, or to plain streams if the output is redirected.

Control characters from a model or a server are never written.
"""

from __future__ import annotations

import os
import re
from typing import Final, TextIO

from parley import ParleyError

from parley_server.cli.chat.wrap import WordWrap

# C0 and C1 controls except tab and newline, and the characters that reverse the direction of text.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_COLUMNS: Final = 80


class Screen:
    """Writes answers to `out`. Notes and errors go to `out` if it is a terminal, otherwise to `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._notes = out if self._is_terminal else err
        self._at_line_start = True
        self._wrap = WordWrap(self._columns)

    def text(self, piece: str) -> None:
        """Show a piece of an answer at once."""
        self._write(clean(piece))

    def dimmed(self, piece: str) -> None:
        """Show a piece of reasoning: dimmed on a terminal, otherwise written to the stream of notes."""
        if self._is_terminal:
            self._write(clean(piece), style="\x1b[2m")
        else:
            self._notes.write(clean(piece))
            self._notes.flush()

    def line(self, line: str = "") -> None:
        """Write a whole line."""
        self.end_line()
        self._write(clean(line) + "\n")

    def note(self, line: str) -> None:
        """Write a line about the chat that is not part of it."""
        if self._is_terminal:
            self.end_line()
            self._write(clean(line), style="\x1b[2m")
            self._write("\n")
            return
        self._notes.write(clean(line) + "\n")
        self._notes.flush()

    def error(self, error: ParleyError, *, hint: str = "") -> None:
        """Write an error in one line, with an optional hint on what to do."""
        reason = f" ({error.reason})" if error.reason else ""
        self.note(f"error: {error.message}{reason}{hint}")

    def end_line(self) -> None:
        """Start a new line unless the cursor is at the start of one."""
        if not self._at_line_start:
            self._write("\n")

    def _write(self, piece: str, *, style: str = "") -> None:
        if not piece:
            return
        self._at_line_start = piece.endswith("\n")
        if self._is_terminal:
            piece = self._wrap.wrap(piece)
        self._out.write(f"{style}{piece}\x1b[0m" if style and self._is_terminal else piece)
        self._out.flush()

    def _columns(self) -> int:
        """The width of the terminal; 80 if unknown."""
        # Read for each piece, because the window may be resized during an answer.
        return os.get_terminal_size(self._out.fileno()).columns or _COLUMNS


def clean(text: str) -> str:
    """Remove the characters that control a terminal."""
    return _CONTROLS.sub("", text)
