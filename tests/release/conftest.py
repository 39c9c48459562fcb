"""A release of this tree, of which each part is built at its first use, and the installed server."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import watchdog
from tests.endurance import FULL
from tests.ports import free_port
from tests.processes import clean_environment
from tests.release.programs import JVM, copy_tree
from tests.tools import tool
from tools.release.artifacts import Build, make_chart, make_java, make_node, make_protos, make_python
from tools.release.versions import write


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Build:
    """A copy of this tree, with changes that are not committed, under a version that exists nowhere else.

    It is made in CI alone, since its tests download packages."""
    if not FULL:
        pytest.skip("downloads packages; CI or PARLEY_TESTS_FULL=1 runs it")
    made = Build(f"0.0.{time.time_ns() // 1_000_000}", tmp_path_factory.mktemp("release"))
    copy_tree(made.source)
    write(made.version, made.source, snapshot=False)
    return made


def _made(build: Build, make: Callable[[Build], None], folder: str, *tools: str) -> Path:
    """The folder of a part. Without the tools that build it the test is skipped; in CI it fails."""
    for each in tools:
        tool(each)
    make(build)
    return build.output / folder


@pytest.fixture(scope="session")
def python(build) -> Path:
    return _made(build, make_python, "python")


@pytest.fixture(scope="session")
def node(build) -> Path:
    return _made(build, make_node, "node", "npm")


@pytest.fixture(scope="session")
def maven(build, tmp_path_factory) -> Path:
    """Signed with a key of the run, whatever keys the user of this machine has."""
    with pytest.MonkeyPatch.context() as variables:
        variables.delenv("GPG_KEY", raising=False)
        variables.setenv("GNUPGHOME", str(tmp_path_factory.mktemp("gpg")))
        variables.setenv("MAVEN_OPTS", " ".join(JVM))
        return _made(build, make_java, "maven", "mvn", "gpg")


@pytest.fixture(scope="session")
def chart(build) -> Path:
    return _made(build, make_chart, "chart", "helm")


@pytest.fixture(scope="session")
def protos(build) -> Path:
    return _made(build, make_protos, "protos")


@pytest.fixture(scope="session")
def environment(build, python) -> Path:
    """The programs of the virtual environment into which `make_python` has installed the wheels."""
    return build.scratch / "server/bin"


@pytest.fixture(scope="session")
def server(environment, tmp_path_factory) -> Iterator[str]:
    """The address of the installed `parley serve`."""
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [environment / "parley", "serve"],
        cwd=tmp_path_factory.mktemp("served"),
        env=clean_environment(PARLEY_LISTEN=address, PARLEY_METRICS_LISTEN="", PARLEY_LOG_FORMAT="json"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog.watch(process.pid)
        assert process.stderr is not None
        try:
            assert any(json.loads(line)["event"] == "serving" for line in process.stderr), "the server ended"
            reading = threading.Thread(target=process.stderr.read)
            reading.start()
            yield address
            process.send_signal(signal.SIGTERM)
            reading.join()
            assert process.wait() == 0
        finally:
            process.kill()
            watchdog.forget(process.pid)
