"""Sends spans to a collector in a thread of its own. A collector that is away costs spans, never a reply.

At most as many spans wait as OTEL_BSP_MAX_QUEUE_SIZE says (2,048); further ones are dropped. What is sent, refused or
dropped is counted, and an outage is logged once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from parley_server.telemetry.logs import redact

logger = logging.getLogger("parley.trace")
_exporter_logger = logging.getLogger(OTLPSpanExporter.__module__.rpartition(".")[0])

EXPORTED, FAILED, DROPPED = "exported", "failed", "dropped"
PROBLEM_CHARACTERS = 300
LAST_EXPORT_S = 1.0
"""How long an export that was given up may take to return."""

Count = Callable[[str, int], None]
"""Counts spans by their outcome."""


class _LastProblem(logging.Handler):
    """Keeps the last message of the exporter, which says only there why an export failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.text = redact(record.getMessage())[:PROBLEM_CHARACTERS]


class CountedExporter(SpanExporter):
    """Counts what an exporter does, and logs when it begins to fail and when it succeeds again.

    `taken` is the number of spans that were given to it."""

    def __init__(self, exporter: SpanExporter, count: Count) -> None:
        self._exporter = exporter
        self._count = count
        self._failing = False
        self._problem = _LastProblem()
        self._closed = False
        self.taken = 0
        _exporter_logger.propagate = False
        _exporter_logger.addHandler(self._problem)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans. Waits for the collector, up to OTEL_EXPORTER_OTLP_TIMEOUT; never raises."""
        self.taken += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever it is, the spans are lost and the process goes on
            result, self._problem.text = SpanExportResult.FAILURE, redact(repr(error))[:PROBLEM_CHARACTERS]
        failed = result is not SpanExportResult.SUCCESS
        self._count(FAILED if failed else EXPORTED, len(spans))
        if failed and not self._failing:
            logger.warning("trace_export_failed", extra={"fields": {"problem": self._problem.text}})
        elif self._failing and not failed:
            logger.info("trace_export_restored")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        """Give up the running export, and send nothing more. Further calls change nothing."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()
            _exporter_logger.removeHandler(self._problem)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See `SpanExporter`. It holds nothing back."""
        return self._exporter.force_flush(timeout_millis)


class BoundedProcessor(BatchSpanProcessor):
    """Collects spans for an exporter, and drops those that find `limit` others waiting. `batch`: how many are sent at
    once (None: what OTEL_BSP_MAX_EXPORT_BATCH_SIZE says)."""

    # The queue of the library drops the oldest span instead, and logs a line for each.

    def __init__(self, exporter: CountedExporter, count: Count, *, limit: int, batch: int | None) -> None:
        super().__init__(exporter, max_queue_size=limit, max_export_batch_size=batch)
        self._own_exporter = exporter
        self._count = count
        self._limit = limit
        self._added = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Take an ended span. Called in the event loop; neither waits nor raises."""
        if self._added - self._own_exporter.taken >= self._limit:
            self._count(DROPPED, 1)
            return
        self._added += 1
        super().on_end(span)

    def close(self, limit_s: float) -> None:
        """Send what waits, for at most `limit_s` and a second. Blocks."""
        closing = threading.Thread(target=self.shutdown, name="trace-export-close", daemon=True)
        closing.start()
        closing.join(limit_s)
        if closing.is_alive():
            self._own_exporter.shutdown()
            closing.join(LAST_EXPORT_S)
