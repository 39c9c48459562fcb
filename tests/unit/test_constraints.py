"""constraints.txt pins each package with hashes, and each installation of packages of others requires them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import chain

import pytest

from tests.tools import ROOT
from tools.dependencies import dependencies

PINNED = re.compile(r"([a-z0-9][a-z0-9-]*)==[\w.+!]+(?: ; [^\\]+?)?(?: --hash=sha256:[0-9a-f]{64})+")
INSTALL = re.compile(r'(?<!install=\("\$venv/bin/python") -m pip (?:--python \S+ )?install\b|"\$\{install\[@\]\}"')
FILES = ("constraints.txt", "tools/pip.txt", "tools/llama_cpp.txt", "benchmarks/pins/litellm.txt")
INSTALLING = (
    *("Dockerfile", "examples/negotiate/Dockerfile", "examples/roleplay/Dockerfile", ".ci/run"),
    *(f"tools/{name}.sh" for name in ("constraints", "gateways", "helm", "llama_cpp", "setup")),
)
LOCAL = ("--no-index", "--editable", " ./clients/python")
"""What only an installation without a download has."""


def entries(name: str) -> list[str]:
    """The requirements of a file, one string each, without comments."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", FILES)
def test_each_package_has_a_version_and_hashes_and_no_file_names_an_index(name: str) -> None:
    assert [each for each in entries(name) if not PINNED.fullmatch(each)] == []
    assert "://" not in (ROOT / name).read_text()


def test_each_requirement_is_pinned() -> None:
    pinned = {each.partition("==")[0] for each in entries("constraints.txt")}
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"].values()
    files = (ROOT / "examples").glob("*/requirements.txt")
    wanted = ["parley-server[dev,sbom]", "setuptools", *(line for path in files for line in path.read_text().split())]
    wanted += chain.from_iterable(groups)
    names = {re.split(r"[<>=!~\[; ]", each)[0].lower() for each in dependencies(wanted)}
    assert len(names) > 40
    assert names - pinned == set()


@pytest.mark.parametrize("name", INSTALLING)
def test_each_installation_that_downloads_requires_hashes(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    commands = [each for line in lines for each in line.split("&&") if INSTALL.search(each)]
    downloading = [each for each in commands if not any(word in each for word in LOCAL)]
    assert len(downloading) >= 1
    assert [each for each in downloading if "--require-hashes" not in each] == []


def test_all_files_that_install_are_checked() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    programs = [each for each in listed.split("\0") if each.endswith((".sh", "Dockerfile", "run", "Makefile"))]
    assert {each for each in programs if INSTALL.search((ROOT / each).read_text())} == set(INSTALLING)
