"""Runs the grpcurl command and the programs of the README as pasted; only the server's address is replaced.

Those in Java run in `tests/release/test_maven.py`, with Maven.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.commands import ADDRESS, blocks, run
from tests.needs import CLIENTS, missing
from tests.processes import PARLEY, ServerProcess, clean_environment
from tests.tools import ROOT, tool

README = (ROOT / "README.md").read_text()
COMMANDS = "\n".join(block for block in blocks(README, "sh") if "grpcurl" in block)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with ServerProcess(tmp_path) as running:
        yield running


async def test_the_grpcurl_command_streams_a_reply(tmp_path: Path, server: ServerProcess) -> None:
    ran = await run(COMMANDS, server, tmp_path)
    assert (ran.status, ran.stderr) == (0, "")
    (call,) = ran.calls
    first, *_, last = call.answers
    assert first["accepted"]["messageId"]
    assert last["finished"]["reason"] == "FINISH_REASON_STOP"
    assert call.request["text"] in call.text
    assert len(call.text) > 50


@pytest.mark.parametrize("program", blocks(README, "python"))
async def test_the_python_program_runs_as_pasted(tmp_path: Path, server: ServerProcess, program: str) -> None:
    path = tmp_path / "program.py"
    path.write_text(program.replace(ADDRESS, server.address))
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(path)], env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    for message in re.findall(r'(?:stream_reply|create_reply)\("([^"]+)"', program):
        assert message in done.stdout, "the scripted model quotes the user"


@pytest.mark.parametrize("page", ["README.md", "clients/node/README.md"])
async def test_the_node_program_runs_as_pasted(tmp_path: Path, server: ServerProcess, page: str) -> None:
    package = _built("clients/node", "dist/index.js")
    modules = tmp_path / "node_modules/@parley"
    modules.mkdir(parents=True)
    (modules / "client").symlink_to(package)
    (program,) = blocks((ROOT / page).read_text(), "js")
    path = tmp_path / "story.mjs"
    path.write_text(program.replace(ADDRESS, server.address))
    printed = await _run(tool("node"), "--preserve-symlinks", str(path))
    assert "Tell me a story." in printed, "the scripted model quotes the user"


@pytest.mark.parametrize(
    ("page", "module"), [("README.md", "parley-spring-boot-starter"), ("clients/java/README.md", "parley-client")]
)
def test_the_java_dependency_is_what_the_build_installs(page: str, module: str) -> None:
    (dependency,) = blocks((ROOT / page).read_text(), "xml")
    pom = (ROOT / f"clients/java/{module}/pom.xml").read_text()
    for name in ("groupId", "version"):
        assert _element(dependency, name) == _element(pom[pom.index("<parent>") :], name)
    assert _element(dependency, "artifactId") == _element(pom[pom.index("</parent>") :], "artifactId")


def _element(xml: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", xml)
    assert found, name
    return found[1]


def _built(place: str, *file: str) -> Path:
    """The path of a build result of `make clients`; without it the test is skipped, and on CI it fails."""
    path = ROOT / place
    if not path.joinpath(*file).exists():
        missing(f"the build of {place}", CLIENTS)
    return path


async def _run(*command: str) -> str:
    """The output of a program; fails the test if its exit status is not 0 or if it prints errors."""
    done = await asyncio.to_thread(
        subprocess.run, command, env=clean_environment(), capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("configuration", blocks(README, "toml"))
def test_the_configurations_of_the_readme_are_valid(tmp_path: Path, configuration: str) -> None:
    path = tmp_path / "parley.toml"
    path.write_text(configuration)
    done = subprocess.run(
        [PARLEY, "check"],
        env=clean_environment(PARLEY_CONFIG=str(path), OPENAI_API_KEY="sk-unused"),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
