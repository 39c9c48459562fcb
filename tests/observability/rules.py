"""Reads deploy/observability: the alerts, and the queries of the dashboard with the values that Grafana fills in."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import yaml

from tests.tools import ROOT

FOLDER: Final = ROOT / "deploy/observability"
VARIABLES: Final = {"$namespace": ".*", "$job": "parley", "$__rate_interval": "1m", "$__range": "1h"}
THRESHOLD: Final = re.compile(r"\s(?:==|[<>]=?) -?[\d.]+(?=\s|\)|$)")
SELECTOR: Final = re.compile(r"([a-z_]\w*)?\{[^}]*\}|\bup\b|\b(?:parley|redis|pg|node|process)_\w+")


def alerts() -> dict[str, dict[str, Any]]:
    """The alert rules by name."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON."""
    board: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return board


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels without its row headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_queries() -> dict[str, str]:
    """The queries of the dashboard by panel and target, as Grafana sends them with "All" in each variable."""
    return {name: _filled(target["expr"]) for name, target in targets().items()}


def targets() -> dict[str, dict[str, Any]]:
    """The targets of all panels, by panel and target."""
    return {f"{panel['title']} {target['refId']}": target for panel in panels() for target in panel["targets"]}


def _filled(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def value_query(expression: str) -> str:
    """The query for the value that an alert compares: its expression without the comparisons with a number."""
    return THRESHOLD.sub("", expression).replace("absent(parley_lease_held)", "parley_lease_held")


def selectors(expression: str) -> list[str]:
    """The series that a query reads, each as `name{labels}`."""
    return [found[0] for found in SELECTOR.finditer(expression)]
