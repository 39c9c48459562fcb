"""The spans of `core.tracing`. When one has ended, the thread that exports writes it into a message of OTLP."""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags

from parley_server.core.model import Finish, Prompt, Reply, State, Usage
from parley_server.core.observer import AttemptEnded, CallEnded, Target
from parley_server.telemetry import genai
from parley_server.telemetry.logs import end_reason
from parley_server.telemetry.otel.attributes import (
    CALL_ID,
    CONVERSATION,
    FIRST_CHUNK,
    FIRST_TOKEN,
    REPLY_ID,
    RESPONSE_ID,
    of_call,
    of_outcome,
    of_reply,
    of_settings,
    of_target,
    of_usage,
    serialized,
)
from parley_server.telemetry.otel.export import SpanExport

BAD_OUTCOMES = ("failed", "timeout")
SAMPLED, RANDOM = 1, 2
"""Flags of the W3C trace context. The second means that the last 7 bytes of the trace id are random."""
LOCAL_PARENT = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
REMOTE_PARENT = LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class Place:
    """Where a span is in its trace: its ids, its parent, and the one span with which it has a link."""

    __slots__ = ("flags", "is_remote", "link", "parent", "span", "state", "trace")

    def __init__(self, trace: bytes, span: bytes, *, parent: bytes = b"", flags: int) -> None:
        self.trace = trace
        self.span = span
        self.parent = parent
        self.flags = flags
        self.is_remote = False
        self.state = ""
        self.link: tuple[bytes, bytes] | None = None


