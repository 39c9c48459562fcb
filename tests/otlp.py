"""A collector of traces: receives spans over OTLP on gRPC, in the event loop of the test."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

LIMIT_S = 20.0


@dataclass(frozen=True)
class Span:
    """A received span. Ids are hex digits, `links` pairs of a trace and a span; `kind` and `status` are names without
    their prefix, such as "CLIENT" and "ERROR"."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    status: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    resource: dict[str, Any]
    duration_s: float


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps everything that it receives. Use `async with`. `answers`: whether it answers; if not, exporters wait."""

    def __init__(self, *, answers: bool = True, port: int = 0) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self._answering = asyncio.Event()
        if answers:
            self._answering.set()
        self._server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._answering.set()
        await self._server.stop(0)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a server that exports to it, soon after each span."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", "OTEL_BSP_SCHEDULE_DELAY": "20"}

    async def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802
        """Receive spans."""
        self.requests.append(request)
        await self._answering.wait()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order in which they were received."""
        return [
            _span(span, _values(resource.resource.attributes))
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        """The spans of this name."""
        return [span for span in self.spans if span.name == name]

    async def receive(self, name: str, count: int = 1) -> list[Span]:
        """Wait for so many spans of this name."""
        async with asyncio.timeout(LIMIT_S):
            while len(found := self.named(name)) < count:
                await asyncio.sleep(0.01)
        return found


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        state=span.trace_state,
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        attributes=_values(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
        duration_s=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
