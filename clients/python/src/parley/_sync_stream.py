"""The events of one reply for blocking callers."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from parley import _fork
from parley._background import Caller, Work, next_item
from parley._stream import ReplyStream
from parley.events import Accepted, Event, Finished, ToolCall
from parley.v1 import resources_pb2


class SyncReplyStream:
    """An iterator over the events of one reply, which reconnects after cuts, and a context manager. See `ReplyStream`.

    It reads from the network only while a thread waits for an event. Threads that read it at the same time have the
    events in turn. `break`, the end of the `with` block and `close` end the call at once; the request's `on_disconnect`
    decides whether the reply continues. Any thread may call `close` and `cancel`. After a Ctrl-C or another exception
    in a waiting thread no event is lost: read on.
    """

    def __init__(self, caller: Caller, stream: ReplyStream) -> None:
        self._caller = caller
        self._inner = stream
        self._reading = threading.Lock()
        self._work: Work[Event | None] | None = None
        self._is_open = False

    @property
    def request_id(self) -> str:
        """See `ReplyStream.request_id`."""
        return self._inner.request_id

    @property
    def reply_id(self) -> str:
        """See `ReplyStream.reply_id`."""
        return self._inner.reply_id

    @property
    def conversation_id(self) -> str:
        """See `ReplyStream.conversation_id`."""
        return self._inner.conversation_id

    @property
    def message_id(self) -> str:
        """See `ReplyStream.message_id`."""
        return self._inner.message_id

    @property
    def accepted(self) -> Accepted | None:
        """See `ReplyStream.accepted`."""
        return self._inner.accepted

    @property
    def sequence(self) -> int:
        """See `ReplyStream.sequence`."""
        return self._inner.sequence

    @property
    def text(self) -> str:
        """See `ReplyStream.text`."""
        return self._inner.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """See `ReplyStream.tool_calls`."""
        return self._inner.tool_calls

    @property
    def finished(self) -> Finished | None:
        """See `ReplyStream.finished`."""
        return self._inner.finished

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.read()
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, timeout_s: float | None = None) -> Event | None:
        """Returns the next event, or None after the last one.

        Raises TimeoutError after `timeout_s`, like `asyncio.timeout` around the asynchronous stream: the call ends, and
        the next read continues without loss. While another thread waits for an event, its call continues.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._reading.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s)):
            raise _no_event(timeout_s)
        try:
            while True:
                work = self._started()
                in_time = self._wait(work, None if until_s is None else until_s - time.monotonic())
                self._work = None
                if not in_time:
                    raise _no_event(timeout_s)
                if work.is_cancelled:  # an earlier read was interrupted
                    continue
                event = work.outcome()
                self._is_open = event is not None
                return event
        finally:
            self._reading.release()

    def close(self) -> None:
        """Ends the call, not the reply. A waiting thread then gets the end of the stream. See `ReplyStream.aclose`."""
        if not _fork.is_forked():
            self._caller.core.background.run(self._inner.aclose())
        self._is_open = False

    def cancel(self, reason: str = "") -> resources_pb2.Reply | None:
        """Cancels the reply on the server. See `ReplyStream.cancel`."""
        return self._caller.run(self._inner.cancel(reason))

    def __del__(self) -> None:
        # Ends the call after a `break`, which calls no other method.
        if self._is_open:
            self._caller.core.background.part(self._inner.aclose)

    def _started(self) -> Work[Event | None]:
        """The read that is in progress, or a new one."""
        if self._work is None:
            self._work = Work(next_item(self._inner))
        if not self._work.is_started:
            self._is_open = True
            try:
                self._caller.core.background.start(self._work)
            except Exception:
                self._work = None
                raise
        return self._work

    def _wait(self, work: Work[Event | None], timeout_s: float | None) -> bool:
        """Waits until the read is over. After `timeout_s` it is cancelled; False if this left no event."""
        background = self._caller.core.background
        try:
            if work.wait(timeout_s):
                return True
        except BaseException:
            background.cancel(work)  # it may have an event nevertheless: the next read takes it
            raise
        background.cancel(work)
        work.wait()
        return not work.is_cancelled


def _no_event(timeout_s: float | None) -> TimeoutError:
    return TimeoutError(f"no event within {timeout_s:g} s")
