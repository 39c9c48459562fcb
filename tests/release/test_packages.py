"""The packages of a release, installed from their files in empty environments, run the programs of the README."""

from __future__ import annotations

import json
import subprocess
import tarfile

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.commands import ADDRESS, blocks
from tests.deploy.cases import OPEN
from tests.deploy.charts import helm
from tests.release.programs import output_of
from tests.tools import ROOT, tool
from tools.release.listing import CHECKSUMS, CONTENTS, write_listing

README = (ROOT / "README.md").read_text()
STORY = "Tell me a story."
# One process builds for all tests; packages are installed, which takes time.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.xdist_group("release")]
QUOTED = {"python": "What is a monad, in one sentence?", "js": STORY}


def test_the_python_program_runs_with_the_installed_client(environment, server, tmp_path) -> None:
    (program,) = blocks(README, "python")
    path = tmp_path / "program.py"
    path.write_text(program.replace(ADDRESS, server))
    assert QUOTED["python"] in output_of(environment / "python", path)


def test_the_source_archives_have_no_more_than_the_tree(python, build) -> None:
    """The wheels are built from them, so that they lack nothing."""
    for archive in python.glob("*.tar.gz"):
        with tarfile.open(archive) as opened:
            names = {each.name.partition("/")[2] for each in opened if each.isfile()}
        folder = build.source / ("." if "server" in archive.name else "clients/python")
        made = {name for name in names if not (folder / name).exists() and ".egg-info/" not in name}
        assert made == {"PKG-INFO", "setup.cfg"}


def test_the_node_program_runs_with_the_package(node, server, tmp_path) -> None:
    (package,) = node.glob("*.tgz")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    install = (tool("npm"), "install", "--prefer-offline", "--no-audit", "--no-fund", "--silent", package)
    output_of(*install, cwd=tmp_path)
    (program,) = blocks(README, "js")
    (tmp_path / "story.js").write_text(program.replace(ADDRESS, server))
    assert QUOTED["js"] in output_of(tool("node"), "story.js", cwd=tmp_path)


def test_the_chart_renders_from_its_archive_as_from_its_folder(chart, build) -> None:
    (archive,) = chart.glob("*.tgz")
    rendered = helm("template", "parley", str(archive), values=OPEN)
    assert rendered.returncode == 0, rendered.stderr
    assert rendered.stdout == helm("template", "parley", str(build.source / "deploy/helm/parley"), values=OPEN).stdout
    (deployment,) = (each for each in yaml.safe_load_all(rendered.stdout) if each and each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f":{build.version}")
    refused = helm("template", "parley", str(archive), values=OPEN | {"unknown": 1})
    assert "unknown" in refused.stderr, "the schema of the values is in the archive"


@pytest.mark.parametrize(
    ("part", "pattern", "own", "dependency"),
    [
        pytest.param("python", "*.cdx.json", "parley-server", "grpcio", id="python"),
        pytest.param("node", "*.cdx.json", "@parley/client", "@grpc/grpc-js", id="node"),
        pytest.param("maven", "**/parley-client-*.json", "parley-client", "grpc-stub", id="java-client"),
        pytest.param("maven", "**/*-starter-*.json", "parley-spring-boot-starter", "parley-client", id="java-starter"),
    ],
)
def test_the_lists_of_packages_are_valid(request, build, part, pattern, own, dependency) -> None:
    (path,) = request.getfixturevalue(part).glob(pattern)
    bill = json.loads(path.read_text())
    validator = JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"]))
    assert validator.validate_str(path.read_text()) is None
    listed = [*bill["components"], *([bill["metadata"]["component"]] if "component" in bill["metadata"] else [])]
    versions = {each["name"]: each["version"] for each in listed}
    assert versions[own] == build.version
    assert versions[dependency]


def test_the_listing_finds_a_changed_file(build, protos) -> None:
    write_listing(build)
    check = ["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS]
    assert subprocess.run(check, cwd=build.output).returncode == 0
    listed = {line.split("  ", 1)[1] for line in (build.output / CHECKSUMS).read_text().splitlines()}
    found = {str(path.relative_to(build.output)) for path in build.output.rglob("*") if path.is_file()}
    assert found - listed == {CHECKSUMS, CONTENTS}
    (archive,) = protos.glob("*.zip")
    content = archive.read_bytes()
    try:
        archive.write_bytes(content + b"x")
        changed = subprocess.run(check, cwd=build.output, capture_output=True, text=True)
    finally:
        archive.write_bytes(content)
    assert changed.returncode == 1
    assert changed.stdout == f"protos/{archive.name}: FAILED\n"
