"""The clients stay small enough to be read: docs/adr/0010."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.client_sizes import CONCERNS, ROOT, code_lines, sizes

ADR = ROOT / "docs/adr/0010-how-large-a-client-is.md"
ROW = r"\| (\w+) " + r"\| (\d+) " * (len(CONCERNS) + 1) + r"\|"


def written() -> dict[str, int]:
    return {row[0]: int(row[-1]) for row in re.findall(ROW, ADR.read_text())}


@pytest.mark.parametrize("client", sizes())
def test_none_grows_by_more_than_a_tenth_unnoticed(client):
    assert sum(sizes()[client].values()) <= written()[client] * 1.1, "look at it, then renew the table of the ADR"


PYTHON = '''"""Doc."""
import x
from y import (
    z,
)

# why
def f():
    """Doc

    more."""
    x = 1
    return "a"
'''
NODE = """/** Doc. */
import x from "y";
export {
  z,
} from "z";

// why
function f() {
  return 1;
}
"""
JAVA = """package a;

import b.C;

/** Doc. */
class A {
    // why
    int f;
}
"""


@pytest.mark.parametrize(("name", "source"), [("a.py", PYTHON), ("a.ts", NODE), ("a.java", JAVA)])
def test_what_counts(tmp_path: Path, name, source):
    path = tmp_path / name
    path.write_text(source)
    assert code_lines(path) == 3
