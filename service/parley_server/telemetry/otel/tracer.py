"""Implements the port of `core.tracing` with OpenTelemetry: its propagation, samplers, resources and exporter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import getrandbits

from opentelemetry.context.context import Context
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler
from opentelemetry.trace import SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from parley_server import __version__
from parley_server.core.ids import id_bytes
from parley_server.core.model import Prompt, Reply
from parley_server.core.observer import Target
from parley_server.core.tracing import current_span
from parley_server.telemetry.otel.attributes import add_attributes
from parley_server.telemetry.otel.export import Count, SpanExport
from parley_server.telemetry.otel.spans import (
    RANDOM,
    SAMPLED,
    AttemptSpan,
    CallSpan,
    OtelSpan,
    Place,
    ReplySpan,
    WorkSpan,
)

DEFAULT_SERVICE_NAME = "parley"
BATCH_WITH_CONTENT = 16
"""Spans with prompts and answers that are sent at once: collectors accept 4 MiB in one request by default."""

_TRACEPARENT = re.compile("00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
"""What nearly all callers send. The library reads other versions, which may have further parts."""
_FOLLOWS_CALLERS = "remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler"
"""A part of the description of a sampler that does as the caller says."""

_ROOT = Context()
"""The context of spans without a parent. Without it, OpenTelemetry would look for one of its own."""


class OtelTracer:
    """Implements `Tracer`. Must be closed. Its methods must be called in one thread, except `close`.

    It exports to the collector which the OTEL_ variables name. `content`: spans have prompts and answers. For the
    others see `SpanExport`. Raises any exception for values that the library refuses."""

    def __init__(self, *, content: bool, queue: int, batch: int, interval_s: float, count: Count) -> None:
        # The provider reads the variables. Its spans are not used: see `export`.
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._follows_callers = _follows_callers(self._sampler)
        self._propagator = TraceContextTextMapPropagator()
        self._content = content
        batch = min(batch, BATCH_WITH_CONTENT) if content else batch
        self._export = SpanExport(_resource(), count, limit=queue, batch=batch, interval_s=interval_s)

    def close(self, limit_s: float) -> None:
        """Export what is left, for at most about this time. Blocks. Spans that end later are dropped."""
        self._export.close(limit_s)

    def call(self, method: str, metadata: Mapping[str, str]) -> CallSpan:
        """See `Tracer`."""
        name = method[1:]
        if "traceparent" in metadata:
            place = self._place_below_caller(name, metadata)
        else:
            place = self._first_place(name, SpanKind.SERVER)
        return CallSpan(self._export, place, name)

    def reply(self, reply: Reply) -> ReplySpan:
        """See `Tracer`. The trace id is the reply's id, so that each of the two can be found by the other."""
        cause, raw = current_span.get(), id_bytes(reply.id)
        place = _new_place() if raw is None else Place(raw, raw[8:], flags=RANDOM)
        if isinstance(cause, OtelSpan):
            place.flags |= cause.place.flags & SAMPLED
            place.link = cause.place.trace, cause.place.span
        else:
            self._sample(place, "parley.reply", _ROOT)
        return ReplySpan(self._export, place, "parley.reply", reply.conversation_id)

    def attempt(self, prompt: Prompt, target: Target, number: int) -> AttemptSpan:
        """See `Tracer`."""
        place, conversation = self._place_below()
        return AttemptSpan(
            self._export, place, conversation, prompt=prompt, target=target, number=number, content=self._content
        )

    def summary(self, conversation_id: str) -> WorkSpan:
        """See `Tracer`."""
        place, _ = self._place_below()
        return WorkSpan(self._export, place, "parley.summary", conversation_id)

    def takeover(self, reply: Reply) -> WorkSpan:
        """See `Tracer`."""
        place = self._first_place("parley.takeover")
        if (raw := id_bytes(reply.id)) is not None:
            place.link = raw, raw[8:]
        return WorkSpan(self._export, place, "parley.takeover", reply.conversation_id, reply.id)

    def _first_place(self, name: str, kind: SpanKind = SpanKind.INTERNAL) -> Place:
        """The place of a span that begins a trace."""
        place = _new_place()
        self._sample(place, name, _ROOT, kind)
        return place

    def _place_below_caller(self, name: str, metadata: Mapping[str, str]) -> Place:
        """The place of a call below the span of its caller, if `metadata` has a valid one."""
        usual = self._follows_callers and "tracestate" not in metadata
        if usual and (found := _TRACEPARENT.fullmatch(metadata["traceparent"])) is not None:
            trace, span, flags = map(bytes.fromhex, found.groups())
            place = Place(trace, _new_id(), parent=span, flags=flags[0] & (SAMPLED | RANDOM))
            place.is_remote = True
            return place
        # The library gives the same place, in four times the CPU.
        context = self._propagator.extract(metadata, _ROOT)
        before, place = get_current_span(context).get_span_context(), _new_place()
        if before.is_valid:
            place.trace = before.trace_id.to_bytes(16, "big")
            place.parent = before.span_id.to_bytes(8, "big")
            place.is_remote = True
            place.flags = before.trace_flags & RANDOM
        self._sample(place, name, context, SpanKind.SERVER)
        return place

    def _sample(self, place: Place, name: str, context: Context, kind: SpanKind = SpanKind.INTERNAL) -> None:
        """Let the sampler of the environment decide about a span, and so about everything that follows from it in this
        process."""
        result = self._sampler.should_sample(context, int.from_bytes(place.trace, "big"), name, kind)
        place.flags |= SAMPLED if result.decision is Decision.RECORD_AND_SAMPLE else 0
        place.state = result.trace_state.to_header() if result.trace_state else ""

    def _place_below(self) -> tuple[Place, str]:
        """A place below the current span, and the conversation of that span."""
        parent = current_span.get()
        if not isinstance(parent, OtelSpan):
            return self._first_place(""), ""
        above = parent.place
        return Place(above.trace, _new_id(), parent=above.span, flags=above.flags), parent.conversation_id


def _new_place() -> Place:
    return Place(_new_id() + _new_id(), _new_id(), flags=RANDOM)


def _new_id() -> bytes:
    return (getrandbits(64) or 1).to_bytes(8, "big")  # ids of zeros are invalid


def _follows_callers(sampler: Sampler) -> bool:
    """Whether a call whose caller has sent a valid trace context is sampled exactly if that says so."""
    return isinstance(sampler, ParentBased) and _FOLLOWS_CALLERS in str(sampler.get_description())  # type: ignore[no-untyped-call]  # untyped


def _resource() -> ResourceMessage:
    """What the OTEL_ variables say about this service, with defaults for its name and version."""
    given = OTELResourceDetector().detect().attributes or {}
    own = {SERVICE_NAME: DEFAULT_SERVICE_NAME, SERVICE_VERSION: __version__}
    found = Resource.create({name: value for name, value in own.items() if name not in given}).attributes or {}
    message = ResourceMessage()
    add_attributes(message, ((name, str(value)) for name, value in found.items()))
    return message
