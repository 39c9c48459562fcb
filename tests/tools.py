"""Finds installed programs that tests use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.needs import missing

ROOT = Path(__file__).parents[1]


def tool(name: str) -> str:
    """The path of an installed program. Skips the test without it; fails it in CI."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(ROOT / ".tools/bin"), str(Path.home() / "go/bin")])
    found = shutil.which(name, path=places)
    if found is None:
        missing(name)
    return found
