"""Which of the standard variables of OpenTelemetry turn traces on, and which values are faults."""

from __future__ import annotations

import pytest
from parley_server.settings import SettingsError, TracingSettings, load_settings

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}
TRACES_ENDPOINT = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}


@pytest.mark.parametrize(
    ("environment", "asked_by"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "chat"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (ENDPOINT, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (ENDPOINT | TRACES_ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER"),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, None),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ],
)
def test_what_turns_traces_on(environment: dict[str, str], asked_by: str | None) -> None:
    tracing = load_settings(environment).tracing
    assert (tracing.asked_by if tracing else None) == asked_by


def test_content_is_off_unless_it_is_asked_for() -> None:
    wanted = {
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true",
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_SCHEDULE_DELAY": "250",
    }
    (asked_by,) = ENDPOINT
    assert load_settings(ENDPOINT).tracing == TracingSettings(
        asked_by=asked_by, content=False, queue=2048, batch=512, interval_s=5.0
    )
    assert load_settings(ENDPOINT | wanted).tracing == TracingSettings(
        asked_by=asked_by, content=True, queue=100, batch=100, interval_s=0.25
    )


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"OTEL_TRACES_EXPORTER": "console"}, 'OTEL_TRACES_EXPORTER: must be otlp or none (got "console")'),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            'OTEL_EXPORTER_OTLP_PROTOCOL: only grpc is supported (got "http/protobuf")',
        ),
        *(
            (
                ENDPOINT | {"OTEL_BSP_MAX_QUEUE_SIZE": queue},
                f'OTEL_BSP_MAX_QUEUE_SIZE: must be a whole number from 1 to 1000000 (got "{queue}")',
            )
            for queue in ("0", "many", "-1", "1000001")
        ),
    ],
)
def test_faults(environment: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environment)
    assert refused.value.faults == [fault]
