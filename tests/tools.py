"""Finds installed programs that tests use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.needs import missing

ROOT = Path(__file__).parents[1]


def tool(name: str) -> str:
    """The path of an installed program. Skips the test without it; fails it in CI."""
    folders = (ROOT / ".tools/bin", ROOT / ".tools/node_modules/.bin", Path.home() / "go/bin")
    places = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    found = shutil.which(name, path=places)
    if found is None:
        missing(name)
    return found
