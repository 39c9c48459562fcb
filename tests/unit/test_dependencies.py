"""`tools/dependencies.py` lists the packages of others that Parley's packages need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.tools import ROOT
from tools.dependencies import dependencies


def names(*requirements: str) -> set[str]:
    return {each.partition(">")[0].partition("=")[0] for each in dependencies(requirements)}


def test_own_packages_are_replaced_by_what_they_need() -> None:
    assert names("parley-client") == {"grpcio", "protobuf"}
    assert {"grpcio", "protobuf", "sqlalchemy[asyncio]"} <= names("parley-server")
    assert [name for name in names("parley-server[dev,ui]") if name.startswith("parley")] == []


def test_extra_of_the_server_adds_the_extra_of_the_client() -> None:
    assert names("parley-server[ui]") - names("parley-server") == {"starlette", "uvicorn"}
    assert names("Parley_Server[ ui ]") == names("parley-server[ui]")
    assert names("parley-server[]") == names("parley-server")


def test_packages_of_others_are_kept() -> None:
    assert dependencies(["fastapi>=0.165"]) == ["fastapi>=0.165"]


@pytest.mark.parametrize(("wrong", "error"), [("parley-server[none]", KeyError), ("", ValueError)])
def test_wrong_requirement_is_an_error(wrong: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        dependencies([wrong])


def test_program_prints_a_requirements_file_with_any_python() -> None:
    command = [sys.executable, "-I", str(ROOT / "tools/dependencies.py"), "parley-server[ui]"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd="/")
    assert ran.stdout.splitlines() == dependencies(["parley-server[ui]"])
