"""Runs the commands of docs/operations.md in order, with PostgreSQL and Redis, and checks those that need a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import watchdog
from tests.commands import blocks
from tests.ports import free_port
from tests.processes import clean_environment
from tests.services import PostgresServer, RedisServer
from tests.tools import ROOT, tool

PAGE = (ROOT / "docs/operations.md").read_text()
TOOLS = ("curl", "grpcurl", "pg_dump", "pg_restore", "promtool", "psql", "redis-cli")
NOT_RUN = [
    "helm upgrade --install parley deploy/helm/parley --namespace chat --values production.yaml --timeout 1h",
    "docker compose up --build --detach --wait",
    "helm upgrade parley deploy/helm/parley --namespace chat --reuse-values --set replicas=5",
    "helm upgrade parley deploy/helm/parley --namespace chat --values production.yaml --timeout 1h",
    "kubectl --namespace chat rollout status deployment/parley",
    "helm rollback parley --namespace chat",
    "docker compose build",
    "docker compose run --rm migrate",
    "docker compose up --detach --no-deps --wait parley-a",
    "docker compose up --detach --no-deps --wait parley-b",
]
"""The commands that no test runs, since they need a cluster or Docker."""
LIMIT_S = 240


@pytest.fixture
def database(shared_postgres: PostgresServer) -> Iterator[str]:
    """The name of an empty database."""
    name = shared_postgres.create_database()
    yield name
    shared_postgres.drop_database(name)


@pytest.mark.timeout(LIMIT_S + 30)
def test_the_commands_run_in_order(
    tmp_path: Path, shared_postgres: PostgresServer, shared_redis: RedisServer, database: str
) -> None:
    listen, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    commands = "\n".join(blocks(PAGE, "sh"))
    for written, used in (
        ("127.0.0.1:5432/parley", f"127.0.0.1:{shared_postgres.port}/{database}"),
        ("127.0.0.1:6379", f"127.0.0.1:{shared_redis.port}"),
        ("127.0.0.1:50051", listen),
        ("127.0.0.1:9464", metrics),
    ):
        assert written in commands
        commands = commands.replace(written, used)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    output = _run(commands, tmp_path, PARLEY_LISTEN=listen, PARLEY_METRICS_LISTEN=metrics, no_proxy="127.0.0.1")
    for expected in (
        r"the configuration is valid: 2 models, fast by default",
        r"^parley_lease_held 1\.0$",
        r'"event":"reply".*"state":"COMPLETED"',
        r"^shop +\d{4}-\d\d-\d\d +1 ",
        r'"finish_reason": "STOP"',
        r'"status": "SERVING"',
        r"^1 conversations$",
        r"^1 .*encrypted",
        r"^used_memory:\d+",
        r"^ message ",
    ):
        assert re.search(expected, output, re.MULTILINE), f"{expected} is not in {output}"


def test_the_commands_that_are_not_run_are_listed_and_have_a_valid_syntax() -> None:
    lines = [line for block in blocks(PAGE, "console") for line in block.splitlines()]
    assert [line.removeprefix("$ ") for line in lines] == NOT_RUN
    assert all(re.match(r"\$ (?:docker|kubectl|helm) ", line) for line in lines)
    subprocess.run(["bash", "-n", "-c", "\n".join(NOT_RUN)], check=True)
    assert not re.search(r"^\s*(?:docker|kubectl|helm) ", "\n".join(blocks(PAGE, "sh")), re.MULTILINE)


def test_every_block_of_commands_is_run_or_listed() -> None:
    assert set(re.findall(r"^```(\w*)\n", PAGE, re.MULTILINE)) == {"", "sh", "console"}
    assert len(re.findall(r"^```$", PAGE, re.MULTILINE)) == len(re.findall(r"^```\w+$", PAGE, re.MULTILINE))


def _run(commands: str, folder: Path, **variables: str) -> str:
    """The output of the commands, which must all succeed. Ends what they have left running."""
    places = dict.fromkeys([str(Path(sys.executable).parent), *(str(Path(tool(name)).parent) for name in TOOLS)])
    environment = clean_environment(**variables)
    environment["PATH"] = os.pathsep.join([*places, environment["PATH"]])
    with (folder / "output").open("w+") as written:
        process = subprocess.Popen(
            ["bash", "-euxc", commands],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watchdog.watch(process.pid)
        try:
            status = process.wait(LIMIT_S)
        finally:
            watchdog.kill_tree(process.pid)
            watchdog.forget(process.pid)
        written.seek(0)
        output = written.read()
    assert status == 0, output
    return output
