"""Shared parts of capacity, overload and soak: a server with their settings, and the output of results."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
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
    kind: str, models: list[str], server: dict[str, object] | None = None
) -> Iterator[tuple[RunningSystem, Upstream]]:
    """A running Parley of this kind with these settings of `[server]`, in a temporary folder, and its upstream."""
    with closing(Upstream()) as upstream, tempfile.TemporaryDirectory(prefix="parley-study-") as folder:
        system = STARTS[kind](Path(folder), upstream, models, server=server)
        try:
            yield system, upstream
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


def keep(name: str, found: Any, part: str, *, document: bool, page: Path = report.DOCUMENT) -> None:
    """Print a section with the machine, the time and the command, and write the results as JSON.

    With `document` the JSON goes below docs/, and the section into this page."""
    machine = gauges.machine(Path(tempfile.gettempdir()))
    command = f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip()
    where = f"{machine['CPU']}, {machine['cores']} cores, {machine['kernel']}"
    part = f"{part}\n\n{where}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; `{command}`"
    print(part)
    folder = report.CHARTS if document else LATEST
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    if document:
        report.insert(name, part, document=page)
