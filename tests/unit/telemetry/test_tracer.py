"""Where a call is in its trace, by the trace context of its caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from parley_server.telemetry.otel.tracer import OtelTracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
USUAL = f"00-{TRACE}-{SPAN}-"
HEADERS = {
    **{f"flags {flags}": {"traceparent": USUAL + flags} for flags in ("00", "01", "02", "03", "fc", "ff")},
    "a state": {"traceparent": USUAL + "01", "tracestate": "vendor=1,other=2"},
    "a wrong state": {"traceparent": USUAL + "01", "tracestate": "="},
    "a newer version": {"traceparent": f"01-{TRACE}-{SPAN}-01-more"},
    "more in version 00": {"traceparent": USUAL + "01-more"},
    "version ff": {"traceparent": f"ff-{TRACE}-{SPAN}-01"},
    "no trace": {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
    "no span": {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
    "zeros within": {"traceparent": f"00-{'0' * 31}1-{'0' * 15}1-01"},
    "capitals": {"traceparent": f"00-{TRACE.upper()}-{SPAN}-01"},
    "spaces": {"traceparent": f" {USUAL}01 "},
    "a new line": {"traceparent": f"{USUAL}01\n"},
    "short": {"traceparent": "00"},
    "empty": {"traceparent": ""},
}
Open = Callable[[str], OtelTracer]


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a tracer with a sampler of OTEL_TRACES_SAMPLER."""
    opened = []

    def open_tracer(sampler: str) -> OtelTracer:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        opened.append(OtelTracer(content=False, queue=1, batch=1, interval_s=60, count=lambda *_: None))
        return opened[-1]

    yield open_tracer
    for each in opened:
        each.close(0.0)


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("sampler", ["parentbased_always_on", "parentbased_always_off", "always_on", "always_off"])
def test_a_place_is_the_one_that_the_library_gives(
    tracer: Open, monkeypatch: pytest.MonkeyPatch, sampler: str, headers: dict[str, str]
) -> None:
    opened = tracer(sampler)
    place = opened.call("/S/M", headers).place
    monkeypatch.setattr(opened, "_follows_callers", False)
    by_library = opened.call("/S/M", headers).place
    assert (place.parent, place.flags, place.is_remote, place.state) == (
        by_library.parent,
        by_library.flags,
        by_library.is_remote,
        by_library.state,
    )
    if place.parent:
        assert place.trace == by_library.trace
    assert (len(place.trace), len(place.span)) == (16, 8)
    assert place.span != by_library.span


@pytest.mark.parametrize(
    ("sampler", "follows"),
    [
        ("parentbased_always_on", True),
        ("parentbased_traceidratio", True),
        ("always_on", False),
        ("traceidratio", False),
    ],
)
def test_the_usual_header_is_read_without_the_library_where_the_sampler_follows_callers(
    tracer: Open, monkeypatch: pytest.MonkeyPatch, sampler: str, follows: bool
) -> None:
    opened = tracer(sampler)
    asked = []
    extract = opened._propagator.extract
    monkeypatch.setattr(opened._propagator, "extract", lambda *given: asked.append(given) or extract(*given))
    opened.call("/S/M", {"traceparent": USUAL + "01"})
    assert bool(asked) is not follows
