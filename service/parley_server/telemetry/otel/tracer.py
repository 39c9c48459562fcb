"""Implements the port of `core.tracing` with OpenTelemetry: its propagation, samplers, resources and exporter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from opentelemetry.context.context import Context
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from parley_server import __version__
from parley_server.core.ids import id_bytes
from parley_server.core.model import Prompt, Reply, State, Usage
from parley_server.core.observer import AttemptEnded, CallEnded, Target
from parley_server.core.tracing import current_span
from parley_server.telemetry import genai
from parley_server.telemetry.logs import end_reason
from parley_server.telemetry.otel.export import Count, SpanExport

DEFAULT_SERVICE_NAME = "parley"
# The codes that mean a fault of the server, by the conventions for gRPC.
SERVER_FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
BAD_OUTCOMES = ("failed", "timeout")
OK, CANCELLED = "OK", "CANCELLED"
BATCH_WITH_CONTENT = 16
"""Spans with prompts and answers that are sent at once: collectors accept 4 MiB in one request by default."""
SAMPLED, RANDOM = 1, 2
"""Flags of the W3C trace context. The second means that the last 7 bytes of the trace id are random."""
LOCAL_PARENT = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
ERROR_STATUS = Status.STATUS_CODE_ERROR
REMOTE_PARENT = LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK

Value = str | bool | int | float | tuple[str, ...] | None
Attributes = Iterable[tuple[str, Value]]

_ROOT = Context()
"""The context of spans without a parent. Without it, OpenTelemetry would look for one of its own."""


class OtelTracer:
    """Implements `Tracer`. Must be closed. Its methods must be called in one thread, except `close`.

    It exports to the collector which the OTEL_ variables name. `content`: spans have prompts and answers. For the
    others see `SpanExport`. Raises any exception for values that the library refuses."""

    def __init__(self, *, content: bool, queue: int, batch: int, interval_s: float, count: Count) -> None:
        # The provider reads the variables. Its spans are not used: see `export`.
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._propagator = TraceContextTextMapPropagator()
        self._ids = RandomIdGenerator()
        self._content = content
        batch = min(batch, BATCH_WITH_CONTENT) if content else batch
        self._export = SpanExport(_resource(), count, limit=queue, batch=batch, interval_s=interval_s)

    def close(self, limit_s: float) -> None:
        """Export what is left, for at most about this time. Blocks. Spans that end later are dropped."""
        self._export.close(limit_s)

    def call(self, method: str, metadata: Mapping[str, str]) -> _CallSpan:
        """See `Tracer`."""
        context = self._propagator.extract(metadata, _ROOT) if "traceparent" in metadata else _ROOT
        return _CallSpan(self._export, self._sampled_place(method[1:], context, SpanKind.SERVER), method[1:])

    def reply(self, reply: Reply) -> _ReplySpan:
        """See `Tracer`. The trace id is the reply's id, so that each of the two can be found by the other."""
        cause, raw = current_span.get(), id_bytes(reply.id)
        place = self._new_place() if raw is None else _Place(raw, raw[8:], flags=RANDOM)
        if isinstance(cause, _Span):
            place.flags |= cause.place.flags & SAMPLED
            place.link = cause.place.trace, cause.place.span
        else:
            self._sample(place, "parley.reply", _ROOT)
        return _ReplySpan(self._export, place, "parley.reply", reply.conversation_id)

    def attempt(self, prompt: Prompt, target: Target, number: int) -> _AttemptSpan:
        """See `Tracer`."""
        place, conversation = self._place_below()
        return _AttemptSpan(
            self._export, place, conversation, prompt=prompt, target=target, number=number, content=self._content
        )

    def summary(self, conversation_id: str) -> _WorkSpan:
        """See `Tracer`."""
        place, _ = self._place_below()
        return _WorkSpan(self._export, place, "parley.summary", conversation_id)

    def takeover(self, reply: Reply) -> _WorkSpan:
        """See `Tracer`."""
        place = self._sampled_place("parley.takeover", _ROOT)
        if (raw := id_bytes(reply.id)) is not None:
            place.link = raw, raw[8:]
        return _WorkSpan(self._export, place, "parley.takeover", reply.conversation_id, reply.id)

    def _new_place(self) -> _Place:
        return _Place(self._ids.generate_trace_id().to_bytes(16, "big"), self._new_id(), flags=RANDOM)

    def _new_id(self) -> bytes:
        return self._ids.generate_span_id().to_bytes(8, "big")

    def _sampled_place(self, name: str, context: Context, kind: SpanKind = SpanKind.INTERNAL) -> _Place:
        """The place of a span below that of another process, or of one that begins a trace. The sampler of the
        environment decides about it, and so about everything that follows from it in this process."""
        before, place = get_current_span(context).get_span_context(), self._new_place()
        if before.is_valid:
            place.trace = before.trace_id.to_bytes(16, "big")
            place.parent = before.span_id.to_bytes(8, "big")
            place.is_remote = True
            place.flags = before.trace_flags & RANDOM
        self._sample(place, name, context, kind)
        return place

    def _sample(self, place: _Place, name: str, context: Context, kind: SpanKind = SpanKind.INTERNAL) -> None:
        result = self._sampler.should_sample(context, int.from_bytes(place.trace, "big"), name, kind)
        place.flags |= SAMPLED if result.decision is Decision.RECORD_AND_SAMPLE else 0
        place.state = result.trace_state.to_header() if result.trace_state else ""

    def _place_below(self) -> tuple[_Place, str]:
        """A place below the current span, and the conversation of that span."""
        parent = current_span.get()
        if not isinstance(parent, _Span):
            return self._sampled_place("", _ROOT), ""
        above = parent.place
        return _Place(above.trace, self._new_id(), parent=above.span, flags=above.flags), parent.conversation_id


