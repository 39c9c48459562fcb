"""Shared parts of capacity, overload and soak: a server with their settings, and the output of results."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import gauges, report
from benchmarks.parleys import start_embedded, start_redis
from benchmarks.systems import RunningSystem, Upstream

STARTS = {"parley": start_embedded, "parley-redis": start_redis}
LATEST = Path(__file__).parent / "results"


@contextmanager
def serving(
    kind: str, models: list[str], upstream: Upstream, *, server: dict[str, object] | None = None
) -> Iterator[RunningSystem]:
    """A running Parley of this kind with these settings of `[server]`, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="parley-study-") as folder:
        system = STARTS[kind](Path(folder), upstream, models, server=server)
        try:
            yield system
        finally:
            system.stop()


def samples(system: RunningSystem) -> dict[str, float]:
    """The server's metrics by name, summed over their labels."""
    with urlopen(f"http://{system.metrics_address}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found: dict[str, float] = {}
    for family in families:
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def facts(when: str, command: str) -> str:
    """The machine, the time and the command of a measurement, in one line."""
    machine = gauges.machine(Path(tempfile.gettempdir()))
    return f"{machine['CPU']}, {machine['cores']} cores, {machine['kernel']}; {when}; `{command}`"


def keep(name: str, found: Any, part: str, *, document: bool) -> None:
    """Print a section and write the results as JSON: below docs/ with the section itself, or as the latest results."""
    print(part)
    folder = report.CHARTS if document else LATEST
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    if document:
        report.insert(name, part)