class OtelSpan:
    """Implements `core.tracing.Span`.

    An end keeps the values that the kind of span needs and puts the span into the queue; all else happens in the
    thread that exports. Spans keep no reply, prompt or answer, since those may be large, and thousands of spans may
    wait."""

    __slots__ = ("_ended_ns", "_export", "_name", "_started_ns", "conversation_id", "ended", "place", "sampled")

    kind = Message.SPAN_KIND_INTERNAL

    def __init__(self, export: SpanExport, place: Place, name: str, conversation_id: str = "") -> None:
        self._export = export
        self._name = name
        self._started_ns = self._ended_ns = time.time_ns()
        self.place = place
        self.conversation_id = conversation_id
        self.ended = False
        self.sampled = bool(place.flags & SAMPLED)

    @property
    def trace_id(self) -> str:
        """See `Span`."""
        return self.place.trace.hex()

    @property
    def span_id(self) -> str:
        """See `Span`."""
        return self.place.span.hex()

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Span`."""
        place = self.place
        return {"traceparent": f"00-{place.trace.hex()}-{place.span.hex()}-{place.flags:02x}"}

    def _end(self) -> None:
        """Export it, if it is sampled."""
        self.ended = True
        if self.sampled:
            self._ended_ns = time.time_ns()
            self._export.add(self._write)

    # --- in the thread that exports

    def _write(self, message: Message) -> None:
        """Write it into an empty message."""
        place = self.place
        message.name = self._name
        message.kind = self.kind
        message.trace_id = place.trace
        message.span_id = place.span
        message.parent_span_id = place.parent
        message.trace_state = place.state
        message.flags = place.flags | (REMOTE_PARENT if place.is_remote else LOCAL_PARENT)
        message.start_time_unix_nano = self._started_ns
        message.end_time_unix_nano = self._ended_ns
        if place.link is not None:
            message.links.add(trace_id=place.link[0], span_id=place.link[1])
        message.MergeFromString(self._attributes())

    def _attributes(self) -> bytes:
        """The attributes and the status, serialized."""
        raise NotImplementedError


class CallSpan(OtelSpan):
    """See `core.tracing.CallSpan`."""

    __slots__ = ("_call",)

    kind = Message.SPAN_KIND_SERVER

    def end(self, call: CallEnded, /) -> None:
        """See `CallSpan`."""
        self._call = call
        self._end()

    def _attributes(self) -> bytes:
        call = self._call
        return (
            of_call(self._name, call.code, call.reason, call.tenant)
            + CALL_ID.of(call.call_id)
            + REPLY_ID.of(call.reply_id)
        )


class ReplySpan(OtelSpan):
    """See `core.tracing.ReplySpan`."""

    __slots__ = ("_ending", "_first_token_s", "_reply_id")

    def end(self, reply: Reply, /) -> None:
        """See `ReplySpan`."""
        if self.sampled:
            first_us = reply.first_token_time_us
            self._reply_id = reply.id
            self._first_token_s = max(0, first_us - reply.create_time_us) / 1e6 if first_us else None
            self._ending: tuple[State, str, str, str] = (
                reply.state,
                end_reason(reply),
                reply.model or reply.requested_model,
                reply.tenant,
            )
        self._end()

    def _attributes(self) -> bytes:
        return (
            of_reply(*self._ending)
            + CONVERSATION.of(self.conversation_id)
            + REPLY_ID.of(self._reply_id)
            + FIRST_TOKEN.of(self._first_token_s)
        )


class AttemptSpan(OtelSpan):
    """See `core.tracing.AttemptSpan`."""

    # It holds no prompt, since a connection that is kept for later requests refers to it.
    __slots__ = (
        "_finish",
        "_first_content_s",
        "_json",
        "_messages",
        "_model",
        "_number",
        "_outcome",
        "_sampling",
        "_target",
        "_usage",
        "needs_answer",
    )

    kind = Message.SPAN_KIND_CLIENT

    def __init__(
        self,
        export: SpanExport,
        place: Place,
        conversation_id: str,
        *,
        prompt: Prompt,
        target: Target,
        number: int,
        content: bool,
    ) -> None:
        super().__init__(export, place, f"{genai.CHAT} {prompt.model.name}", conversation_id)
        self.needs_answer = content and self.sampled
        self._model = prompt.model
        self._sampling = prompt.sampling
        self._json = bool(prompt.json_schema)
        self._target = target
        self._number = number
        self._outcome = ""
        self._finish: Finish | None = None
        self._first_content_s: float | None = None
        self._usage: Usage | None = None
        self._messages = b""
        if self.needs_answer:
            self._messages = serialized((genai.INPUT_MESSAGES, genai.input_messages(prompt.messages)))

    def end(self, attempt: AttemptEnded, /) -> None:
        """See `AttemptSpan`."""
        self._outcome = attempt.outcome
        self._finish = attempt.finish
        self._first_content_s = attempt.first_content_s
        self._usage = attempt.usage
        if self.needs_answer:
            answer = genai.output_messages(attempt.answer, attempt.finish)
            self._messages += serialized((genai.OUTPUT_MESSAGES, answer))
        self._end()

    def _attributes(self) -> bytes:
        model, finish = self._model, self._finish
        response_id, response_model = (finish.response_id, finish.response_model) if finish is not None else ("", "")
        return (
            of_target(self._target, model.provider, model.name)
            + of_settings(self._sampling, model.output_tokens, self._json)
            + of_outcome(self._number, self._outcome, genai.finish_word(finish), response_model)
            + RESPONSE_ID.of(response_id)
            + CONVERSATION.of(self.conversation_id)
            + FIRST_CHUNK.of(self._first_content_s)
            + (of_usage(self._usage) if self._usage is not None else b"")
            + self._messages
        )


class WorkSpan(OtelSpan):
    """See `core.tracing.WorkSpan`."""

    __slots__ = ("_outcome", "_reply_id")

    def __init__(self, export: SpanExport, place: Place, name: str, conversation_id: str, reply_id: str = "") -> None:
        super().__init__(export, place, name, conversation_id)
        self._reply_id = reply_id
        self._outcome = ""

    def end(self, outcome: str, /) -> None:
        """See `WorkSpan`."""
        self._outcome = outcome
        self._end()

    def _attributes(self) -> bytes:
        error = self._outcome if self._outcome in BAD_OUTCOMES else ""
        return (
            serialized(("parley.outcome", self._outcome), error=error)
            + CONVERSATION.of(self.conversation_id)
            + REPLY_ID.of(self._reply_id)
        )
