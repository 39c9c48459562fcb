"""The document is what the results give, and charts are well-formed."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks.charts import Bar, bars
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


def test_bars_grow_with_the_logarithm_and_stay_inside() -> None:
    rows = [Bar(f"<{value}>", value, value * 0.9, value * 1.1, f"{value:g} us", True) for value in (2, 20, 200)]
    svg = ElementTree.fromstring(bars("costs & prices", rows))
    widths = [float(each.attrib["width"]) for each in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] - widths[0] == pytest.approx(widths[2] - widths[1], abs=0.2)
    assert widths[0] > 0
    assert widths[2] < float(svg.attrib["width"]) - 230 - 130
    texts = [each.text for each in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"costs & prices", "<2>", "20 us"} <= set(texts)
