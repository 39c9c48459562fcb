"""Merges the metrics of all workers; each sample gets the label `worker`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from parley_server.workers.worker import Worker

LABEL = "worker"
ASK_LIMIT_S = 2.0
# OpenMetrics keeps a counter and its creation time in one family; the older text format does not.
_FORMAT = "application/openmetrics-text; version=1.0.0"


class WorkersCollector(Collector):
    """Fetches the metrics of all workers in parallel at each scrape. A worker that does not answer within 2 s is left
    out, and its `parley_worker_up` is 0."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Fetch and merge. Called in the endpoint's threads."""
        up = GaugeMetricFamily("parley_worker_up", "Whether the worker answers.", labels=[LABEL])
        restarts = CounterMetricFamily("parley_worker_restarts", "Starts after the first.", labels=[LABEL])
        # In parallel, so that several workers that hang delay a scrape by one limit and not by the sum of all.
        with ThreadPoolExecutor(len(self._workers)) as pool:
            answers = list(pool.map(_ask, [worker.metrics_port for worker in self._workers]))
        for worker, answer in zip(self._workers, answers, strict=True):
            up.add_metric([str(worker.index)], float(answer is not None))
            restarts.add_metric([str(worker.index)], worker.restarts)
        yield up
        yield restarts
        yield from _merged(
            (str(worker.index), answer or []) for worker, answer in zip(self._workers, answers, strict=True)
        )


def _merged(answers: Iterable[tuple[str, list[Metric]]]) -> Iterable[Metric]:
    merged: dict[str, Metric] = {}
    for index, families in answers:
        for family in families:
            whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type, family.unit))
            whole.samples += [each._replace(labels={LABEL: index, **each.labels}) for each in family.samples]
    return merged.values()


def _ask(port: int) -> list[Metric] | None:
    """The metrics served on a loopback port; None if the worker does not answer."""
    if not port:
        return None  # its process is being started
    connection = HTTPConnection("127.0.0.1", port, timeout=ASK_LIMIT_S)
    try:
        connection.request("GET", "/metrics", headers={"Accept": _FORMAT})
        text = connection.getresponse().read().decode()
        return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # untyped
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
