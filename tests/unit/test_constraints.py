"""constraints.txt pins each package with hashes, and each installation of packages of others requires them."""

from __future__ import annotations

import re

import pytest

from tests.tools import ROOT
from tools.dependencies import dependencies

PINNED = re.compile(r"([a-z0-9][a-z0-9-]*)==[\w.+!]+(?: ; [^\\]+?)?(?: --hash=sha256:[0-9a-f]{64})+")
INSTALLING = (
    "Dockerfile",
    "examples/negotiate/Dockerfile",
    "examples/roleplay/Dockerfile",
    "tools/constraints.sh",
    "tools/setup.sh",
)


def entries(name: str) -> list[str]:
    """The requirements of a file, one string each, without comments."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", ["constraints.txt", "tools/pip.txt"])
def test_each_package_has_a_version_and_hashes_and_no_file_names_an_index(name: str) -> None:
    assert [each for each in entries(name) if not PINNED.fullmatch(each)] == []
    assert "://" not in (ROOT / name).read_text()


def test_each_requirement_is_pinned() -> None:
    pinned = {each.partition("==")[0] for each in entries("constraints.txt")}
    files = (ROOT / "examples").glob("*/requirements.txt")
    wanted = ["parley-server[dev,sbom]", "setuptools", *(line for path in files for line in path.read_text().split())]
    names = {re.split(r"[<>=!~\[; ]", each)[0].lower() for each in dependencies(wanted)}
    assert len(names) > 40
    assert names - pinned == set()


@pytest.mark.parametrize("name", INSTALLING)
def test_each_installation_requires_hashes_unless_it_downloads_nothing(name: str) -> None:
    text = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    commands = [each for each in re.split(r"&&|\n", text) if re.search(r'pip .*\binstall|"\$\{install\[@\]\}"', each)]
    checked = [each for each in commands if "--require-hashes" in each]
    assert len(checked) >= 2
    assert [
        each for each in commands if each not in checked and "--no-deps" not in each and "install=(" not in each
    ] == []
