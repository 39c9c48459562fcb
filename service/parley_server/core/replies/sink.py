"""Takes a provider's output, merges what one socket read has delivered, and appends it to the log.

While the process is busy, text is collected for a short time to save work: never the first token, and never across an
entry of another kind. Nothing here awaits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from parley_server.core.counts import INT32_MAX, credible
from parley_server.core.events import (
    Entry,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageUpdate,
    merge,
    size_of,
    utf8_prefix,
    utf8_size,
)
from parley_server.core.field_checks import shortened_call_id
from parley_server.core.model import Kept, Model, Usage
from parley_server.core.ports import Clock, Timer
from parley_server.core.replies.log import Log
from parley_server.errors import ProviderMalformed

USAGE_INTERVAL_S = 1.0
"""Usage is numbered with the first content, then at most this often, and at the end: some providers send it with every
token."""
MAX_KEPT_BYTES = 512 * 1024
"""Wire items of one reply that are kept for the next request of its tool turn. Above it, none of them is kept, because
vendors refuse a part of them."""
MAX_WINDOW_S = 0.05
MAX_OPEN_BYTES = 4096
BUSY = 0.7


def window_s(utilisation: float) -> float:
    """How long text may be held open at this utilisation (0 to 1) of the event loop, in seconds."""
    if utilisation <= BUSY:
        return 0.0
    return MAX_WINDOW_S * min(1.0, (utilisation - BUSY) / (1.0 - BUSY))


class FlushWindow:
    """The time for which sinks collect text, shared by all sinks of a process, because a timer for each would cost more
    than it saves. It starts with the first sink that holds text, and flushes all of them at its end."""

    def __init__(self, clock: Clock, *, utilisation: Callable[[], float]) -> None:
        self._clock = clock
        self._utilisation = utilisation
        self._held: dict[LogSink, None] = {}
        self._timer: Timer | None = None

    @property
    def busy(self) -> bool:
        """Whether the process is so busy that text should wait."""
        return self._utilisation() > BUSY

    def hold(self, sink: LogSink) -> None:
        """Close this sink at the end of the window."""
        self._held[sink] = None
        if self._timer is None:
            due = self._clock.monotonic() + window_s(self._utilisation())
            self._timer = self._clock.call_at(due, self._close_all)

    def let_go(self, sink: LogSink) -> None:
        """A sink was closed before the end of the window."""
        if self._held.pop(sink, sink) is None and not self._held and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_all(self) -> None:
        self._timer = None
        held, self._held = self._held, {}
        for sink in held:
            sink.close()


class LogSink:
    """Implements `RouteSink` for one reply. `on_full` is called when the reply reaches `max_bytes`; the rest is
    dropped. `on_first` is called with the first content; it must not do any work at once."""

    __slots__ = (
        "_clock",
        "_kept",
        "_kept_bytes",
        "_log",
        "_on_first",
        "_on_full",
        "_open_bytes",
        "_pending",
        "_room",
        "_usage_due_s",
        "_usage_waits",
        "_window",
        "asked",
        "last_usage",
    )

    def __init__(
        self,
        log: Log,
        clock: Clock,
        *,
        window: FlushWindow,
        max_bytes: int,
        on_full: Callable[[], None],
        on_first: Callable[[], None],
    ) -> None:
        self._log = log
        self._clock = clock
        self._window = window
        self._room = max_bytes
        self._on_full = on_full
        self._on_first = on_first
        self._pending: list[Entry] = []
        self._open_bytes = 0
        self._usage_waits = False
        self._usage_due_s = -math.inf
        self.last_usage: Usage | None = None
        self.asked: Model | None = None
        self._kept: dict[str, list[str]] = {}
        self._kept_bytes = 0

    @property
    def reply_id(self) -> str:
        """The id of the reply."""
        return self._log.reply.id

    def asks(self, model: Model) -> None:
        """From now on, readers, the stored end and the price show this model."""
        self.asked = model
        reply = self._log.reply
        if reply.model != model.alias:
            self._log.reply = msgspec.structs.replace(reply, model=model.alias, provider=model.provider)
            self._log.hurried = True  # the row names the requested model, whose price a takeover would use

    def text(self, text: str) -> None:
        """Text of the answer."""
        if text:
            self._push(TextDelta(text))

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        """Reasoning text."""
        if text or signature:
            self._push(ReasoningDelta(text, signature))

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        """A piece of a tool call. Raises `ProviderMalformed` for an index that the contract cannot hold."""
        if not 0 <= index <= INT32_MAX:
            raise ProviderMalformed("the provider numbered a tool call outside of 0 to 2147483647")
        self._push(ToolCallDelta(index, shortened_call_id(call_id), name, arguments))

    def usage(self, usage: Usage) -> None:
        """The provider's count so far, unless it is implausible. The newest is kept, and appended at intervals."""
        if not self._log.sealed and usage != self.last_usage and credible(usage):
            self.last_usage = usage
            self._usage_waits = True

    def keep(self, origin: str, item: str) -> None:
        """A wire item for the next request of the tool turn. It is in no log entry: readers have no use for it."""
        if self._log.sealed:
            return
        self._kept_bytes += utf8_size(item)
        if self._kept_bytes > MAX_KEPT_BYTES:
            self._kept.clear()
        else:
            self._kept.setdefault(origin, []).append(item)

    @property
    def kept(self) -> Kept | None:
        """The wire items of the model that answered; None if there are none, or too many to store."""
        if not self._kept:
            return None
        origin, items = list(self._kept.items())[-1]
        return Kept(origin=origin, items=tuple(items))

    @property
    def kept_too_large(self) -> bool:
        """Whether wire items were dropped because they are too large to store."""
        return self._kept_bytes > MAX_KEPT_BYTES

    def flush(self) -> None:
        """End of one read: append its content, or hold it for the window while the process is busy."""
        if self._usage_waits:
            self._number_usage()
        if not self._pending:
            return
        if self._window.busy and self._may_wait():
            self._window.hold(self)
        else:
            self.close()

    def close(self) -> None:
        """Append everything that is held."""
        if not self._pending:
            return
        self._window.let_go(self)
        pending, self._pending, self._open_bytes = self._pending, [], 0
        if not self._log.first_token_time_us and any(not isinstance(entry, UsageUpdate) for entry in pending):
            self._log.first_token_time_us = self._clock.now_us()
            self._on_first()
        if len(pending) == 1:
            self._log.append(pending[0])
            return
        for _, entry in merge(pending):
            self._log.append(entry)

    def seal(self) -> None:
        """Append everything that is held, and accept no more."""
        if self._usage_waits and not self._log.sealed:
            self._add_usage()
        self.close()
        self._log.seal()
        self._on_full = self._on_first = (
            _nothing  # it refers to the reply, which refers to this: no reference cycle may remain
        )

    def _number_usage(self) -> None:
        begun = self._log.first_token_time_us or self._pending
        now_s = self._clock.monotonic()
        if begun and now_s >= self._usage_due_s:
            self._usage_due_s = now_s + USAGE_INTERVAL_S
            self._add_usage()

    def _add_usage(self) -> None:
        assert self.last_usage is not None
        self._usage_waits = False
        self._pending.append(UsageUpdate(self.last_usage))

    def _push(self, entry: Entry) -> None:
        if self._log.sealed or self._room <= 0:
            return
        size = size_of(entry)
        fitting = entry if size <= self._room else _cut(entry, self._room)
        self._room -= size
        self._open_bytes += size
        if fitting is not None:
            self._pending.append(fitting)
        if self._room <= 0:
            self.close()
            self._on_full()

    def _may_wait(self) -> bool:
        if not self._log.first_token_time_us or self._open_bytes >= MAX_OPEN_BYTES:
            return False
        return all(isinstance(entry, TextDelta) for entry in self._pending)


def _cut(entry: Entry, size: int) -> Entry | None:
    """The part of an entry that fits `size` bytes, without the signature, which is only valid for the whole text."""
    if isinstance(entry, TextDelta):
        text = utf8_prefix(entry.text, size)
        return TextDelta(text) if text else None
    if isinstance(entry, ReasoningDelta):
        text = utf8_prefix(entry.text, size)
        return ReasoningDelta(text) if text else None
    assert isinstance(entry, ToolCallDelta)
    left = size - utf8_size(entry.name) - utf8_size(entry.id)
    return None if left < 0 else msgspec.structs.replace(entry, arguments=utf8_prefix(entry.arguments, left))


def _nothing() -> None:
    """Nothing follows once the sink is sealed."""
