"""The alert rules and the dashboard agree with docs/operations.md and with the metrics and log events of the code."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise

import pytest
from parley_server.telemetry.metrics import Metrics

from tests.observability.rules import FOLDER, alerts, dashboard, panel_queries, panels, selectors
from tests.tools import ROOT, tool

PAGE = (ROOT / "docs/operations.md").read_text()
INCIDENTS = PAGE[PAGE.index("\n## Incidents\n") :]
ROWS = [
    "Traffic",
    "First token",
    "Outcome by reason",
    "Providers and breakers",
    "Quotas and limits",
    "Tokens and money",
    "Replicas, leases and takeovers",
    "Loop and overload",
    "Workers and processes",
]


def paragraphs() -> dict[str, str]:
    """The text below each heading of an alert."""
    parts = re.split(r"^#### (\w+)\n", INCIDENTS, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def exported() -> dict[str, str]:
    """The names of the metrics of a process, each with its labels' values, as they are before the first call."""
    metrics = Metrics()
    metrics.watch_relay(lambda: 0.0, lambda: 0)
    metrics.watch_models(lambda: ())
    metrics.watch_certificates(dict)
    named: dict[str, str] = {"parley_worker_up": "", "parley_worker_restarts_total": "", "up": ""}
    for family in metrics.registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        named |= {family.name + suffix: "", f"{family.name}_bucket": ""}
        for sample in family.samples:
            named[sample.name] = f"{named.get(sample.name, '')} {sorted(sample.labels.values())}"
    return named


def test_each_alert_has_its_paragraph_and_each_paragraph_its_alert() -> None:
    rules = alerts()
    assert list(paragraphs()) == list(rules)
    assert len(rules) > 30
    for name, rule in rules.items():
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize("part", ["Users", "Confirm", "Do"])
def test_each_paragraph_says_what_users_see_how_to_confirm_and_what_to_do(part: str) -> None:
    assert [name for name, text in paragraphs().items() if text.count(f"- **{part}**: ") != 1] == []


def test_queries_read_metrics_that_exist() -> None:
    known = exported()
    queries = [*panel_queries().values(), *(rule["expr"] for rule in alerts().values())]
    read = {re.split(r"\W", selector)[0] for query in queries for selector in selectors(query)} - {""}
    services = {name for name in read if name.startswith(("redis_", "pg_", "node_"))}
    assert len(read) > 40
    assert sorted(read - services - known.keys()) == []


def test_the_log_events_of_alerts_are_counted_from_the_start_and_exist() -> None:
    counted = exported()["parley_log_lines_total"]
    source = "\n".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    expressions = "\n".join(rule["expr"] for rule in alerts().values())
    named = {event for words in re.findall(r'event=~?"([^"]+)"', expressions) for event in words.split("|")}
    assert len(named) > 8
    assert [event for event in sorted(named) if f"'{event}'" not in counted] == []
    excluded = re.findall(r'event!~"([^"]+)"', expressions)[0].split("|")
    assert [event for event in excluded if f'"{event.rstrip(".*")}' not in source] == []
    mentioned = {
        event for words in re.findall(r"\(log ([^)]*)\)", INCIDENTS) for event in re.findall(r"`(\w+)`", words)
    }
    assert len(mentioned) > 20
    assert [event for event in sorted(mentioned - {"error", "problem"}) if f'"{event}"' not in source] == []


def test_rules_and_configuration_are_valid_and_each_alert_fires_when_it_should() -> None:
    _promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yaml")
    _promtool("test", "rules", "alerts_test.yaml")


def test_each_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    tested = re.findall(
        r"^  - name: (\w+) (fires|does not fire)$", (FOLDER / "alerts_test.yaml").read_text(), re.MULTILINE
    )
    assert tested == [(name, kind) for name in alerts() for kind in ("fires", "does not fire")]


def test_the_dashboard_has_a_row_for_each_subject() -> None:
    board = dashboard()
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == ROWS
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "namespace", "job"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels():
        targets = panel["targets"]
        assert targets, panel["title"]
        assert {each["datasource"]["uid"] for each in (panel, *targets)} == {"${datasource}"}
        for target in targets:
            unselected = [
                each for each in selectors(target["expr"]) if 'namespace=~"$namespace", job=~"$job"' not in each
            ]
            assert unselected == [], panel["title"]


def test_panels_do_not_overlap() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard()["panels"]]
    taken: set[tuple[int, int]] = set()
    for title, place in places:
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, title
        assert place["x"] + place["w"] <= 24, title
        taken |= cells
    assert all(first["y"] <= second["y"] for (_, first), (_, second) in pairwise(places))


def _promtool(*words: str) -> None:
    done = subprocess.run([tool("promtool"), *words], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
