"""`docs/products.md` names a test for each row of the documents, and every test that is named after a row."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [f"S{document}.{row}" for document, rows in enumerate((12, 12, 4, 5, 5)) for row in range(1, rows + 1)]
TABLE = re.findall(r"^\| (S\d\.\d+) \|[^|]+\|([^|]+)\|", (ROOT / "docs/products.md").read_text(), re.MULTILINE)
NAMED = [
    (row, path, name) for row, cell in TABLE for path, name in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+\*?)`", cell)
]


def names_in(path: str) -> list[str]:
    """The names of the tests in a file; empty without the file."""
    file = ROOT / path
    return re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE) if file.is_file() else []


def test_the_table_has_every_row_once() -> None:
    assert [row for row, _ in TABLE] == ROWS


def test_every_named_test_exists() -> None:
    missing = [
        (path, name)
        for _, path, name in NAMED
        if not any(each == name or (name.endswith("*") and each.startswith(name[:-1])) for each in names_in(path))
    ]
    assert missing == []


def test_every_row_is_tested_through_its_product() -> None:
    through = {row for row, path, _ in NAMED if path.startswith(("tests/products/", "tests/browser/"))}
    assert [row for row in ROWS if row not in through] == []


def test_every_test_that_is_named_after_a_row_is_in_the_table() -> None:
    named = {(row, path) for row, path, _ in NAMED}
    found = {
        (f"S{document}.{row}", str(path.relative_to(ROOT)))
        for path in (ROOT / "tests").rglob("test_*.py")
        for document, row in re.findall(r"def test_s(\d)_(\d+)_", path.read_text())
    }
    assert len(found) > len(ROWS)
    assert sorted(found - named) == []
