"""`tools/dependencies.py` lists the packages of others that the server needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.tools import ROOT
from tools.dependencies import dependencies


def names(*extras: str) -> set[str]:
    return {each.partition(">")[0].partition("=")[0] for each in dependencies(extras)}


def test_server_needs_packages_of_others_only() -> None:
    assert {"grpcio", "protobuf", "sqlalchemy[asyncio]"} <= names()
    assert [name for name in names("dev", "ui") if name.startswith("parley")] == []


def test_extra_of_the_server_adds_the_extra_of_the_client() -> None:
    assert names("ui") - names() == {"starlette", "uvicorn"}


def test_extra_that_names_others_adds_theirs() -> None:
    assert names("dev") >= names("ui")


def test_unknown_extra_is_an_error() -> None:
    with pytest.raises(KeyError):
        dependencies(["none"])


def test_program_prints_a_requirements_file_with_any_python() -> None:
    command = [sys.executable, "-I", str(ROOT / "tools/dependencies.py"), "ui"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd="/")
    assert ran.stdout.splitlines() == dependencies(["ui"])
