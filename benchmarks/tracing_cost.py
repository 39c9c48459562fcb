"""Measures the CPU that traces add to a reply, against a server without them.

python -m benchmarks.tracing_cost         exit status 1 if a sampled reply needs 0.15 ms of CPU more
python -m benchmarks.tracing_cost 16      16 starts of the servers in place of 8, about half a minute each

Two servers run at the same time, one of them with traces. Callers send a `traceparent`, which decides in each round
whether the server with traces samples the replies; it exports every call, reply and attempt of them to a collector,
which is part of this process. Rounds alternate, so that a slow or busy machine slows all of them. CPU is measured while
16 callers keep a server busy, and until the last spans have been exported.

Equal servers differ by up to 3 %, each from its start to its end. So what a sampled reply adds is measured within one
server, against replies that are not sampled. What those add is measured between the servers, over several starts, with
the same hash seed for both. A sampled reply costs the sum of the two.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from benchmarks.driving import LoadProcess, measured_run, metrics
from benchmarks.load import Load
from benchmarks.parleys import start_embedded
from benchmarks.report import number, shown, table
from benchmarks.results import Spread
from benchmarks.systems import RunningSystem, Upstream

STARTS, ROUNDS = 8, 5
MODEL = "t2-p0"
BUSY = {"replies": 320, "concurrency": 16}
SPANS_PER_REPLY = 3
EXPORT_EVERY_S = 0.6
SETTLE_S, LIMIT_S = 0.8, 900.0
"""SETTLE_S is longer than the interval of exports, so that the spans of a round are exported within the round."""
TRIES = 10
LIMIT_MS = 0.15
OFF, UNSAMPLED, SAMPLED = "off", "on, not sampled", "on, sampled"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
"""A caller's trace context without its flags."""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts spans. It runs in this process, so that its CPU is not measured."""

    def __init__(self) -> None:
        self.spans = 0
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: ARG002, N802
        self.spans += sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def close(self) -> None:
        self._server.stop(0)


class Callers:
    """A process that calls a server, with a trace context that is sampled or not."""

    def __init__(self, system: RunningSystem, upstream: Upstream, *, are_sampled: bool) -> None:
        self._system, self._upstream = system, upstream
        headers = {"traceparent": TRACEPARENT + ("01" if are_sampled else "00")}
        self._load = Load(address=system.address, model=MODEL, headers=headers, **BUSY)
        self.process = LoadProcess(self._load, LIMIT_S)
        self.process.expect_ready()

    def cpu_ms_per_reply(self) -> float:
        """CPU of one load that was completed: on a busy machine, a server may refuse replies as OVERLOADED."""
        for _ in range(TRIES):
            run = measured_run(
                self._load, self.process, system=self._system, upstream=self._upstream, settle_s=SETTLE_S
            )
            found = metrics(run, self._load)
            if not found["incomplete"]:
                return found["cpu_ms_per_reply"]
        raise SystemExit(f"the load was not completed: {run.seen.statuses} {run.seen.faults}")


def environment(collector: Collector) -> Mapping[str, str]:
    """The variables that make a server trace what its callers sample."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": str(int(EXPORT_EVERY_S * 1000)),
    }


Costs = dict[str, list[float]]
"""CPU per reply of each kind in each round, in milliseconds."""


def measured(starts: int) -> Iterator[Costs]:
    """The costs of each start."""
    with closing(Upstream()) as upstream, closing(Collector()) as collector:
        for start in range(starts):
            costs: Costs = {OFF: [], UNSAMPLED: [], SAMPLED: []}
            with ExitStack() as stack:
                seed = {"PYTHONHASHSEED": str(start)}
                off = _started(upstream, seed, stack)
                on = _started(upstream, seed | environment(collector), stack)
                callers = {
                    OFF: _callers(off, upstream, stack, are_sampled=False),
                    UNSAMPLED: _callers(on, upstream, stack, are_sampled=False),
                    SAMPLED: _callers(on, upstream, stack, are_sampled=True),
                }
                for turn in range(-1, ROUNDS):  # the first one warms up
                    for name in costs if (start + turn) % 2 else reversed(costs):
                        cpu_ms = _cpu_ms(callers[name], collector, SPANS_PER_REPLY if name == SAMPLED else 0)
                        if turn >= 0:
                            costs[name].append(cpu_ms)
            yield costs


def _started(upstream: Upstream, variables: Mapping[str, str], stack: ExitStack) -> RunningSystem:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-tracing-")))
    system = start_embedded(folder, upstream, [MODEL, "t20-p0"], environment=variables)
    stack.callback(system.stop)
    return system


def _callers(system: RunningSystem, upstream: Upstream, stack: ExitStack, *, are_sampled: bool) -> Callers:
    callers = Callers(system, upstream, are_sampled=are_sampled)
    stack.callback(callers.process.close)
    return callers


def _cpu_ms(callers: Callers, collector: Collector, spans_per_reply: int) -> float:
    """CPU per reply of one round, whose spans must have been exported."""
    before, expected = collector.spans, spans_per_reply * BUSY["replies"]
    cpu_ms = callers.cpu_ms_per_reply()
    if collector.spans - before < expected:
        raise SystemExit(f"only {collector.spans - before} of {expected} spans were exported")
    return cpu_ms


def added_ms(name: str, base: str, starts: Iterable[Costs]) -> Spread:
    """What one kind needs more than another one in the same round, in milliseconds: the median of the starts'
    medians, and the lowest and the highest one."""
    each = [
        statistics.median(mine - other for mine, other in zip(costs[name], costs[base], strict=True))
        for costs in starts
    ]
    return Spread(statistics.median(each), min(each), max(each))


def main() -> int:
    """Measure, print a table, and compare with the limit."""
    starts = list(measured(int(sys.argv[1]) if len(sys.argv) > 1 else STARTS))
    off_ms = statistics.median(cost for costs in starts for cost in costs[OFF])
    traced = added_ms(UNSAMPLED, OFF, starts)
    sampled = added_ms(SAMPLED, UNSAMPLED, starts)
    whole_ms = traced.median + sampled.median
    rows = [
        ["a reply without traces", number(off_ms), ""],
        ["traces on, not sampled", shown(traced), f"{traced.median / off_ms * 100:.1f} %"],
        ["sampled, more than that", shown(sampled), f"{sampled.median / off_ms * 100:.1f} %"],
        ["a sampled reply, in all", number(whole_ms), f"{whole_ms / off_ms * 100:.1f} %"],
    ]
    print(table(["", "CPU, ms (starts)", "of a reply without traces"], rows))
    return int(whole_ms > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
