"""Prints what the server and its Python client need from other projects, one requirement per line.

`python3 tools/dependencies.py [EXTRA ...]` adds the server's extras. Installers take hashes, and caches of layers hold,
only for packages of others: they are installed first, then Parley's own without dependencies. Needs only Python.
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


def dependencies(extras: Iterable[str] = ()) -> list[str]:
    """Requirements of the server with these extras, sorted. Raises `KeyError` for an extra that it does not have."""
    found: set[str] = set()
    done: set[tuple[str, str]] = set()
    pending = [("parley-server", extra) for extra in ("", *extras)]
    while pending:
        own, extra = pending.pop()
        if (own, extra) in done:
            continue
        done.add((own, extra))
        for requirement in _declared(own, extra):
            name, wanted = _name_of(requirement)
            if name in OWN:
                pending += [(name, each) for each in ("", *wanted)]
            else:
                found.add(requirement)
    return sorted(found)


def _declared(own: str, extra: str) -> list[str]:
    project: dict[str, Any] = tomllib.loads((ROOT / OWN[own]).read_text())["project"]
    declared: list[str] = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return declared


def _name_of(requirement: str) -> tuple[str, list[str]]:
    """The normalised name of a requirement, and its extras."""
    match = REQUIREMENT.match(requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match[1]).lower(), [each.strip() for each in (match[2] or "").split(",") if each]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{each}\n" for each in dependencies(sys.argv[1:])))
