"""Implements the port of `core.tracing` with OpenTelemetry.

Attributes are set once, at the end of a span, because that is cheapest; no sampler reads any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from parley_server import __version__
from parley_server.core.ids import id_bytes
from parley_server.core.model import Prompt, Reply, State, Usage
from parley_server.core.observer import AttemptEnded, CallEnded, Target
from parley_server.core.tracing import current_span
from parley_server.telemetry import genai
from parley_server.telemetry.logs import end_reason
from parley_server.telemetry.otel.export import BoundedProcessor, Count, CountedExporter

SCOPE = "parley-server"
DEFAULT_SERVICE_NAME = "parley"
# The codes that mean a fault of the server, by the conventions for gRPC.
SERVER_FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
BAD_OUTCOMES = ("failed", "timeout")
OK, CANCELLED = "OK", "CANCELLED"
BATCH_WITH_CONTENT = 16
"""Spans with prompts and answers that are sent at once: collectors accept 4 MiB in one request by default."""

Attributes = dict[str, str | bool | int | float | Sequence[str]]

_ROOT = Context()
"""The context of spans without a parent. Without it, OpenTelemetry would look for one of its own."""


def open_tracer(*, content: bool, queue: int, count: Count) -> OtelTracer:
    """A tracer that exports to the collector which the OTEL_ variables name. `content`: spans have prompts and answers.
    `queue`: as many spans may wait. `count` receives how many spans were exported, failed or dropped.

    Raises any exception for values that the library refuses."""
    return OtelTracer(OTLPSpanExporter(), content=content, queue=queue, count=count)


class OtelTracer:
    """Implements `Tracer`. Must be closed. Its methods must be called in one thread, except `close`."""

    def __init__(self, exporter: OTLPSpanExporter, *, content: bool, queue: int, count: Count) -> None:
        self._ids = _Ids()
        # The library's own handler at the exit of the process could block it for 30 s.
        provider = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        provider.sampler = _DecideOnce(provider.sampler)
        batch = min(BATCH_WITH_CONTENT, queue) if content else None
        self._processor = BoundedProcessor(CountedExporter(exporter, count), count, limit=queue, batch=batch)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer(SCOPE, __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._content = content

    def close(self, limit_s: float) -> None:
        """Export what is left, for at most about this time. Blocks. Spans that end later are dropped."""
        self._processor.close(limit_s)

    def call(self, method: str, metadata: Mapping[str, str]) -> _CallSpan:
        """See `Tracer`."""
        context = self._propagator.extract(metadata, _ROOT) if "traceparent" in metadata else _ROOT
        return _CallSpan(self._tracer.start_span(method[1:], context, SpanKind.SERVER))

    def reply(self, reply: Reply) -> _ReplySpan:
        """See `Tracer`. The trace id is the reply's id, so that each of the two can be found by the other."""
        cause = current_span.get()
        links = [Link(cause.context)] if isinstance(cause, _Span) else []
        self._ids.next = id_bytes(reply.id)
        try:
            span = self._tracer.start_span("parley.reply", _ROOT, SpanKind.INTERNAL, links=links)
        finally:
            self._ids.next = None
        return _ReplySpan(span, reply.conversation_id)

    def attempt(self, prompt: Prompt, target: Target, number: int) -> _AttemptSpan:
        """See `Tracer`."""
        context, conversation = self._parent()
        span = self._tracer.start_span(f"{genai.CHAT} {prompt.model.name}", context, SpanKind.CLIENT)
        attributes: Attributes = {}
        if span.is_recording():
            attributes = _request_attributes(prompt, target)
            attributes["parley.attempt.number"] = number
            if self._content:
                attributes[genai.INPUT_MESSAGES] = genai.input_messages(prompt.messages)
        return _AttemptSpan(span, conversation, attributes, content=self._content)

    def summary(self, conversation_id: str) -> _WorkSpan:
        """See `Tracer`."""
        context, _ = self._parent()
        return _WorkSpan(self._tracer.start_span("parley.summary", context), conversation_id)

    def takeover(self, reply: Reply) -> _WorkSpan:
        """See `Tracer`."""
        span = self._tracer.start_span("parley.takeover", _ROOT)
        # Added after the start, since nobody knows here whether the reply was sampled: the sampler decides.
        if (raw := id_bytes(reply.id)) is not None:
            span.add_link(_context_of(raw))
        return _WorkSpan(span, reply.conversation_id, reply.id)

    def _parent(self) -> tuple[Context, str]:
        """The context and the conversation of the current span."""
        parent = current_span.get()
        if not isinstance(parent, _Span):
            return _ROOT, ""
        return set_span_in_context(parent.span, _ROOT), parent.conversation_id


