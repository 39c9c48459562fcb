"""Sends spans to a collector from a thread. A collector that is away costs spans, never a reply.

The thread writes ended spans straight into the request that carries them. The span objects, the processor and the
encoder of the library need three times the CPU, most of it in the event loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.trace.export import SpanExportResult

from parley_server import __version__
from parley_server.telemetry.logs import redact

logger = logging.getLogger("parley.trace")
_library_logger = logging.getLogger(OTLPSpanExporter.__module__.rpartition(".")[0])

SCOPE = InstrumentationScope(name="parley-server", version=__version__)
EXPORTED, FAILED, DROPPED = "exported", "failed", "dropped"
PROBLEM_CHARACTERS = 300
LAST_EXPORT_S = 1.0
"""How long an export that was given up may take to return."""

AT_ONCE = 32
"""Spans that are written without a pause: about 0.15 ms."""

Count = Callable[[str, int], None]
"""Counts spans by their outcome."""
Write = Callable[[Span], None]
"""Writes an ended span into an empty message. Called in a thread."""


class SpanExport:
    """Collects spans and sends them every `interval_s`, and when there are `batch` of them.

    At most `limit` spans wait; further ones are dropped. `count` receives what becomes of spans, in two threads. An
    outage of the collector is logged when it begins and when it ends. Raises any exception for values of the OTEL_
    variables that the library refuses.
    """

    def __init__(self, resource: Resource, count: Count, *, limit: int, batch: int, interval_s: float) -> None:
        self._exporter = _RequestExporter()
        self._empty = ResourceSpans(resource=resource, scope_spans=[ScopeSpans(scope=SCOPE)])
        self._count = count
        self._limit = limit
        self._batch = batch
        self._interval_s = interval_s
        self._waiting: deque[Write] = deque()
        self._failing = False
        self._closing = False
        self._wake = threading.Event()
        self._problem = _LastProblem()
        _library_logger.propagate = False
        _library_logger.addHandler(self._problem)
        self._thread = threading.Thread(target=self._run, name="trace-export", daemon=True)
        self._thread.start()

    def add(self, write: Write) -> None:
        """Send the span that `write` writes later, in the thread; or drop it."""
        waiting = len(self._waiting)
        if waiting >= self._limit or self._closing:
            self._count(DROPPED, 1)
            return
        self._waiting.append(write)
        if waiting + 1 == self._batch:
            self._wake.set()

    def close(self, limit_s: float) -> None:
        """Send what waits, for at most `limit_s` and a second. Blocks."""
        self._closing = True
        self._wake.set()
        self._thread.join(limit_s)
        self._exporter.shutdown()  # ends an export that still runs, and lets further ones fail at once
        self._thread.join(LAST_EXPORT_S)
        _library_logger.removeHandler(self._problem)

    # --- in the thread

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self._send_waiting()
        self._send_waiting()  # what came while the last request was sent

    def _send_waiting(self) -> None:
        while self._waiting:
            self._send(self._next_request())

    def _next_request(self) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest(resource_spans=[self._empty])
        spans = request.resource_spans[0].scope_spans[0].spans
        for number in range(min(self._batch, len(self._waiting))):
            if number % AT_ONCE == 0:
                time.sleep(0)  # the event loop needs the interpreter, too
            write = self._waiting.popleft()
            try:
                write(spans.add())
            except Exception:  # the thread must go on; the others can still be sent
                logger.exception("trace_span_failed")
                del spans[-1]
                self._count(FAILED, 1)
        return request

    def _send(self, request: ExportTraceServiceRequest) -> None:
        """Wait for the collector, up to OTEL_EXPORTER_OTLP_TIMEOUT with all retries."""
        try:
            failed = self._exporter.export(cast(Any, request)) is not SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - whatever it is, the spans are lost and the process goes on
            failed, self._problem.text = True, redact(repr(error))[:PROBLEM_CHARACTERS]
        self._count(FAILED if failed else EXPORTED, _size(request))
        if failed and not self._failing:
            logger.warning("trace_export_failed", extra={"fields": {"problem": self._problem.text}})
        elif self._failing and not failed:
            logger.info("trace_export_restored")
        self._failing = failed


class _RequestExporter(OTLPSpanExporter):
    """The exporter of the library, with its variables, TLS and retries, for requests in place of its own spans."""

    def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
        return cast(ExportTraceServiceRequest, data)

    def _count_data(self, data: Any) -> int:
        return _size(data)


class _LastProblem(logging.Handler):
    """Keeps the last message of the exporter, which says only there why an export failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.text = redact(record.getMessage())[:PROBLEM_CHARACTERS]


def _size(request: ExportTraceServiceRequest) -> int:
    return len(request.resource_spans[0].scope_spans[0].spans)
