"""`tools/setup.sh` installs only files whose hashes are pinned, and `make constraints` keeps what is pinned."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import clean_environment
from tests.tools import ROOT

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("release")]
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1.0"
dependencies = {needs}
optional-dependencies = {{ ui = [] }}

[tool.setuptools]
py-modules = []
"""


def wheel(folder: Path, name: str, *, code: str = "", needs: tuple[str, ...] = ()) -> str:
    """Writes the wheel of a package with one module, version 1.0. Returns its line for constraints.txt."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    information = f"{name}-1.0.dist-info"
    required = "".join(f"Requires-Dist: {each}\n" for each in needs)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{required}")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def share_installer(venv: Path) -> None:
    """Makes an environment that has the pinned pip and setuptools of this one, so that nothing is downloaded."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    shared, ours = venv / "shared", Path(sysconfig.get_path("purelib"))
    shared.mkdir()
    for pattern in ("pip", "pip-*.dist-info", "setuptools", "setuptools-*.dist-info", "_distutils_hack"):
        (found,) = ours.glob(pattern)
        (shared / found.name).symlink_to(found)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(f"{shared}\n")


@pytest.fixture
def setup(tmp_path: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Runs the set-up of a small project whose packages are in `wheels`, below the folder of the test.

    Its server needs `gadget`. Its constraints.txt has our setuptools; the test adds the rest.
    """
    for name, needs in ((".", ["parley-client", "gadget"]), ("clients/python", [])):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        package = "parley-client" if needs == [] else "parley-server"
        (tmp_path / name / "pyproject.toml").write_text(PROJECT.format(name=package, needs=needs))
    for name in ("tools", "wheels"):
        (tmp_path / name).mkdir()
    for name in ("setup.sh", "dependencies.py", "pip.txt"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    text = (ROOT / "constraints.txt").read_text()
    (tmp_path / "constraints.txt").write_text(text[text.index("setuptools==") :].partition("\nsix==")[0] + "\n")
    share_installer(tmp_path / "venv")
    command = ["bash", "tools/setup.sh", sys.executable, "venv", "server"]
    environment = clean_environment(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "wheels"), PIP_NO_CACHE_DIR="1")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)

    return run


def pin(project: Path, *lines: str) -> None:
    with (project / "constraints.txt").open("a") as file:
        file.writelines(lines)


def imports(project: Path, module: str) -> bool:
    return (
        subprocess.run([project / "venv/bin/python", "-c", f"import {module}"], stderr=subprocess.DEVNULL).returncode
        == 0
    )


def test_pinned_files_are_installed(setup, tmp_path) -> None:
    pin(tmp_path, wheel(tmp_path / "wheels", "widget"), wheel(tmp_path / "wheels", "gadget", needs=("widget>=0.5",)))
    ran = setup()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert imports(tmp_path, "gadget")
    assert imports(tmp_path, "widget")


def test_changed_file_is_refused_with_both_hashes(setup, tmp_path) -> None:
    honest = wheel(tmp_path / "wheels", "gadget")
    changed = wheel(tmp_path / "wheels", "gadget", code="import os\n")
    pin(tmp_path, honest)
    ran = setup()
    assert ran.returncode != 0
    assert "DO NOT MATCH THE HASHES" in ran.stderr
    for line in (honest, changed):
        assert line.strip().partition("sha256:")[2] in ran.stderr
    assert not imports(tmp_path, "gadget")


def test_dependency_without_a_hash_is_refused_by_name(setup, tmp_path) -> None:
    wheel(tmp_path / "wheels", "widget")
    pin(tmp_path, wheel(tmp_path / "wheels", "gadget", needs=("widget>=0.5",)))
    ran = setup()
    assert ran.returncode != 0
    assert "widget" in ran.stderr
    assert not imports(tmp_path, "gadget")


def test_constraints_of_an_unchanged_project_stay_as_they_are(tmp_path) -> None:
    """Without an option, the command adds what is missing and removes what is no longer needed: here, nothing."""
    pinned = ("constraints.txt", "tools/pip.txt", "tools/llama_cpp.txt", "benchmarks/pins/litellm.txt")
    read = ("pyproject.toml", "clients/python/pyproject.toml", "tools/dependencies.py", "tools/constraints.sh")
    for name in (*pinned, *read):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([tmp_path / "tools/constraints.sh", sys.executable], cwd="/", env=clean_environment(), check=True)
    for name in pinned:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name
