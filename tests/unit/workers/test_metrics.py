"""The metrics of several workers on one page, over real sockets."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from parley_server.core.observer import CallEnded
from parley_server.core.tracing import NoSpan, within
from parley_server.telemetry.endpoint import MetricsEndpoint, serve_metrics
from parley_server.telemetry.metrics import Metrics
from parley_server.workers import metrics as workers_metrics
from parley_server.workers.metrics import WorkersCollector
from parley_server.workers.worker import Worker
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def endpoint(registry: CollectorRegistry, closing: ExitStack) -> MetricsEndpoint:
    served = serve_metrics("127.0.0.1", 0, registry)
    closing.callback(served.close)
    return served


def worker(index: int, closing: ExitStack, *, calls: int) -> Worker:
    metrics = Metrics()
    for _ in range(calls):
        metrics.call_ended(CallEnded(method='/a"b\\c', code="OK", duration_s=0.02))
    made = Worker(index)
    made.metrics_port = endpoint(metrics.registry, closing).port
    return made


def page(workers: list[Worker], closing: ExitStack, *, accept: str = "") -> str:
    registry = CollectorRegistry()
    registry.register(WorkersCollector(workers))
    request = urllib.request.Request(
        f"http://127.0.0.1:{endpoint(registry, closing).port}/metrics", headers={"Accept": accept}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return str(answer.read().decode())


def samples(families: list[Metric]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_each_sample_has_the_label_of_its_worker(closing: ExitStack, accept: str) -> None:
    workers = [worker(0, closing, calls=2), worker(1, closing, calls=5)]
    workers[1].restarts = 3
    text = page(workers, closing, accept=accept)
    families = list((parse_openmetrics if accept else parse_text)(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family comes once"
    found = samples(families)
    call = ("code=OK", 'method=/a"b\\c')
    assert found["parley_calls_total", *call, "worker=0"] == 2
    assert found["parley_calls_total", *call, "worker=1"] == 5
    assert found["parley_call_duration_seconds_bucket", "le=0.05", call[1], "worker=1"] == 5
    assert found["parley_worker_up", "worker=0"] == found["parley_worker_up", "worker=1"] == 1
    assert found["parley_worker_restarts_total", "worker=0"] == 0
    assert found["parley_worker_restarts_total", "worker=1"] == 3
    whole = {name for name, *labels in found if not any(label.startswith("worker=") for label in labels)}
    assert whole == set()


def test_exemplars_of_workers_are_kept(closing: ExitStack) -> None:
    span = NoSpan()
    span.sampled, span.trace_id = True, "0af7"
    with within(span):
        workers = [worker(0, closing, calls=1)]
    text = page(workers, closing, accept="application/openmetrics-text; version=1.0.0")
    (line,) = [line for line in text.splitlines() if " # {" in line]
    assert line.startswith("parley_call_duration_seconds_bucket{")
    assert 'worker="0"' in line
    assert ' # {trace_id="0af7"} 0.02 ' in line


def test_a_worker_that_does_not_answer_is_left_out(closing: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_metrics, "ASK_LIMIT_S", 0.2)
    silent = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
    workers = [Worker(0), Worker(1), worker(2, closing, calls=1), Worker(3)]
    workers[1].metrics_port = silent.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as gone:
        workers[3].metrics_port = gone.getsockname()[1]
    found = samples(list(parse_text(page(workers, closing))))
    assert [found["parley_worker_up", f"worker={index}"] for index in range(4)] == [0, 0, 1, 0]
    assert {key[-1] for key in found if key[0] == "parley_replies_active"} == {"worker=2"}


def test_the_manual_names_the_worker_metrics(closing: ExitStack) -> None:
    manual = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    for name in ("parley_worker_up", "parley_worker_restarts_total"):
        assert name in page([Worker(0)], closing)
        assert f"`{name}`" in manual
