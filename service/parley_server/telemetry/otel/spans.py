"""The spans of `core.tracing`. When one has ended, the thread that exports writes it into a message of OTLP."""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status

from parley_server.core.model import Prompt, Reply, State
from parley_server.core.observer import AttemptEnded, CallEnded, Target
from parley_server.telemetry import genai
from parley_server.telemetry.logs import end_reason
from parley_server.telemetry.otel.attributes import (
    Attributes,
    Value,
    add_attributes,
    of_method,
    of_request,
    of_target,
    of_usage,
)
from parley_server.telemetry.otel.export import SpanExport

# The codes that mean a fault of the server, by the conventions for gRPC.
SERVER_FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
BAD_OUTCOMES = ("failed", "timeout")
OK, CANCELLED = "OK", "CANCELLED"
SAMPLED, RANDOM = 1, 2
"""Flags of the W3C trace context. The second means that the last 7 bytes of the trace id are random."""
LOCAL_PARENT = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
REMOTE_PARENT = LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
ERROR_STATUS = Status.STATUS_CODE_ERROR


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
    """Implements `core.tracing.Span`."""

    __slots__ = ("_export", "_name", "_started_ns", "conversation_id", "ended", "place")

    kind = Message.SPAN_KIND_INTERNAL

    def __init__(self, export: SpanExport, place: Place, name: str, conversation_id: str = "") -> None:
        self._export = export
        self._name = name
        self._started_ns = time.time_ns()
        self.place = place
        self.conversation_id = conversation_id
        self.ended = False

    @property
    def trace_id(self) -> str:
        """See `Span`."""
        return self.place.trace.hex()

    @property
    def span_id(self) -> str:
        """See `Span`."""
        return self.place.span.hex()

    @property
    def sampled(self) -> bool:
        """See `Span`."""
        return bool(self.place.flags & SAMPLED)

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Span`."""
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.place.flags:02x}"}

    def _end(self, attributes: Attributes, *, error: str = "", constant: bytes = b"") -> None:
        """Export it, if it is sampled. `constant`: further attributes, as a serialized message."""
        self.ended = True
        if not self.sampled:
            return
        ended_ns = time.time_ns()

        def write(message: Message) -> None:
            if constant:
                message.MergeFromString(constant)
            self._write(message, ended_ns)
            add_attributes(message, attributes)
            if error:
                message.status.code = ERROR_STATUS
                add_attributes(message, [(genai.ERROR_TYPE, error)])

        self._export.add(write)

    def _write(self, message: Message, ended_ns: int) -> None:
        place = self.place
        message.name = self._name
        message.kind = self.kind
        message.trace_id = place.trace
        message.span_id = place.span
        message.parent_span_id = place.parent
        message.trace_state = place.state
        message.flags = place.flags | (REMOTE_PARENT if place.is_remote else LOCAL_PARENT)
        message.start_time_unix_nano = self._started_ns
        message.end_time_unix_nano = ended_ns
        if place.link is not None:
            message.links.add(trace_id=place.link[0], span_id=place.link[1])


class CallSpan(OtelSpan):
    """See `core.tracing.CallSpan`."""

    __slots__ = ()

    kind = Message.SPAN_KIND_SERVER

    def end(self, call: CallEnded, /) -> None:
        """See `CallSpan`."""
        if not self.sampled:
            self.ended = True
            return
        attributes: Attributes = (
            ("rpc.response.status_code", call.code),
            ("parley.call.id", call.call_id),
            ("parley.tenant", call.tenant or None),
            ("parley.reply.id", call.reply_id or None),
            ("parley.reason", call.reason or None),
        )
        error = call.code if call.code in SERVER_FAULTS else ""
        self._end(attributes, error=error, constant=of_method(self._name))


class ReplySpan(OtelSpan):
    """See `core.tracing.ReplySpan`."""

    __slots__ = ()

    def end(self, reply: Reply, /) -> None:
        """See `ReplySpan`."""
        if not self.sampled:
            self.ended = True
            return
        reason, first_us = end_reason(reply), reply.first_token_time_us
        attributes: Attributes = (
            (genai.CONVERSATION, reply.conversation_id),
            ("parley.reply.id", reply.id),
            ("parley.reply.state", reply.state.value),
            ("parley.reason", reason),
            ("parley.tenant", reply.tenant),
            ("parley.model", reply.model or reply.requested_model),
            (
                "parley.reply.time_to_first_token",
                max(0, first_us - reply.create_time_us) / 1e6 if first_us else None,
            ),
        )
        self._end(attributes, error=reason if reply.state is State.FAILED else "")


class AttemptSpan(OtelSpan):
    """See `core.tracing.AttemptSpan`."""

    # It holds no prompt, since a connection that is kept for later requests refers to it.
    __slots__ = ("_attributes", "_constant", "needs_answer")

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
        self._attributes: list[tuple[str, Value]] = []
        self._constant = b""
        self.needs_answer = content and self.sampled
        if self.sampled:
            self._constant = of_target(target, prompt.model.provider, prompt.model.name)
            self._attributes += (("parley.attempt.number", number), *of_request(prompt))
        if self.needs_answer:
            self._attributes.append((genai.INPUT_MESSAGES, genai.input_messages(prompt.messages)))

    def end(self, attempt: AttemptEnded, /) -> None:
        """See `AttemptSpan`."""
        if not self.sampled:
            self.ended = True
            return
        attributes, outcome = self._attributes, attempt.outcome
        attributes += (
            (genai.CONVERSATION, self.conversation_id or None),
            (genai.FINISH_REASONS, (genai.finish_word(attempt.finish),)),
            (genai.FIRST_CHUNK, attempt.first_content_s),
            ("parley.attempt.outcome", outcome),
        )
        if attempt.usage is not None:
            attributes += of_usage(attempt.usage)
        if self.needs_answer:
            attributes.append((genai.OUTPUT_MESSAGES, genai.output_messages(attempt.answer, attempt.finish)))
        self._end(attributes, error="" if outcome in (OK, CANCELLED) else outcome, constant=self._constant)


class WorkSpan(OtelSpan):
    """See `core.tracing.WorkSpan`."""

    __slots__ = ("_reply_id",)

    def __init__(self, export: SpanExport, place: Place, name: str, conversation_id: str, reply_id: str = "") -> None:
        super().__init__(export, place, name, conversation_id)
        self._reply_id = reply_id

    def end(self, outcome: str, /) -> None:
        """See `WorkSpan`."""
        attributes: Attributes = (
            (genai.CONVERSATION, self.conversation_id),
            ("parley.reply.id", self._reply_id or None),
            ("parley.outcome", outcome),
        )
        self._end(attributes, error=outcome if outcome in BAD_OUTCOMES else "")
