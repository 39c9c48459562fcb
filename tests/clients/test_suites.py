"""Runs the test suites of the Node and Java clients and their examples, and that of the chat page, one test each."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.needs import missing
from tests.processes import clean_environment

ROOT = Path(__file__).parents[2]
LIMIT_S = 280


@pytest.mark.timeout(LIMIT_S + 20)
@pytest.mark.parametrize(
    ("tool", "command"),
    [
        pytest.param("npm", ["tools/clients.sh", "test", "node"], id="node"),
        pytest.param("mvn", ["tools/clients.sh", "test", "java"], id="java"),
        pytest.param("mvn", ["tools/clients.sh", "test", "spring-boot"], id="spring-boot"),
        pytest.param("npm", ["tools/page.sh", "test"], id="page"),
    ],
)
def test_client(tool: str, command: list[str]) -> None:
    if shutil.which(tool) is None:
        missing(tool)
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT_S,
        check=False,
    )
    print(ran.stdout.decode(errors="replace"))
    assert ran.returncode == 0, f"`{' '.join(command)}` ended with status {ran.returncode}"
