"""Bar charts as SVG: horizontal, on a logarithmic scale, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

import msgspec

WIDTH = 760
LABELS = 230  # pixels for the names
VALUES = 130  # pixels for the figures at the ends of the bars
TOP, ROW, BAR, BOTTOM = 46, 34, 18, 34
# Colours of medium lightness are readable on white and on black; a viewer's colour scheme raises the contrast.
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#6e7681}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#8b949e;stroke-opacity:.35}.spread{stroke:#6e7681;stroke-width:1.5}"
    ".bar{fill:#8b949e}.own{fill:#2f81f7}"
    "@media(prefers-color-scheme:dark){text{fill:#c9d1d9}.spread{stroke:#f0f6fc}}"
    "@media(prefers-color-scheme:light){text{fill:#424a53}.spread{stroke:#1f2328}}"
)


class Bar(msgspec.Struct, frozen=True):
    """One bar with the median, the lowest and the highest run; bars with `own` are emphasised."""

    label: str
    median: float
    low: float
    high: float
    figure: str
    own: bool


def bars(title: str, rows: list[Bar]) -> str:
    """A chart of positive values, in the order of the rows."""
    lowest = 10 ** math.floor(math.log10(min(row.low for row in rows)))
    highest = 10 ** math.ceil(math.log10(max(row.high for row in rows)))
    if highest <= lowest:
        highest = lowest * 10
    room = WIDTH - LABELS - VALUES
    height = TOP + ROW * len(rows) + BOTTOM

    def x(value: float) -> float:
        return LABELS + room * math.log10(value / lowest) / math.log10(highest / lowest)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="8" y="22">{escape(title)}</text>',
        *_grid(lowest, highest, x, height),
    ]
    for place, row in enumerate(rows):
        parts += _row(row, TOP + ROW * place, x)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _grid(lowest: float, highest: float, x: Callable[[float], float], height: int) -> list[str]:
    lines = []
    for power in range(round(math.log10(lowest)), round(math.log10(highest)) + 1):
        at, foot = x(10.0**power), height - BOTTOM + 4
        lines.append(f'<line class="grid" x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{foot}"/>')
        lines.append(f'<text x="{at:.1f}" y="{foot + 18}" text-anchor="middle">{10.0**power:,g}</text>')
    return lines


def _row(row: Bar, top: int, x: Callable[[float], float]) -> list[str]:
    kind, start, end, middle = "own" if row.own else "bar", LABELS, x(row.median), top + BAR / 2
    return [
        f'<text x="{LABELS - 10}" y="{middle + 4.5}" text-anchor="end">{escape(row.label)}</text>',
        f'<rect class="{kind}" x="{start}" y="{top}" width="{max(end - start, 1):.1f}" height="{BAR}" rx="2"/>',
        f'<line class="spread" x1="{x(row.low):.1f}" y1="{middle}" x2="{x(row.high):.1f}" y2="{middle}"/>',
        f'<text x="{max(end, x(row.high)) + 8:.1f}" y="{middle + 4.5}">{escape(row.figure)}</text>',
    ]
