"""How the terminal chat looks: text as it comes, notes beside it, plain where nobody looks at a terminal.

It never writes a control character that came from a model or a server.
"""

from __future__ import annotations

import asyncio
import enum
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from parley import (
    Event,
    Finished,
    ParleyError,
    Reasoning,
    Reconnecting,
    ReplyFailed,
    ReplyInProgress,
    ReplyStream,
    Snapshot,
    Text,
)

from parley_server.terminal_wrap import WordWrap

# C0 and C1 controls but for tab and newline, and the marks that reverse the direction of text.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_COLUMNS: Final = 80


class Outcome(enum.Enum):
    """How an answer ended, as far as the terminal saw it."""

    COMPLETED = enum.auto()
    STOPPED = enum.auto()
    FAILED = enum.auto()
    # The user went away; the reply may still be running.
    LEFT = enum.auto()


class Screen:
    """Writes answers to `out`, and notes and errors to `out` too where it is a terminal, else to `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._notes = out if self._is_terminal else err
        self._at_line_start = True
        self._wrap = WordWrap(self._columns)

    def text(self, piece: str) -> None:
        """A piece of an answer, shown at once."""
        self._write(clean(piece))

    def dimmed(self, piece: str) -> None:
        """A piece of reasoning; on a plain screen it goes where notes go."""
        if self._is_terminal:
            self._write(clean(piece), style="\x1b[2m")
        else:
            self._notes.write(clean(piece))
            self._notes.flush()

    def line(self, line: str = "") -> None:
        """A line of its own."""
        self.end_line()
        self._write(clean(line) + "\n")

    def note(self, line: str) -> None:
        """A remark about the chat, not part of it."""
        if self._is_terminal:
            self.end_line()
            self._write(clean(line), style="\x1b[2m")
            self._write("\n")
            return
        self._notes.write(clean(line) + "\n")
        self._notes.flush()

    def error(self, error: ParleyError, *, hint: str = "") -> None:
        """What went wrong, in one line."""
        reason = f" ({error.reason})" if error.reason else ""
        self.note(f"error: {error.message}{reason}{hint}")

    def end_line(self) -> None:
        """Goes to the start of a line, if it is not there."""
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
        """The width of the terminal; of one that does not know it, 80."""
        return os.get_terminal_size(self._out.fileno()).columns or _COLUMNS


def clean(text: str) -> str:
    """The text without what could steer a terminal."""
    return _CONTROLS.sub("", text)


class Answer:
    """Shows one reply while it is written. Ctrl-C stops the reply; a second one stops waiting for that."""

    def __init__(self, stream: ReplyStream, screen: Screen, *, reasoning: bool = False) -> None:
        self._stream = stream
        self._screen = screen
        self._reasoning = reasoning
        self._shown: list[str] = []
        self._reconnecting = False
        self._in_reasoning = False

    async def follow(self) -> Outcome:
        """Returns when the reply has ended or the user has left; errors are shown, not raised."""
        showing = asyncio.create_task(self._show_all())
        stopping: list[asyncio.Task[None]] = []

        def interrupt() -> None:
            if stopping:
                showing.cancel()
            else:
                stopping.append(asyncio.create_task(self._stop()))

        try:
            with _on_interrupt(interrupt):
                await asyncio.wait({showing})
        finally:
            for task in (showing, *stopping):
                task.cancel()
            await asyncio.gather(showing, *stopping, return_exceptions=True)
            await self._stream.aclose()
            self._screen.end_line()
        if showing.cancelled():
            self._screen.note("left; the reply may still be running")
            return Outcome.LEFT
        return showing.result()

    async def _show_all(self) -> Outcome:
        try:
            async for event in self._stream:
                self._show(event)
        except ReplyFailed as failure:
            self._screen.error(failure, hint="; /retry tries again" if failure.retryable else "")
            return Outcome.FAILED
        except ReplyInProgress as error:
            self._screen.error(error, hint=f"; /open {self._stream.conversation_id} follows it")
            return Outcome.FAILED
        except ParleyError as error:
            self._screen.error(error)
            return Outcome.FAILED
        return self._end(self._stream.finished)

    def _show(self, event: Event) -> None:
        if isinstance(event, Reconnecting):
            if not self._reconnecting:
                self._screen.note("... reconnecting")
            self._reconnecting = True
            return
        self._reconnecting = False
        if isinstance(event, Text):
            self._show_text(event.text)
        elif isinstance(event, Snapshot):
            self._show_snapshot(event.text)
        elif isinstance(event, Reasoning) and self._reasoning:
            self._in_reasoning = True
            self._screen.dimmed(event.text)

    def _show_text(self, piece: str) -> None:
        if self._in_reasoning:
            self._screen.end_line()
            self._in_reasoning = False
        self._shown.append(piece)
        self._screen.text(piece)

    def _show_snapshot(self, whole: str) -> None:
        shown = "".join(self._shown)
        self._shown = [whole]
        if whole.startswith(shown):
            self._screen.text(whole[len(shown) :])
            return
        self._screen.note("... some of this was lost; the answer so far:")
        self._screen.text(whole)

    def _end(self, finished: Finished | None) -> Outcome:
        if finished is None:
            return Outcome.LEFT
        if finished.reason in {"CANCELLED", "ORPHANED", "INTERRUPTED"}:
            self._screen.note("stopped")
            return Outcome.STOPPED
        if finished.reason != "STOP":
            self._screen.note(f"ended early: {finished.reason.lower().replace('_', ' ')}")
        return Outcome.COMPLETED

    async def _stop(self) -> None:
        try:
            await self._stream.cancel("stopped in the terminal")
        except ParleyError as error:
            self._screen.error(error, hint="; Ctrl-C again leaves")


@contextmanager
def _on_interrupt(interrupt: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