class _Span:
    """Implements `core.tracing.Span` by a span of OpenTelemetry."""

    __slots__ = ("context", "conversation_id", "ended", "sampled", "span")

    def __init__(self, span: OtelSpan, conversation_id: str = "") -> None:
        self.span = span
        self.context = span.get_span_context()
        self.conversation_id = conversation_id
        self.sampled = self.context.trace_flags.sampled
        self.ended = False

    @property
    def trace_id(self) -> str:
        """See `Span`."""
        return format_trace_id(self.context.trace_id)

    @property
    def span_id(self) -> str:
        """See `Span`."""
        return format_span_id(self.context.span_id)

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Span`."""
        headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.context.trace_flags:02x}"}
        if self.context.trace_state:
            headers["tracestate"] = self.context.trace_state.to_header()
        return headers

    def _end(self, attributes: Attributes, *, error: str = "") -> None:
        self.ended = True
        if error:
            attributes[genai.ERROR_TYPE] = error
            self.span.set_status(StatusCode.ERROR)
        self.span.set_attributes(attributes)
        self.span.end()


class _CallSpan(_Span):
    __slots__ = ()

    def end(self, call: CallEnded, /) -> None:
        """See `CallSpan`."""
        if not self.sampled:
            self.ended = True
            return
        attributes: Attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": call.method[1:],
            "rpc.response.status_code": call.code,
            "parley.call.id": call.call_id,
        }
        for name, value in (
            ("parley.reason", call.reason),
            ("parley.tenant", call.tenant),
            ("parley.reply.id", call.reply_id),
        ):
            if value:
                attributes[name] = value
        self._end(attributes, error=call.code if call.code in SERVER_FAULTS else "")


class _ReplySpan(_Span):
    __slots__ = ()

    def end(self, reply: Reply, /) -> None:
        """See `ReplySpan`."""
        if not self.sampled:
            self.ended = True
            return
        reason = end_reason(reply)
        attributes: Attributes = {
            genai.CONVERSATION: reply.conversation_id,
            "parley.reply.id": reply.id,
            "parley.reply.state": reply.state.value,
            "parley.reason": reason,
            "parley.tenant": reply.tenant,
            "parley.model": reply.model or reply.requested_model,
        }
        if reply.first_token_time_us:
            waited_us = max(0, reply.first_token_time_us - reply.create_time_us)
            attributes["parley.reply.time_to_first_token"] = waited_us / 1e6
        self._end(attributes, error=reason if reply.state is State.FAILED else "")


class _AttemptSpan(_Span):
    # It holds no prompt: a connection that is kept for later requests refers to it.
    __slots__ = ("_attributes", "_content")

    def __init__(self, span: OtelSpan, conversation_id: str, attributes: Attributes, *, content: bool) -> None:
        super().__init__(span, conversation_id)
        self._attributes = attributes
        self._content = content

    @property
    def wants_answer(self) -> bool:
        """See `AttemptSpan`."""
        return self._content and self.sampled

    def end(self, attempt: AttemptEnded, /) -> None:
        """See `AttemptSpan`."""
        if not self.sampled:
            self.ended = True
            return
        attributes, outcome = self._attributes, attempt.outcome
        attributes[genai.FINISH_REASONS] = (genai.finish_word(attempt.finish),)
        attributes["parley.attempt.outcome"] = outcome
        if self.conversation_id:
            attributes[genai.CONVERSATION] = self.conversation_id
        if attempt.first_content_s is not None:
            attributes[genai.FIRST_CHUNK] = attempt.first_content_s
        if attempt.usage is not None:
            _add_usage(attributes, attempt.usage)
        if self._content:
            attributes[genai.OUTPUT_MESSAGES] = genai.output_messages(attempt.answer, attempt.finish)
        self._end(attributes, error="" if outcome in (OK, CANCELLED) else outcome)


class _WorkSpan(_Span):
    __slots__ = ("_reply_id",)

    def __init__(self, span: OtelSpan, conversation_id: str, reply_id: str = "") -> None:
        super().__init__(span, conversation_id)
        self._reply_id = reply_id

    def end(self, outcome: str, /) -> None:
        """See `WorkSpan`."""
        attributes: Attributes = {genai.CONVERSATION: self.conversation_id, "parley.outcome": outcome}
        if self._reply_id:
            attributes["parley.reply.id"] = self._reply_id
        self._end(attributes, error=outcome if outcome in BAD_OUTCOMES else "")


def _request_attributes(prompt: Prompt, target: Target) -> Attributes:
    """Who is asked, and the settings that the request has."""
    model, sampling = prompt.model, prompt.sampling
    attributes: Attributes = {
        genai.OPERATION: genai.CHAT,
        genai.PROVIDER: target.system,
        genai.REQUEST_MODEL: model.name,
        genai.REQUEST_STREAM: True,
        "parley.provider": model.provider,
    }
    if target.host:
        attributes[genai.SERVER_ADDRESS] = target.host
        attributes[genai.SERVER_PORT] = target.port
    settings: tuple[tuple[str, Any], ...] = (
        (genai.REQUEST_MAX_TOKENS, sampling.max_output_tokens or model.output_tokens or None),
        (genai.REQUEST_TEMPERATURE, sampling.temperature),
        (genai.REQUEST_TOP_P, sampling.top_p),
        (genai.REQUEST_SEED, sampling.seed),
        (genai.REQUEST_STOP, sampling.stop or None),
        (genai.REQUEST_REASONING, sampling.reasoning_effort or None),
        (genai.OUTPUT_TYPE, "json" if prompt.json_schema else None),
    )
    for name, value in settings:
        if value is not None:
            attributes[name] = value
    return attributes


def _add_usage(attributes: Attributes, usage: Usage) -> None:
    attributes[genai.INPUT_TOKENS] = usage.prompt_tokens
    attributes[genai.OUTPUT_TOKENS] = usage.completion_tokens
    for name, count in (
        (genai.CACHE_READ_TOKENS, usage.cached_prompt_tokens),
        (genai.CACHE_WRITE_TOKENS, usage.cache_write_prompt_tokens),
        (genai.REASONING_TOKENS, usage.reasoning_tokens),
    ):
        if count:
            attributes[name] = count


class _Ids(RandomIdGenerator):
    """Random ids. If `next` is set, the trace that starts next has these 16 bytes as its id, and its first span the
    last 8 of them. The last 10 bytes of a reply's id are random, as samplers need it."""

    def __init__(self) -> None:
        self.next: bytes | None = None

    def generate_trace_id(self) -> int:
        """See `IdGenerator`."""
        return super().generate_trace_id() if self.next is None else _context_of(self.next).trace_id

    def generate_span_id(self) -> int:
        """See `IdGenerator`."""
        return super().generate_span_id() if self.next is None else _context_of(self.next).span_id


def _context_of(raw: bytes) -> SpanContext:
    """The context of the span of a reply, from the bytes of its id: the same on every replica."""
    return SpanContext(
        trace_id=int.from_bytes(raw, "big"),
        span_id=int.from_bytes(raw[8:], "big"),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.DEFAULT),
    )


class _DecideOnce(Sampler):
    """Lets another sampler decide about calls and takeovers. All that follows from one of these is exported with it, or
    not at all: a span with a link as the linked one, a span with a parent of this process as its parent."""

    def __init__(self, other: Sampler) -> None:
        self._other = other

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """See `Sampler`."""
        sampler = self._other
        before = links[0].context if links else get_current_span(parent_context).get_span_context()
        if links or (before.is_valid and not before.is_remote):
            sampler = ALWAYS_ON if before.trace_flags.sampled else ALWAYS_OFF
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """See `Sampler`."""
        return f"DecideOnce{{{self._other.get_description()}}}"


class _Resource(Resource):
    """Computes its hash once: the exporter asks for it for each span, and the library encodes JSON for it each time."""

    def __hash__(self) -> int:
        return self._once

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._once = super().__hash__()


def _resource() -> Resource:
    """What the OTEL_ variables say about this service, with defaults for its name and version."""
    given = OTELResourceDetector().detect().attributes or {}
    own = {SERVICE_NAME: DEFAULT_SERVICE_NAME, SERVICE_VERSION: __version__}
    return _Resource(Resource.create({name: value for name, value in own.items() if name not in given}))
