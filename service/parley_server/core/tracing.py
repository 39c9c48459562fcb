"""The port for traces: spans of calls, replies, attempts, summaries and takeovers. Without tracing, spans do nothing.

The core and the adapters call this port; only `telemetry.otel` uses OpenTelemetry. The span of the current task is in
`current_span`: it is the parent of the spans that start there, and its ids are part of the log lines that are written
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

from parley_server.core.model import Prompt, Reply
from parley_server.core.observer import AttemptEnded, CallEnded, Target


class Span(Protocol):
    """One operation. `trace_id` and `span_id` are lower-case hex digits, empty without tracing; they exist also where
    the operation is not sampled, which means that nothing of it is exported."""

    @property
    def trace_id(self) -> str:
        """32 digits."""

    @property
    def span_id(self) -> str:
        """16 digits."""

    @property
    def sampled(self) -> bool:
        """Whether it is exported."""

    @property
    def ended(self) -> bool:
        """Whether the operation has ended. Background tasks that it has started may outlive it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The W3C trace context to send with requests that belong to the operation; empty without tracing."""


class CallSpan(Span, Protocol):
    """The span of an RPC."""

    def end(self, call: CallEnded, /) -> None:
        """The call has ended."""


class ReplySpan(Span, Protocol):
    """The span of a reply, from its acceptance until its end is stored."""

    def end(self, reply: Reply, /) -> None:
        """The reply has ended as it is stored."""


class AttemptSpan(Span, Protocol):
    """The span of one request to a provider."""

    @property
    def needs_answer(self) -> bool:
        """Whether the end must have the answer: the configuration allows prompts and answers in traces."""

    def end(self, attempt: AttemptEnded, /) -> None:
        """The request has ended."""


class WorkSpan(Span, Protocol):
    """The span of a summary or a takeover."""

    def end(self, outcome: str, /) -> None:
        """The work has ended; `outcome` is one of a few fixed words."""


class Tracer(Protocol):
    """Starts spans. No method waits, raises or does I/O."""

    def call(self, method: str, metadata: Mapping[str, str]) -> CallSpan:
        """An RPC has begun. The trace context of the caller is in its metadata; an invalid one is ignored."""

    def reply(self, reply: Reply) -> ReplySpan:
        """A reply was accepted. Its span begins a trace of its own, since it outlives the call, and has a link to the
        current span, which decides whether it is sampled."""

    def attempt(self, prompt: Prompt, target: Target, number: int) -> AttemptSpan:
        """A provider is asked, the `number`-th time for the same reply or summary (from 1)."""

    def summary(self, conversation_id: str) -> WorkSpan:
        """A summary of a conversation is about to be written, because of the reply whose span is the current one."""

    def takeover(self, reply: Reply) -> WorkSpan:
        """A reply of a dead replica is about to be ended. The span has a link to that of the reply."""


class NoSpan:
    """Implements every kind of span without tracing."""

    trace_id = span_id = ""
    sampled = False
    ended = False
    needs_answer = False
    headers: Mapping[str, str] = {}

    def end(self, _: object, /) -> None:
        """Nothing to end."""


NO_SPAN = NoSpan()


class NoTracer:
    """Implements `Tracer` without tracing."""

    def call(self, method: str, metadata: Mapping[str, str]) -> CallSpan:  # noqa: ARG002 - nothing is recorded
        """See `Tracer`."""
        return NO_SPAN

    def reply(self, reply: Reply) -> ReplySpan:  # noqa: ARG002 - the same
        """See `Tracer`."""
        return NO_SPAN

    def attempt(self, prompt: Prompt, target: Target, number: int) -> AttemptSpan:  # noqa: ARG002 - the same
        """See `Tracer`."""
        return NO_SPAN

    def summary(self, conversation_id: str) -> WorkSpan:  # noqa: ARG002 - the same
        """See `Tracer`."""
        return NO_SPAN

    def takeover(self, reply: Reply) -> WorkSpan:  # noqa: ARG002 - the same
        """See `Tracer`."""
        return NO_SPAN


NO_TRACER = NoTracer()

current_span: ContextVar[Span] = ContextVar("current_span", default=NO_SPAN)


class _Within:
    # A class, since a generator costs more, and would be part of the tracebacks of all errors.
    __slots__ = ("_before", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._before = current_span.set(self._span)

    def __exit__(self, *_: object) -> None:
        current_span.reset(self._before)


def within(span: Span) -> AbstractContextManager[None]:
    """Make a span the current one meanwhile, also of the tasks and timers that are created."""
    return _Within(span)
