"""The tests, metrics, log events and settings that the documents name exist, and have the figures of the code."""

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
PAGES = [
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "clients/*/README.md",
        "examples/*/README.md",
        "deploy/**/*.md",
        "tests/conformance/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
CLUSTER, CAPACITY, GUARANTEES, OPERATIONS = (
    (ROOT / f"docs/{name}.md").read_text() for name in ("cluster", "capacity", "guarantees", "operations")
)
FOR_OPERATORS = CLUSTER + CAPACITY + OPERATIONS


def test_links_lead_to_existing_files_and_headings() -> None:
    links = [
        (page, *link.partition("#")[::2])
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if not link.startswith("http")
    ]
    assert len(links) > 50
    assert [(page.name, path) for page, path, _ in links if not (page.parent / path).exists()] == []
    assert [
        (page.name, path, anchor)
        for page, path, anchor in links
        if anchor and anchor not in anchors(page.parent / path if path else page)
    ] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_named_tests_exist() -> None:
    named = NAMED.findall(GUARANTEES)
    assert len(named) > 75
    missing = [
        (path, test)
        for path, test in named
        if not (ROOT / path).is_file() or f"def {test}(" not in (ROOT / path).read_text()
    ]
    assert missing == []


@pytest.mark.parametrize("document", ["docs/architecture.md", "docs/glossary.md", "CONTRIBUTING.md"])
def test_named_modules_exist(document: str) -> None:
    named = re.findall(r"`(\w[\w.]*/(?:[\w.]+/)*(?:[\w.]+\.\w+)?)`", (ROOT / document).read_text())
    assert len(named) > 8
    places = (ROOT, ROOT / "service/parley_server")
    assert [path for path in named if not any((place / path).exists() for place in places)] == []


def test_glossary_classes_exist_in_their_modules() -> None:
    named: list[tuple[str, str]] = []
    for classes, path in re.findall(
        r"((?:`[A-Z]\w+`(?:, )?)+) in `([\w/]+\.py)`", (ROOT / "docs/glossary.md").read_text()
    ):
        named += [(name, path) for name in re.findall(r"`(\w+)`", classes)]
    assert len(named) > 15
    sources = {path: (ROOT / "service/parley_server" / path).read_text() for _, path in named}
    assert [
        (name, path)
        for name, path in named
        if f"class {name}(" not in sources[path] and f"class {name}:" not in sources[path]
    ] == []


def test_upstreams_named_tests_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/upstreams.md").read_text()))
    written = "\n".join([path.read_text() for path in (ROOT / "tests").rglob("test_*.py")])
    assert len(named) > 20
    assert [test for test in sorted(named) if f"def {test}(" not in written] == []


def test_each_guarantee_of_replicas_has_a_row() -> None:
    assert re.findall(r"^\| (G\d+) ", GUARANTEES, re.MULTILINE) == [f"G{number}" for number in range(1, 11)]


def test_operations_named_metrics_exist() -> None:
    metrics = Metrics()
    metrics.watch_relay(lambda: 0.0, lambda: 0)
    metrics.watch_models(lambda: ())
    metrics.watch_certificates(dict)
    families = list(metrics.registry.collect())
    known = {name for family in families for name in (family.name, *[sample.name for sample in family.samples])}
    known |= {f"{family.name}_total" for family in families if family.type == "counter"}
    named = set(re.findall(r"\bparley_[a-z_]+", FOR_OPERATORS)) - {"parley_server"}
    assert len(named) > 5
    assert named <= known


def test_named_log_events_exist() -> None:
    named = {event for page in PAGES for event in re.findall(r"\blog event `(\w+)`", page.read_text())}
    assert len(named) > 8
    source = "\n".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    assert [event for event in sorted(named) if f'"{event}"' not in source] == []


def test_operations_named_settings_exist() -> None:
    named = set(re.findall(r"`(\w+_s|max_\w+)`", FOR_OPERATORS)) - {"max_connections", "max_concurrent_streams"}
    assert len(named) > 8
    assert named <= ServerSettings.model_fields.keys()


def test_operations_figures_of_settings_are_their_defaults() -> None:
    """A setting followed by a figure in parentheses, such as `keepalive_s` (30 s): the figure is the default."""
    units = {"s": 1, "min": 60, "KiB": 1024, "MiB": 1024 * 1024, "": 1}
    stated = {
        (name, float(figure.replace(",", "")) * units[unit])
        for name, figure, unit in re.findall(r"`(\w+)`(?: \(|, )([\d.,]*\d)(?: (s|min|KiB|MiB))?\)", FOR_OPERATORS)
    }
    stated |= {
        (name, float(figure) * units[unit])
        for figure, unit, name in re.findall(r"([\d.]+) (s|min|KiB|MiB) \(`(\w+)`\)", FOR_OPERATORS)
    }
    assert len(stated) > 12
    defaults = ServerSettings()
    assert {name: figure for name, figure in stated if figure != getattr(defaults, name)} == {}


def test_operations_figures_of_sizing_are_those_of_the_code() -> None:
    sizing = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", CAPACITY, re.MULTILINE))
    assert sizing["PostgreSQL connections"].startswith(f"{POOL_SIZE + 1} ")
    assert f"{POOL_SIZE + 1} connections each" in CLUSTER
    assert re.findall(r"(\d+) gRPC servers", CLUSTER) == [str(SERVERS)]
    assert re.findall(r"no answer comes within (\d+) s", CLUSTER) == [f"{PING_ANSWER_S:g}"]
