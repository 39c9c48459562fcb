"""Prints requirements with Parley's own packages replaced by what these need from other projects, one on each line.

`python3 tools/dependencies.py 'parley-server[ui]' 'fastapi>=0.165'`. Packages of others are installed first, then
Parley's own without dependencies, because only packages of others have hashes, and because they do not change with
Parley's code. The script needs only Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OWN = {"parley-server": "pyproject.toml", "parley-client": "clients/python/pyproject.toml"}
REQUIREMENT = re.compile(r"([\w.-]+) *(?:\[([^\]]*)\])?")


def dependencies(requirements: Iterable[str]) -> list[str]:
    """Requirements on packages of others, sorted. Raises `KeyError` for an extra that an own package does not have."""
    found: set[str] = set()
    done: set[tuple[str, str]] = set()
    pending = list(requirements)
    while pending:
        requirement = pending.pop()
        name, extras = _name_of(requirement)
        if name not in OWN:
            found.add(requirement)
            continue
        for extra in {"", *extras}:
            if (name, extra) not in done:
                done.add((name, extra))
                pending += _declared(name, extra)
    return sorted(found)


def _declared(own: str, extra: str) -> list[str]:
    project: dict[str, Any] = tomllib.loads((ROOT / OWN[own]).read_text())["project"]
    declared: list[str] = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return declared


def _name_of(requirement: str) -> tuple[str, list[str]]:
    """The normalised name of a requirement, and its extras. Raises `ValueError` if there is no name."""
    match = REQUIREMENT.match(requirement)
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    return name, [each.strip() for each in (match[2] or "").split(",") if each.strip()]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{each}\n" for each in dependencies(sys.argv[1:])))
