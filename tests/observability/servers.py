"""A real Prometheus, and the exporters of PostgreSQL, Redis and a machine, from Debian's packages."""

from __future__ import annotations

import json
import signal
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.observability.rules import FOLDER
from tests.service import Service
from tests.tools import tool

HOST = "127.0.0.1"


class Exporter(Service):
    """A program that serves metrics on the port that replaces `{port}` in its arguments."""

    def __init__(self, folder: Path, program: str, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, port=0)
        self._program = tool(program)
        self._arguments = arguments
        self._variables = dict(variables or {})

    def _prepare(self) -> None:
        pass

    def _command(self) -> list[str]:
        return [self._program, *(each.format(port=self.port) for each in self._arguments)]

    def _environment(self) -> dict[str, str]:
        return self._variables

    def _ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def _stop_signal(self, mode: str) -> signal.Signals:
        return {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}[mode]


class Prometheus(Exporter):
    """Scrapes `targets` (ports by job) each second, and evaluates the alert rules."""

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[int]]) -> None:
        self._targets = targets
        storage = ("--storage.tsdb.path", str(folder / "data"))
        config = ("--config.file", str(folder / "prometheus.yaml"))
        super().__init__(folder, "prometheus", *config, *storage, "--web.listen-address", HOST + ":{port}")

    def _prepare(self) -> None:
        """The committed configuration, with the ports of the test and a scrape each second."""
        config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
        for job in config["scrape_configs"]:
            ports = self._targets[job["job_name"]]
            job["static_configs"] = [{"targets": [f"{HOST}:{port}" for port in ports]}]
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def _ready(self) -> bool:
        return super()._ready() and self._status("/-/ready") == 200

    def query(self, expression: str, at_s: float) -> list[dict[str, Any]]:
        """The series of a query at this time. Raises HTTPError if it is not valid."""
        return list(self._get("/api/v1/query", query=expression, time=f"{at_s:.3f}")["result"])

    def value(self, expression: str, at_s: float) -> float:
        """The value of the only series of a query at this time; 0 without one."""
        series = self.query(expression, at_s)
        assert len(series) <= 1
        return float(series[0]["value"][1]) if series else 0.0

    def rules(self) -> list[dict[str, Any]]:
        """The alert rules with their last evaluation."""
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **fields: str) -> Any:
        with _opener().open(f"http://{HOST}:{self.port}{path}?{urllib.parse.urlencode(fields)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def _status(self, path: str) -> int:
        try:
            with _opener().open(f"http://{HOST}:{self.port}{path}", timeout=5) as answer:
                return int(answer.status)
        except OSError:
            return 0


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
