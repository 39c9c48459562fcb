"""Shows one reply in the terminal while it streams."""

from __future__ import annotations

import asyncio
import enum
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
from parley.errors import RateLimited

from parley_server.cli.chat.screen import Screen


class ReplyOutcome(enum.Enum):
    """How a reply ended for the terminal."""

    COMPLETED = enum.auto()
    STOPPED = enum.auto()
    FAILED = enum.auto()
    # The user left; the reply may still be running.
    LEFT = enum.auto()


class ReplyView:
    """Shows one reply while it streams. Ctrl-C cancels the reply; a second Ctrl-C leaves without waiting for that."""

    def __init__(self, stream: ReplyStream, screen: Screen, *, reasoning: bool = False) -> None:
        self._stream = stream
        self._screen = screen
        self._reasoning = reasoning
        self._shown: list[str] = []
        self._reconnecting = False
        self._in_reasoning = False

    async def follow(self) -> ReplyOutcome:
        """Show the reply until it has ended or the user has left. Errors are shown, not raised."""
        showing = asyncio.create_task(self._show_all())
        stopping: list[asyncio.Task[None]] = []

        def interrupt() -> None:
            if stopping:
                showing.cancel()
            else:
                stopping.append(asyncio.create_task(self._stop()))

        try:
            with _on_interrupt(interrupt):
                await asyncio.wait({showing})  # unlike an await, it does not raise if the second Ctrl-C cancels it
        finally:
            for task in (showing, *stopping):
                task.cancel()
            await asyncio.gather(showing, *stopping, return_exceptions=True)
            await self._stream.aclose()
            self._screen.end_line()
        if showing.cancelled():
            self._screen.note("left; the reply may still be running")
            return ReplyOutcome.LEFT
        return showing.result()

    async def _show_all(self) -> ReplyOutcome:
        try:
            async for event in self._stream:
                self._show(event)
        except ReplyFailed as failure:
            self._screen.error(failure, hint="; /retry tries again" if failure.retryable else "")
            return ReplyOutcome.FAILED
        except ReplyInProgress as error:
            self._screen.error(error, hint=f"; /open {self._stream.conversation_id} follows it")
            return ReplyOutcome.FAILED
        except ParleyError as error:
            self._screen.error(error)
            return ReplyOutcome.FAILED
        return self._end(self._stream.finished)

    def _show(self, event: Event) -> None:
        if isinstance(event, Reconnecting):
            if not self._reconnecting:
                self._screen.note(_pause_note(event))
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
        if whole.startswith(shown):  # what is on the screen is not repeated
            self._screen.text(whole[len(shown) :])
            return
        self._screen.note("... some of this was lost; the answer so far:")
        self._screen.text(whole)

    def _end(self, finished: Finished | None) -> ReplyOutcome:
        if finished is None:
            return ReplyOutcome.LEFT
        if finished.reason in {"CANCELLED", "ORPHANED", "INTERRUPTED"}:
            self._screen.note("stopped")
            return ReplyOutcome.STOPPED
        if finished.reason != "STOP":
            self._screen.note(f"ended early: {finished.reason.lower().replace('_', ' ')}")
        return ReplyOutcome.COMPLETED

    async def _stop(self) -> None:
        try:
            await self._stream.cancel("stopped in the terminal")
        except ParleyError as error:
            self._screen.error(error, hint="; Ctrl-C again leaves")


def _pause_note(pause: Reconnecting) -> str:
    if isinstance(pause.error, RateLimited):
        return f"... {pause.error.message}; waiting {math.ceil(pause.delay_s)} s"
    return "... reconnecting"


@contextmanager
def _on_interrupt(interrupt: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
