"""The document and its charts match the results."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.report import CANONICAL, CHARTS, DOCUMENT, chart, document_part
from benchmarks.results import Results

RESULTS = msgspec.json.decode(CANONICAL.read_bytes(), type=Results)
CHARTED = [name for name, measured in RESULTS.scenarios.items() if measured.chart]


def test_the_document_is_written_from_the_results() -> None:
    assert document_part(RESULTS) in DOCUMENT.read_text()


@pytest.mark.parametrize("name", CHARTED)
def test_each_chart_is_drawn_from_the_results(name: str) -> None:
    assert (CHARTS / f"{name}.svg").read_text() == chart(RESULTS.scenarios[name])
    assert f"![{RESULTS.scenarios[name].title}](benchmarks/{name}.svg)" in DOCUMENT.read_text()
