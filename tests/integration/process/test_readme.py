"""Runs the grpcurl command and the programs of the README as pasted; only the server's address is replaced."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.commands import ADDRESS, blocks, run
from tests.needs import CLIENTS, missing
from tests.ports import free_port
from tests.processes import PARLEY, ServerProcess, clean_environment
from tests.tools import ROOT, tool

README = (ROOT / "README.md").read_text()
JAVA_PAGE = (ROOT / "clients/java/README.md").read_text()
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
    for asked in re.findall(r'(?:stream_reply|create_reply)\("([^"]+)"', program):
        assert asked in done.stdout, "the scripted model quotes the user"


@pytest.mark.parametrize("page", ["README.md", "clients/node/README.md"])
async def test_the_node_program_runs_as_pasted(tmp_path: Path, server: ServerProcess, page: str) -> None:
    package = _built("clients/node", "dist/index.js")
    modules = tmp_path / "node_modules/@parley"
    modules.mkdir(parents=True)
    (modules / "client").symlink_to(package)
    (program,) = blocks((ROOT / page).read_text(), "js")
    path = tmp_path / "story.mjs"
    path.write_text(program.replace(ADDRESS, server.address))
    await _assert_story(tool("node"), "--preserve-symlinks", str(path))


async def test_the_java_program_runs_as_pasted(tmp_path: Path, server: ServerProcess) -> None:
    jar = _built("clients/java/conformance/target/player.jar")  # contains the client and its dependencies
    program = blocks(JAVA_PAGE, "java")[0]
    path = tmp_path / "Story.java"
    path.write_text(program.replace(ADDRESS, server.address))
    await _assert_story(tool("java"), "-cp", str(jar), str(path))


SPRING_APPLICATION = """
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;

@SpringBootApplication
class Application {
    public static void main(String[] arguments) { SpringApplication.run(Application.class, arguments); }
}
"""


async def test_the_spring_boot_controller_streams_as_pasted(tmp_path: Path, server: ServerProcess) -> None:
    example = _built("examples/spring-boot/target/parley-example-spring-boot-0.1.0-SNAPSHOT.jar")
    with zipfile.ZipFile(example) as jar:  # contains Spring Boot, Spring MVC and the starter
        libraries = [name for name in jar.namelist() if name.startswith("BOOT-INF/lib/")]
        jar.extractall(tmp_path, [name for name in libraries if "security" not in name])  # which asks for a login
    package = "package com.example.readme;\n"  # Spring Boot refuses to scan the default package
    (tmp_path / "Application.java").write_text(package + SPRING_APPLICATION)
    (tmp_path / "ChatController.java").write_text(package + blocks(README, "java")[0])
    (tmp_path / "classes").mkdir()
    configuration = blocks(README, "yaml")[0].replace(ADDRESS, server.address)
    (tmp_path / "classes/application.yml").write_text(configuration)
    class_path = str(tmp_path / "BOOT-INF/lib/*")
    sources = [str(tmp_path / name) for name in ("Application.java", "ChatController.java")]
    # `-parameters` is what Spring Boot's parent POM and Gradle plugin set.
    await _run(tool("javac"), "-parameters", "-cp", class_path, "-d", str(tmp_path / "classes"), *sources)
    port = free_port()
    application = await asyncio.create_subprocess_exec(
        tool("java"),
        *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{tmp_path / 'classes'}{os.pathsep}{class_path}"),
        *("com.example.readme.Application", f"--server.port={port}"),
        env=clean_environment(),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        page = await asyncio.to_thread(_get, port, "/chat?text=Tell%20me%20a%20story.", 60.0)
        assert "Tell me a story." in page, "the scripted model quotes the user"
    finally:
        application.terminate()
        await application.wait()


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


async def _assert_story(*command: str) -> None:
    assert "Tell me a story." in await _run(*command), "the scripted model quotes the user"


async def _run(*command: str) -> str:
    """The output of a program; fails the test if its exit status is not 0 or if it prints errors."""
    done = await asyncio.to_thread(
        subprocess.run, command, env=clean_environment(), capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _get(port: int, path: str, limit_s: float) -> str:
    """The body of a page; retries until its server accepts connections."""
    end = time.monotonic() + limit_s
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        finally:
            connection.close()


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
