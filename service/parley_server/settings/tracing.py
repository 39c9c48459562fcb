"""Reads the standard OTEL_ variables that say whether traces are wanted. OpenTelemetry's library reads the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from parley_server.settings.values import Shape

DISABLED = "OTEL_SDK_DISABLED"
EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
QUEUE = "OTEL_BSP_MAX_QUEUE_SIZE"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
MAX_QUEUE = 1_000_000


class TracingSettings(Shape):
    """Traces are exported. `asked_by`: the variable that says so. `content`: spans contain prompts and answers.
    `queue`: how many spans may wait for their export."""

    asked_by: str
    content: bool = False
    queue: Annotated[int, Field(ge=1, le=MAX_QUEUE)] = 2048


def read_tracing(environment: Mapping[str, str], faults: list[str]) -> TracingSettings | None:
    """The settings of traces; None if none are wanted, or for values with faults. An empty variable counts as unset."""
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
    queue = environment.get(QUEUE) or str(TracingSettings.model_fields["queue"].default)
    if not queue.isascii() or not queue.isdecimal() or not 1 <= int(queue) <= MAX_QUEUE:
        found.append(f'{QUEUE}: must be a whole number from 1 to {MAX_QUEUE} (got "{queue}")')
    faults.extend(found)
    if found:
        return None
    content = environment.get(CONTENT, "").strip().lower() == "true"
    return TracingSettings(asked_by=asked_by, content=content, queue=int(queue))
