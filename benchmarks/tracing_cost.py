"""Measures the CPU that traces add to a reply, against a server without them.

python -m benchmarks.tracing_cost         exit status 1 if a sampled reply needs 0.15 ms of CPU more
python -m benchmarks.tracing_cost 12      12 starts of the servers in place of 8, about a minute each

Two servers run at the same time, one of them with traces. Callers send a `traceparent`, which decides in each round
whether the server with traces samples the replies; it exports every call, reply and attempt of them to a collector,
which is part of this process. CPU is measured while 16 callers keep a server busy, and until the last spans have been
exported.

The differences are smaller than the noise of most machines, so:
- The speed of a core changes by 20 % within seconds. Each round is compared with the CPU that its callers and its
  provider needed for the same replies: "callers" are the unit in which rounds are compared.
- The order of the rounds is random, and so is the order in which the servers start.
- Equal processes differ by up to 5 %, each from its start to its end. Both servers have the same hash seed and, where
  the system allows it, the same addresses. All are started several times; the median of the starts counts.
- What a sampled reply adds is measured within one server, against replies that are not sampled. What those add is
  measured between the servers. A sampled reply costs the sum of the two.
"""

from __future__ import annotations

import ctypes
import random
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from benchmarks.driving import LoadProcess, measured_run, metrics
from benchmarks.load import Load
from benchmarks.parleys import start_embedded
from benchmarks.report import number, table
from benchmarks.results import Spread
from benchmarks.systems import RunningSystem, Upstream

STARTS, ROUNDS = 8, 8
MODEL = "t2-p0"
BUSY = {"replies": 480, "concurrency": 16}
SPANS_PER_REPLY = 3
EXPORT_EVERY_S = 0.6
SETTLE_S, LIMIT_S = 0.8, 900.0
"""SETTLE_S is longer than the interval of exports, so that the spans of a round are exported within the round."""
TRIES = 10
LIMIT_MS = 0.15
OFF, UNSAMPLED, SAMPLED = "off", "on, not sampled", "on, sampled"
ADDR_NO_RANDOMIZE = 0x0040000
"""Of personality(2)."""
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


class Round(NamedTuple):
    """CPU per reply in one round, in milliseconds: of the server, and of what is around it, callers and provider."""

    server_ms: float
    around_ms: float

    @property
    def cost(self) -> float:
        """The server's CPU as a multiple of the other, which is the same at any speed of the cores."""
        return self.server_ms / self.around_ms


class Callers:
    """A process that calls a server, with a trace context that is sampled or not."""

    def __init__(self, system: RunningSystem, upstream: Upstream, *, are_sampled: bool) -> None:
        self._system, self._upstream = system, upstream
        headers = {"traceparent": TRACEPARENT + ("01" if are_sampled else "00")}
        self._load = Load(address=system.address, model=MODEL, headers=headers, **BUSY)
        self.process = LoadProcess(self._load, LIMIT_S)
        self.process.expect_ready()

    def round(self) -> Round:
        """One load that was completed: on a busy machine, a server may refuse replies as OVERLOADED."""
        for _ in range(TRIES):
            run = measured_run(
                self._load, self.process, system=self._system, upstream=self._upstream, settle_s=SETTLE_S
            )
            found = metrics(run, self._load)
            if not found["incomplete"]:
                around_ms = (run.seen.load_cpu_s + run.upstream_cpu_s) * 1000 / self._load.replies
                return Round(found["cpu_ms_per_reply"], around_ms)
        raise SystemExit(f"the load was not completed: {run.seen.statuses} {run.seen.faults}")


def environment(collector: Collector) -> Mapping[str, str]:
    """The variables that make a server trace what its callers sample."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": str(int(EXPORT_EVERY_S * 1000)),
    }


Rounds = dict[str, list[Round]]
"""The rounds of each kind."""


def measured(starts: int) -> Iterator[Rounds]:
    """The rounds of each start."""
    with closing(Upstream()) as upstream, closing(Collector()) as collector:
        for start in range(starts):
            rounds: Rounds = {OFF: [], UNSAMPLED: [], SAMPLED: []}
            with ExitStack() as stack:
                seed = {"PYTHONHASHSEED": str(start)}
                variables = {OFF: seed, UNSAMPLED: seed | environment(collector)}
                order = random.sample(list(variables), 2)
                servers = {name: _started(upstream, variables[name], stack) for name in order}
                off, on = servers[OFF], servers[UNSAMPLED]
                callers = {
                    OFF: _callers(off, upstream, stack, are_sampled=False),
                    UNSAMPLED: _callers(on, upstream, stack, are_sampled=False),
                    SAMPLED: _callers(on, upstream, stack, are_sampled=True),
                }
                for turn in range(-1, ROUNDS):  # the first one warms up
                    for name in random.sample(list(rounds), 3):
                        found = _round(callers[name], collector, SPANS_PER_REPLY if name == SAMPLED else 0)
                        if turn >= 0:
                            rounds[name].append(found)
            yield rounds


def _started(upstream: Upstream, variables: Mapping[str, str], stack: ExitStack) -> RunningSystem:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-tracing-")))
    system = start_embedded(folder, upstream, [MODEL, "t20-p0"], environment=variables)
    stack.callback(system.stop)
    return system


def _callers(system: RunningSystem, upstream: Upstream, stack: ExitStack, *, are_sampled: bool) -> Callers:
    callers = Callers(system, upstream, are_sampled=are_sampled)
    stack.callback(callers.process.close)
    return callers


def _round(callers: Callers, collector: Collector, spans_per_reply: int) -> Round:
    """One round, whose spans must have been exported."""
    before, expected = collector.spans, spans_per_reply * BUSY["replies"]
    found = callers.round()
    if collector.spans - before < expected:
        raise SystemExit(f"only {collector.spans - before} of {expected} spans were exported")
    return found


def same_addresses() -> None:
    """Let all processes that are started from here on have the same addresses, where the system allows it."""
    ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)


def added(name: str, base: str, starts: Iterable[Rounds]) -> Spread:
    """What one kind needs more than another one, as a share of that: the median of the starts, and the lowest and the
    highest one."""

    def cost(rounds: list[Round]) -> float:
        return statistics.median(each.cost for each in rounds)

    each = [cost(rounds[name]) / cost(rounds[base]) - 1 for rounds in starts]
    return Spread(statistics.median(each), min(each), max(each))


def main() -> int:
    """Measure, print a table, and compare with the limit."""
    same_addresses()
    starts = list(measured(int(sys.argv[1]) if len(sys.argv) > 1 else STARTS))
    off_ms = statistics.median(each.server_ms for rounds in starts for each in rounds[OFF])
    traced = added(UNSAMPLED, OFF, starts)
    sampled = added(SAMPLED, UNSAMPLED, starts)
    whole_ms = (traced.median + sampled.median) * off_ms
    rows = [
        ["a reply without traces", number(off_ms), ""],
        ["traces on, not sampled", f"+ {number(traced.median * off_ms)}", percent(traced)],
        ["sampled", f"+ {number(sampled.median * off_ms)}", percent(sampled)],
        ["a sampled reply in all", f"+ {number(whole_ms)}", f"{(traced.median + sampled.median) * 100:.1f} %"],
    ]
    print(table(["", "CPU, ms", "more (starts)"], rows))
    return int(whole_ms > LIMIT_MS)


def percent(spread: Spread) -> str:
    """The median, the lowest and the highest share."""
    return "{:.1f} % ({:.1f} to {:.1f})".format(*(each * 100 for each in (spread.median, spread.low, spread.high)))


if __name__ == "__main__":
    sys.exit(main())
