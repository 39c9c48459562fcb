"""Reads the standard OTEL_ variables that turn traces on or off. OpenTelemetry's library reads the others."""

from __future__ import annotations

from collections.abc import Mapping

from parley_server.settings.values import Shape

DISABLED = "OTEL_SDK_DISABLED"
EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
# The number, its default, and its limit.
NUMBERS = {
    "OTEL_BSP_MAX_QUEUE_SIZE": (2048, 1_000_000),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": (512, 10_000),
    "OTEL_BSP_SCHEDULE_DELAY": (5000, 600_000),
}


class TracingSettings(Shape):
    """Traces are exported. `asked_by`: the variable that says so. `content`: spans contain prompts and answers.
    `queue`: how many spans may wait for their export. `batch`: how many are sent at once. `interval_s`: for how many
    seconds they are collected, unless there are enough of them before."""

    asked_by: str
    content: bool
    queue: int
    batch: int
    interval_s: float


def read_tracing(environment: Mapping[str, str], faults: list[str]) -> TracingSettings | None:
    """The settings of traces; None if they are off, or for values with faults. An empty variable counts as unset."""
    if environment.get(DISABLED, "").strip().lower() == "true":
        return None
    exporter = environment.get(EXPORTER, "").strip().lower()
    asked_by = EXPORTER if exporter else next((name for name in ENDPOINTS if environment.get(name)), "")
    if exporter == "none" or not asked_by:
        return None
    found = [f'{EXPORTER}: must be otlp or none (got "{exporter}")'] if exporter not in ("", "otlp") else []
    # The one of traces wins, as in the library.
    protocol = next((name for name in PROTOCOLS if environment.get(name)), "")
    if protocol and environment[protocol] != "grpc":
        found.append(f'{protocol}: only grpc is supported (got "{environment[protocol]}")')
    queue, batch, interval_ms = (_read_number(name, environment, found) for name in NUMBERS)
    faults.extend(found)
    if found:
        return None
    content = environment.get(CONTENT, "").strip().lower() == "true"
    return TracingSettings(
        asked_by=asked_by, content=content, queue=queue, batch=min(batch, queue), interval_s=interval_ms / 1000
    )


def _read_number(name: str, environment: Mapping[str, str], faults: list[str]) -> int:
    default, most = NUMBERS[name]
    text = environment.get(name, "").strip() or str(default)
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= most:
        faults.append(f'{name}: must be a whole number from 1 to {most} (got "{text}")')
        return default
    return int(text)