class _Place:
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


class _Span:
    """Implements `core.tracing.Span`."""

    __slots__ = ("_export", "_name", "_started_ns", "conversation_id", "ended", "place")

    kind = Message.SPAN_KIND_INTERNAL

    def __init__(self, export: SpanExport, place: _Place, name: str, conversation_id: str = "") -> None:
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
            _add_attributes(message, attributes)
            if error:
                message.status.code = ERROR_STATUS
                _add_attributes(message, [(genai.ERROR_TYPE, error)])

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


class _CallSpan(_Span):
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
        self._end(attributes, error=error, constant=_of_method(self._name))


class _ReplySpan(_Span):
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


class _AttemptSpan(_Span):
    # It holds no prompt, since a connection that is kept for later requests refers to it.
    __slots__ = ("_attributes", "_constant", "wants_answer")

    kind = Message.SPAN_KIND_CLIENT

    def __init__(
        self,
        export: SpanExport,
        place: _Place,
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
        self.wants_answer = content and self.sampled
        if self.sampled:
            self._constant = _of_target(target, prompt.model.provider, prompt.model.name)
            self._attributes += (("parley.attempt.number", number), *_of_request(prompt))
        if self.wants_answer:
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
            attributes += _of_usage(attempt.usage)
        if self.wants_answer:
            attributes.append((genai.OUTPUT_MESSAGES, genai.output_messages(attempt.answer, attempt.finish)))
        self._end(attributes, error="" if outcome in (OK, CANCELLED) else outcome, constant=self._constant)


class _WorkSpan(_Span):
    __slots__ = ("_reply_id",)

    def __init__(self, export: SpanExport, place: _Place, name: str, conversation_id: str, reply_id: str = "") -> None:
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


# --- attributes


def _of_request(prompt: Prompt) -> Attributes:
    """The settings that a request has."""
    sampling = prompt.sampling
    return (
        (genai.REQUEST_MAX_TOKENS, sampling.max_output_tokens or prompt.model.output_tokens or None),
        (genai.REQUEST_TEMPERATURE, sampling.temperature),
        (genai.REQUEST_TOP_P, sampling.top_p),
        (genai.REQUEST_SEED, sampling.seed),
        (genai.REQUEST_STOP, sampling.stop or None),
        (genai.REQUEST_REASONING, sampling.reasoning_effort or None),
        (genai.OUTPUT_TYPE, "json" if prompt.json_schema else None),
    )


def _of_usage(usage: Usage) -> Attributes:
    return (
        (genai.INPUT_TOKENS, usage.prompt_tokens),
        (genai.OUTPUT_TOKENS, usage.completion_tokens),
        (genai.CACHE_READ_TOKENS, usage.cached_prompt_tokens or None),
        (genai.CACHE_WRITE_TOKENS, usage.cache_write_prompt_tokens or None),
        (genai.REASONING_TOKENS, usage.reasoning_tokens or None),
    )


@lru_cache(maxsize=256)
def _of_target(target: Target, provider: str, model: str) -> bytes:
    """What all requests for a model have, serialized, because that is cheapest to add. `model`: the vendor's name."""
    return _serialized(
        (genai.OPERATION, genai.CHAT),
        (genai.PROVIDER, target.system),
        (genai.REQUEST_MODEL, model),
        (genai.REQUEST_STREAM, True),
        (genai.SERVER_ADDRESS, target.host or None),
        (genai.SERVER_PORT, target.port or None),
        ("parley.provider", provider),
    )


@lru_cache(maxsize=256)
def _of_method(method: str) -> bytes:
    return _serialized(("rpc.system.name", "grpc"), ("rpc.method", method))


def _serialized(*attributes: tuple[str, Value]) -> bytes:
    message = Message()
    _add_attributes(message, attributes)
    return message.SerializeToString()


def _add_attributes(message: Message | ResourceMessage, attributes: Attributes) -> None:
    """Add those that have a value."""
    add: Callable[..., Any] = message.attributes.add
    for name, value in attributes:
        if value is None:
            continue
        if isinstance(value, str):
            add(key=name).value.string_value = value
        elif isinstance(value, bool):
            add(key=name).value.bool_value = value
        elif isinstance(value, int):
            add(key=name).value.int_value = value
        elif isinstance(value, float):
            add(key=name).value.double_value = value
        else:
            values = add(key=name).value.array_value.values
            for each in value:
                values.add(string_value=each)


def _resource() -> ResourceMessage:
    """What the OTEL_ variables say about this service, with defaults for its name and version."""
    given = OTELResourceDetector().detect().attributes or {}
    own = {SERVICE_NAME: DEFAULT_SERVICE_NAME, SERVICE_VERSION: __version__}
    found = Resource.create({name: value for name, value in own.items() if name not in given}).attributes or {}
    message = ResourceMessage()
    _add_attributes(message, ((name, str(value)) for name, value in found.items()))
    return message
