"""The documents name tests, metrics, log events and settings; each of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from parley_server.rpc.server import SERVERS
from parley_server.rpc.transport import PING_ANSWER_S
from parley_server.settings import ServerSettings
from parley_server.store.engine.postgres import POOL_SIZE
from parley_server.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
OPERATIONS = (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize(("document", "least"), [("guarantees", 40), ("operations", 35)])
def test_every_test_that_a_document_names_is_there(document: str, least: int) -> None:
    named = NAMED.findall((ROOT / f"docs/{document}.md").read_text())
    assert len(named) > least
    missing = [
        (path, test)
        for path, test in named
        if not (ROOT / path).is_file() or f"def {test}(" not in (ROOT / path).read_text()
    ]
    assert missing == []


def test_upstreams_every_test_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/upstreams.md").read_text()))
    written = "\n".join([path.read_text() for path in (ROOT / "tests").rglob("test_*.py")])
    assert len(named) > 20
    assert [test for test in sorted(named) if f"def {test}(" not in written] == []


def test_operations_every_guarantee_has_its_row() -> None:
    assert re.findall(r"^\| (G\d+) ", OPERATIONS, re.MULTILINE) == [f"G{number}" for number in range(1, 11)]


def test_operations_every_metric_is_there() -> None:
    metrics = Metrics()
    metrics.watch_relay(lambda: 0.0, lambda: 0)
    families = list(metrics.registry.collect())
    known = {name for family in families for name in (family.name, *[sample.name for sample in family.samples])}
    known |= {f"{family.name}_total" for family in families if family.type == "counter"}
    named = set(re.findall(r"\bparley_[a-z_]+", OPERATIONS)) - {"parley_server"}
    assert len(named) > 5
    assert named <= known


def test_operations_every_log_event_is_there() -> None:
    (section,) = re.findall(r"^## What to watch\n(.*?)^## ", OPERATIONS, re.MULTILINE | re.DOTALL)
    words = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", section)) - set(ServerSettings.model_fields)
    events = {word for word in words if not word.startswith("parley_")} - {"reason", "process", "loop", "maxmemory"}
    assert {"fenced", "taken_over", "relay_lost", "journal_behind"} <= events
    source = "\n".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    assert [event for event in sorted(events) if f'"{event}"' not in source] == []


def test_operations_every_setting_is_there() -> None:
    named = set(re.findall(r"`(\w+_s|max_\w+)`", OPERATIONS)) - {"max_connections", "max_concurrent_streams"}
    assert {"drain_pause_s", "drain_grace_s", "max_replies"} <= named
    assert named <= ServerSettings.model_fields.keys()


def test_operations_the_figures_are_the_codes() -> None:
    server = ServerSettings()
    for words in (
        f"PostgreSQL   conversations, replies, leases: the truth: {POOL_SIZE + 1} connections each",
        f"a pool of {POOL_SIZE}, and one for leases and health",
        f"its lease ({server.lease_s:g} s) runs out",
        f"a lease and a sweep every {server.sweep_interval_s:g} s",
        f"`drain_pause_s` ({server.drain_pause_s:g} s by default)",
        f"every {server.heartbeat_s:g} s (`heartbeat_s`)",
        f"`max_replies`, {server.max_replies:,} a process",
        f"its own time limit ({server.time_limit_s / 60:g} min)",
        f"`connection_age_s` ({server.connection_age_s / 60:g} min)",
        f"`connection_grace_s` ({server.connection_grace_s / 60:g} min)",
        f"`keepalive_s` ({server.keepalive_s:g} s)",
        f"no answer comes within {PING_ANSWER_S:g} s",
        f"`least_ping_interval_s` ({server.least_ping_interval_s:g} s)",
        f"`streams_per_connection` ({server.streams_per_connection:,})",
        f"`metadata_bytes` ({server.metadata_bytes // 1024} KiB)",
        f"has {SERVERS} gRPC servers behind its port",
        f"until {server.relay_retention_s / 60:g} minutes after its end",
    ):
        assert words in OPERATIONS
