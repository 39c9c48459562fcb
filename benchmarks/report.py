"""Results as tables and charts, on the terminal and between the markers of docs/benchmarks.md.

Run as a module, it writes the document from docs/benchmarks.json without measuring.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.charts import Bar, bars
from benchmarks.results import Measured, Results, Spread, Verdict, of, spread, verdicts
from benchmarks.roster import SYSTEMS
from benchmarks.scenarios import DIRECT, SCENARIOS, Target

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"
CANONICAL = ROOT / "docs" / "benchmarks.json"
CHARTS = ROOT / "docs" / "benchmarks"
DETAILS = {
    "CPU per token, us": "cpu_us_per_token",
    "the same in PostgreSQL, us": "postgres_cpu_us_per_token",
    "the same in Redis, us": "redis_cpu_us_per_token",
    "CPU per reply, ms": "cpu_ms_per_reply",
    "the same in PostgreSQL, ms": "postgres_cpu_ms_per_reply",
    "the same in Redis, ms": "redis_cpu_ms_per_reply",
    "CPU of the server, cores": "cpu_share",
    "CPU of the idle server, cores": "idle_share",
    "CPU per token above idle, us": "net_cpu_us_per_token",
    "tokens/s": "tokens_per_s",
    "messages per token": "messages_per_token",
    "first token p50, ms": "first_token_p50_ms",
    "first token p99, ms": "first_token_p99_ms",
    "added first token p50, ms": "added_first_token_p50_ms",
    "added first token p99, ms": "added_first_token_p99_ms",
    "token late p50, ms": "late_p50_ms",
    "token late p99.9, ms": "late_p999_ms",
    "gap between tokens p50, ms": "gap_p50_ms",
    "gap between tokens p99, ms": "gap_p99_ms",
    "added to a gap p50, ms": "gap_change_p50_ms",
    "added to a gap p99, ms": "gap_change_p99_ms",
    "replies not complete": "incomplete",
    "refused by the application": "refused",
    "resident memory, peak MiB": "peak_mib",
    "memory per stream, KiB": "kib_per_stream",
    "CPU of the load, cores": "load_cpu_share",
    "CPU of the upstream, cores": "upstream_cpu_share",
    "upstream's own lag p99.9, ms": "upstream_lag_p999_ms",
}
TITLES = {name: system.title for name, system in SYSTEMS.items()} | {
    entry.name: entry.title for scenario in SCENARIOS for entry in scenario.entries if entry.name
}
CHARTED = {"cpu_us_per_token": ("CPU per token", "us"), "cpu_ms_per_reply": ("CPU per reply", "ms")}


def number(value: float) -> str:
    """The value with three significant digits, or as a whole number from 100 on."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def shown(value: Spread | None, *, unit: str = "") -> str:
    """A median with its spread."""
    if value is None:
        return ""
    figure = f"{number(value.median)} {unit}".strip()
    return figure if value.low == value.high else f"{figure} ({number(value.low)}-{number(value.high)})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns, which is readable on a terminal too."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    ruler = ["-" * width for width in widths]
    lines = [head, ruler, *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def title_of(entry: str, measured: Measured) -> str:
    """The title of an entry, including one that was not measured."""
    return measured.entries.get(entry) or TITLES.get(entry, entry)


def is_fraction(target: Target) -> bool:
    """Whether the limit is a ratio of 1 to a whole number."""
    if not target.over or target.more or not 0 < target.limit < 1:
        return False
    return abs(1 / target.limit - round(1 / target.limit)) < 1e-6


def wanted(verdict: Verdict, measured: Measured) -> str:
    """The target in words."""
    target = verdict.target
    other = title_of(target.over, measured)
    if target.more:
        return f"<= {number(target.limit)} {target.unit} more than {other}"
    if is_fraction(target):
        return f"<= 1/{round(1 / target.limit)} of {other}"
    if target.over:
        return f"<= {number(target.limit)} x {other}"
    if target.beyond_fsync:
        return f"<= {number(verdict.limit)} {target.unit}: {number(target.limit)} beyond fsync"
    return f"<= {number(verdict.limit)} {target.unit}"


def result(verdict: Verdict) -> str:
    """The measured figure; a ratio whose target is a fraction is shown as one."""
    target, found = verdict.target, verdict.found
    if found is None:
        return ""
    if not target.over:
        return shown(found, unit=target.unit)
    compared = f"{shown(verdict.own)} against {shown(verdict.other)}"
    if target.more:
        return f"{shown(found, unit=target.unit)}: {compared}"
    if is_fraction(target):
        parts = [number(1 / value) if value > 0 else "?" for value in (found.median, found.high, found.low)]
        return f"1/{parts[0]} (1/{parts[1]}-1/{parts[2]}): {compared}"
    return f"{shown(found)} x: {compared}"


def word(verdict: Verdict) -> str:
    return {True: "hit", False: "**MISS**", None: "not measured"}[verdict.reached]


def verdict_table(results: Results) -> str:
    """All targets with their results, the missed ones first."""
    rows = []
    for found in sorted(verdicts(results), key=lambda one: {False: 0, None: 1, True: 2}[one.reached]):
        measured = results.scenarios[found.target.scenario]
        what = found.target.what
        if found.target.subject != "parley":
            what += f", {title_of(found.target.subject, measured)}"
        rows.append([word(found), measured.title, what, wanted(found, measured), result(found)])
    return table(["", "load", "figure", "target", "measured"], rows)


def detail_table(measured: Measured) -> str:
    """The other metrics of a scenario, including the direct run."""
    rows = []
    for label, metric in DETAILS.items():
        cells = [shown(spread(of(measured, entry, metric))) for entry in measured.entries]
        if any(cells):
            rows.append([label, *cells])
    return table(["", *measured.entries.values()], rows)


def misses(results: Results) -> str:
    """The missed targets and the systems that were left out."""
    lines = []
    for one in verdicts(results):
        if one.reached is not False:
            continue
        measured = results.scenarios[one.target.scenario]
        lost = sum(of(measured, one.target.subject, "incomplete"))
        after = f" ({number(lost)} replies of these runs were not complete)" if lost else ""
        figure, target = result(one) or "unknown", wanted(one, measured)
        lines.append(f"- **Missed**: {measured.title}: {one.target.what} is {figure}, target {target}{after}.")
    lines = lines or ["- All measured targets are met."]
    return "\n".join([*lines, *(f"- Left out: {title} ({reason})." for title, reason in results.left_out.items())])


def disk_line(results: Results) -> str:
    """The latencies of the disk."""
    disks = [disk for measured in results.scenarios.values() for disk in measured.disk]
    fsync, commit = spread([disk.fsync_ms for disk in disks]), spread([disk.sqlite_commit_ms for disk in disks])
    return f"4 KiB append and fsync {shown(fsync)} ms; one-row SQLite commit (WAL, FULL) {shown(commit)} ms"


def size(parameters: dict[str, str | int | float | bool]) -> str:
    """The parameters of a load as a list."""
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def scenario_part(name: str, measured: Measured) -> str:
    """The section of one scenario with its size, chart and table."""
    runs: dict[int, list[str]] = {}
    for entry, done in measured.runs.items():
        runs.setdefault(len(done), []).append(measured.entries[entry])
    counts = "; ".join(f"{count} run(s) of {', '.join(names)}" for count, names in sorted(runs.items(), reverse=True))
    own = [f"{measured.entries[entry]}: {size(parameters)}" for entry, parameters in measured.sizes.items()]
    sizes = "; ".join([size(measured.parameters), *own])
    drawn = f"![{measured.title}](benchmarks/{name}.svg)\n\n" if measured.chart else ""
    return f"### {name}: {measured.title}\n\n{drawn}{counts}.\n{sizes}.\n\n{detail_table(measured)}"


def chart(measured: Measured) -> str:
    """The chart of a scenario, ordered by cost."""
    what, unit = CHARTED[measured.chart]
    found = {entry: spread(of(measured, entry, measured.chart)) for entry in measured.entries if entry != DIRECT}
    rows = [
        Bar(
            measured.entries[entry],
            value.median,
            value.low,
            value.high,
            f"{number(value.median)} {unit}",
            entry.startswith("parley"),
        )
        for entry, value in sorted(found.items(), key=lambda item: item[1].median if item[1] else 0)
        if value is not None
    ]
    return bars(f"{what} of the server, {unit}: {measured.title}", rows)


def summary(results: Results) -> str:
    """The results for the terminal."""
    parts = [misses(results), verdict_table(results)]
    parts += [f"{name}\n{detail_table(measured)}" for name, measured in results.scenarios.items()]
    return "\n\n".join([*parts, f"took {number(results.took_s)} s"])


def document_part(results: Results) -> str:
    """The text between the markers of the document."""
    facts = {
        **results.machine,
        "disk, p50": disk_line(results),
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
        "measured": f"{results.started}, commit {results.commit}, {results.form} form, {number(results.took_s)} s",
        "command": f"`{results.command}`",
    }
    parts = [
        misses(results),
        "Medians of the runs, with the lowest and the highest in brackets. A ratio is the median of the pairs' ratios.",
        verdict_table(results),
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
    ]
    return "\n\n".join([*parts, *(scenario_part(name, measured) for name, measured in results.scenarios.items())])


def insert(name: str, part: str, *, document: Path = DOCUMENT) -> None:
    """Replace the text between the markers of `name` in a document."""
    text = document.read_text()
    begin, end = f"<!-- {name}: written by its command, not by hand -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    document.write_text(f"{before}{begin}\n\n{part}\n\n{end}{after}")


def write_document(results: Results) -> None:
    """Write the results between their markers, and their charts beside the document."""
    CHARTS.mkdir(exist_ok=True)
    for name, measured in results.scenarios.items():
        if measured.chart and any(measured.runs.values()):
            (CHARTS / f"{name}.svg").write_text(chart(measured))
    insert("results", document_part(results))


if __name__ == "__main__":
    write_document(msgspec.json.decode(CANONICAL.read_bytes(), type=Results))
