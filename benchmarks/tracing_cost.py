"""Measures the CPU that traces add to a reply, against a server without them.

python -m benchmarks.tracing_cost    exit status 1 if a sampled reply needs 0.15 ms of CPU more

The servers run at the same time, and rounds on them alternate, so that a slow or busy machine slows all of them. One
exports every call, reply and attempt to a collector, which is part of this process; one has traces on, but samples
none.
CPU is measured while 16 callers keep the server busy, and until the last spans have been exported. Equal servers differ
by up to 3 %, each from its start to its end, so all are started several times.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import msgspec
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from benchmarks.driving import LoadProcess, measured_run, metrics
from benchmarks.load import Load
from benchmarks.parleys import start_embedded
from benchmarks.report import number, table
from benchmarks.systems import RunningSystem, Upstream

STARTS, ROUNDS = 4, 5
MODEL = "t2-p0"
BUSY = {"replies": 320, "concurrency": 16}
SPANS_PER_REPLY = 3
EXPORT_EVERY_S = 0.6
SETTLE_S, LIMIT_S = 0.8, 900.0
"""SETTLE_S is longer than the interval of exports, so that the spans of a round are exported within the round."""
TRIES = 10
LIMIT_MS = 0.15
OFF, UNSAMPLED, SAMPLED = "off", "on, none sampled", "on, all sampled"
SAMPLERS = {UNSAMPLED: "always_off", SAMPLED: "always_on"}


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


class Server:
    """A server with the process that calls it."""

    def __init__(self, system: RunningSystem, upstream: Upstream) -> None:
        self._system, self._upstream = system, upstream
        self._load = Load(address=system.address, model=MODEL, **BUSY)
        self.process = LoadProcess(msgspec.structs.replace(self._load, replies=1), LIMIT_S)
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


def environment(name: str, collector: Collector) -> Mapping[str, str]:
    """The variables that make a server trace."""
    if name == OFF:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_TRACES_SAMPLER": SAMPLERS[name],
        "OTEL_BSP_SCHEDULE_DELAY": str(int(EXPORT_EVERY_S * 1000)),
    }


def measured() -> dict[str, list[float]]:
    """CPU per reply of each server in each round, in milliseconds."""
    costs: dict[str, list[float]] = {name: [] for name in (OFF, UNSAMPLED, SAMPLED)}
    with closing(Upstream()) as upstream, closing(Collector()) as collector:
        for start in range(STARTS):
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-tracing-")))
                servers = _started(folder, upstream, collector, stack)
                for turn in range(-1, ROUNDS):  # the first one warms up
                    for name in servers if (start + turn) % 2 else reversed(servers):
                        cpu_ms = _cpu_ms(servers[name], collector, SPANS_PER_REPLY if name == SAMPLED else 0)
                        if turn >= 0:
                            costs[name].append(cpu_ms)
    return costs


def _started(folder: Path, upstream: Upstream, collector: Collector, stack: ExitStack) -> dict[str, Server]:
    servers = {}
    for position, name in enumerate((OFF, UNSAMPLED, SAMPLED)):
        own = folder / str(position)
        own.mkdir()
        system = start_embedded(own, upstream, [MODEL, "t20-p0"], environment=environment(name, collector))
        stack.callback(system.stop)
        servers[name] = Server(system, upstream)
        stack.callback(servers[name].process.close)
    return servers


def _cpu_ms(server: Server, collector: Collector, spans_per_reply: int) -> float:
    """CPU per reply of one round, whose spans must have been exported."""
    before, expected = collector.spans, spans_per_reply * BUSY["replies"]
    cpu_ms = server.cpu_ms_per_reply()
    if collector.spans - before < expected:
        raise SystemExit(f"only {collector.spans - before} of {expected} spans were exported")
    return cpu_ms


def main() -> int:
    """Measure, print a table, and compare with the limit."""
    costs = measured()
    rows, more = [], {}
    for name, own in costs.items():
        more[name] = statistics.median(mine - base for mine, base in zip(own, costs[OFF], strict=True))
        ratio = statistics.median(mine / base for mine, base in zip(own, costs[OFF], strict=True))
        rows.append([name, number(statistics.median(own)), number(more[name]), number(ratio)])
    print(table(["traces", "CPU per reply, ms", "more than off, ms", "ratio to off"], rows))
    return int(more[SAMPLED] > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
