"""The Java artifacts of a release: Maven projects that get them from its files run the programs of the pages."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from tests import watchdog
from tests.commands import ADDRESS, blocks
from tests.ports import free_port
from tests.processes import clean_environment
from tests.release.programs import JVM, digest, output_of
from tests.tools import tool
from tools.release.artifacts import verify_signatures
from tools.release.checks import Refused

# One process builds for all tests; without the packages of others on this machine it takes minutes.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.xdist_group("release")]
PROJECTS = Path(__file__).parent / "projects"
WARM = Path.home() / ".m2/repository"
"""Where Maven keeps packages on this machine."""
STORY = "Tell me a story."
START_S = 120.0
CLIENT, STARTER = "parley-client", "parley-spring-boot-starter"
CONTENTS = {
    CLIENT: ("dev/parley/client/ParleyClient", "dev/parley/v1/ChatGrpc"),
    STARTER: ("dev/parley/spring/ParleyAutoConfiguration",),
}
"""Classes of each artifact; the documentation leaves out generated ones."""


@pytest.fixture(scope="module")
def repository(build, maven, tmp_path_factory) -> Path:
    """A local repository with the packages of others from this machine's, and Parley's from the release."""
    assert not (WARM / "dev/parley" / CLIENT / build.version).exists(), "the build has installed its artifacts"
    local = tmp_path_factory.mktemp("repository")
    _link(WARM, local, without=("dev",))
    _link(WARM / "dev", local / "dev", without=("parley",))
    _maven(PROJECTS / "install", local, "initialize", f"-Drelease={maven}", f"-Dparley.version={build.version}")
    return local


def _link(folder: Path, target: Path, *, without: tuple[str, ...]) -> None:
    """Links in `target` to the entries of a folder, if there is one."""
    target.mkdir(exist_ok=True)
    for each in folder.glob("*"):
        if each.name not in without:
            (target / each.name).symlink_to(each)


def _maven(project: Path, repository: Path, *arguments: str) -> None:
    command = (tool("mvn"), "-q", "-B", f"-Dmaven.repo.local={repository}", *arguments)
    output_of(*command, cwd=project, MAVEN_OPTS=" ".join(JVM))


def _project(name: str, page: Path, folder: Path) -> Path:
    """A copy of a project with the dependency of a page, which names the version of the release."""
    project = shutil.copytree(PROJECTS / name, folder / name)
    (dependency,) = blocks(page.read_text(), "xml")
    pom = project / "pom.xml"
    pom.write_text(pom.read_text().replace("<!-- DEPENDENCY -->", dependency))
    return project


def _jar(maven: Path, name: str, version: str, kind: str = "") -> Path:
    return maven / "dev/parley" / name / version / f"{name}-{version}{kind}.jar"


def test_the_java_program_runs_in_a_new_project(build, maven, repository, server, tmp_path) -> None:
    page = build.source / "clients/java/README.md"
    project = _project("story", page, tmp_path)
    source = project / "src/main/java/Story.java"
    source.parent.mkdir(parents=True)
    source.write_text(blocks(page.read_text(), "java")[0].replace(ADDRESS, server))
    _maven(project, repository, "compile")
    used = project / f"target/lib/{CLIENT}-{build.version}.jar"
    assert digest(used.read_bytes()) == digest(_jar(maven, CLIENT, build.version).read_bytes())
    printed = output_of(tool("java"), *JVM, "-cp", "target/classes:target/lib/*", "Story", cwd=project)
    assert STORY in printed, "the scripted model quotes the user"
    assert printed.endswith("\n[STOP]\n")


def test_the_spring_boot_controller_streams_in_a_new_project(build, maven, repository, server, tmp_path) -> None:
    page = build.source / "README.md"
    project = _project("chat", page, tmp_path)
    controller = project / "src/main/java/com/example/chat/ChatController.java"
    controller.write_text(f"package com.example.chat;\n{blocks(page.read_text(), 'java')[0]}")
    (project / "src/main/resources").mkdir()
    settings = blocks(page.read_text(), "yaml")[0].replace(ADDRESS, server)
    (project / "src/main/resources/application.yml").write_text(settings)
    _maven(project, repository, "package")
    with zipfile.ZipFile(project / "target/chat-1.jar") as packed:
        for name in (CLIENT, STARTER):
            used = packed.read(f"BOOT-INF/lib/{name}-{build.version}.jar")
            assert digest(used) == digest(_jar(maven, name, build.version).read_bytes())
    port = free_port()
    command = [tool("java"), *JVM, "-jar", "target/chat-1.jar", f"--server.port={port}"]
    with subprocess.Popen(command, cwd=project, env=clean_environment(), stdout=subprocess.DEVNULL) as application:
        watchdog.watch(application.pid)
        try:
            page_text = _get(application, port, "/chat?text=Tell%20me%20a%20story.")
        finally:
            application.terminate()
            watchdog.forget(application.pid)
    assert STORY in page_text, "the scripted model quotes the user"


def _get(application: subprocess.Popen[bytes], port: int, path: str) -> str:
    """The body of a page, once the application accepts connections."""
    end = time.monotonic() + START_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            assert application.poll() is None, "the application ended"
            assert time.monotonic() < end, f"the application does not listen within {START_S:g} s"
            time.sleep(0.1)
        finally:
            connection.close()


def test_the_new_project_has_the_spring_boot_of_the_starter(build) -> None:
    pom = (build.source / "clients/java/pom.xml").read_text()
    (version,) = re.findall("<spring-boot.version>(.*?)</spring-boot.version>", pom)
    assert f"<version>{version}</version>" in (PROJECTS / "chat/pom.xml").read_text()


def test_the_artifacts_are_those_that_users_need(build, maven) -> None:
    kinds = ("", "-sources", "-javadoc")
    wanted = {f"{name}-{build.version}{kind}.jar" for name in CONTENTS for kind in kinds}
    assert {path.name for path in maven.rglob("*.jar")} == wanted


@pytest.mark.parametrize("name", CONTENTS)
def test_sources_and_documentation_are_installed_and_complete(build, repository, name) -> None:
    """They are what an IDE gets from the repository."""
    with zipfile.ZipFile(_jar(repository, name, build.version, "-sources")) as packed:
        assert {f"{each}.java" for each in CONTENTS[name]} <= set(packed.namelist())
    with zipfile.ZipFile(_jar(repository, name, build.version, "-javadoc")) as packed:
        assert any(
            each.endswith(f"{CONTENTS[name][0]}.html") for each in packed.namelist()
        )  # below its module, if it has one


def test_a_changed_artifact_has_no_valid_signature(build, maven, tmp_path) -> None:
    """`make_java` has verified those of all files."""
    jar = _jar(maven, CLIENT, build.version)
    own_key = {"GNUPGHOME": str(build.scratch / "gpg")}
    for path in (jar, jar.with_name(f"{jar.name}.asc")):
        shutil.copy(path, tmp_path)
    verify_signatures(build, tmp_path, own_key)
    (tmp_path / jar.name).write_bytes(jar.read_bytes() + b"x")
    with pytest.raises(Refused, match="--verify"):
        verify_signatures(build, tmp_path, own_key)
