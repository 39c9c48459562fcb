"""Results as tables: on the terminal, and between the markers of docs/benchmarks.md. Every figure comes from the JSON.

Run as a module it writes the document anew from docs/benchmarks.json, without measuring.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.results import SUBJECT, Measured, Results, Spread, Verdict, of, spread, verdicts
from benchmarks.scenarios import Target

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"
CANONICAL = ROOT / "docs" / "benchmarks.json"
BEGIN = "<!-- results: written by `python -m benchmarks.run --write-docs`, not by hand -->"
END = "<!-- end of results -->"
NAMES = {"parley": "Parley", "bare": "bare grpc.aio", "litellm": "LiteLLM", "direct": "direct"}
DETAILS = {
    "CPU per token, us": "cpu_us_per_token",
    "CPU per reply, ms": "cpu_ms_per_reply",
    "CPU of the server, cores": "cpu_share",
    "tokens/s": "tokens_per_s",
    "messages per token": "messages_per_token",
    "first token p50, ms": "first_token_p50_ms",
    "first token p99, ms": "first_token_p99_ms",
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
    "CPU of the load, cores": "load_cpu_share",
    "CPU of the upstream, cores": "upstream_cpu_share",
    "upstream's own lag p99.9, ms": "upstream_lag_p999_ms",
}


def number(value: float) -> str:
    """Three significant digits, or the whole number where it has more."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def shown(value: Spread | None) -> str:
    """A median with its spread."""
    if value is None:
        return ""
    if value.low == value.high:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)}-{number(value.high)})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with its columns aligned, so that it reads on a terminal too."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    ruler = ["-" * width for width in widths]
    lines = [head, ruler, *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def wanted(target: Target, limit: float) -> str:
    """The figure to reach, in words."""
    if target.over:
        return f"<= 1/{round(1 / target.limit)} of {NAMES[target.over]}"
    if target.beyond_fsync:
        return f"<= {number(limit)} {target.unit}: {number(target.limit)} beyond fsync"
    return f"<= {number(limit)} {target.unit}"


def word(verdict: Verdict) -> str:
    """How it came out."""
    return {True: "hit", False: "**MISS**", None: "not measured"}[verdict.reached]


def verdict_table(results: Results) -> str:
    """The figures to reach."""
    others = [name for name in results.systems if name != SUBJECT]
    head = ["load", "figure", "target", NAMES[SUBJECT], "", *(NAMES[name] for name in others)]
    rows = [
        [
            results.scenarios[found.target.scenario].title,
            found.target.what,
            wanted(found.target, found.limit),
            shown(found.systems.get(SUBJECT)),
            word(found),
            *(shown(found.systems.get(name)) for name in others),
        ]
        for found in verdicts(results)
    ]
    return table(head, rows)


def detail_table(measured: Measured) -> str:
    """What else one scenario showed, the direct run included."""
    systems = list(measured.runs)
    rows = []
    for label, metric in DETAILS.items():
        cells = [shown(spread(of(measured, system, metric))) for system in systems]
        if any(cells):
            rows.append([label, *cells])
    return table(["", *(NAMES[system] for system in systems)], rows)


def misses(results: Results) -> str:
    """The missed and the unmeasured figures, to be read first."""
    missed, unmeasured = [], []
    for one in verdicts(results):
        figure = f"{results.scenarios[one.target.scenario].title}: {one.target.what}"
        target = wanted(one.target, one.limit)
        if one.reached is None:
            unmeasured.append(f"- Not measured: {figure} {target}.")
        elif not one.reached:
            lost = sum(of(results.scenarios[one.target.scenario], SUBJECT, "incomplete"))
            after = f" ({number(lost)} replies of these runs were not complete)" if lost else ""
            figure_now = shown(one.systems.get(SUBJECT)) or "unknown"
            missed.append(f"- **Missed**: {figure} is {figure_now}, to be {target}{after}.")
    lines = [*missed, *unmeasured]
    return "\n".join(lines or ["None of the figures below is missed."])


def disk_line(results: Results) -> str:
    """What the disk takes by itself."""
    disks = [disk for measured in results.scenarios.values() for disk in measured.disk]
    fsync, commit = spread([disk.fsync_ms for disk in disks]), spread([disk.sqlite_commit_ms for disk in disks])
    return f"4 KiB append and fsync {shown(fsync)} ms; one-row SQLite commit (WAL, FULL) {shown(commit)} ms"


def document_part(results: Results) -> str:
    """All that stands between the markers."""
    facts = {
        **results.machine,
        "disk, p50": disk_line(results),
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
        "measured": f"{results.started}, commit {results.commit}, {results.form} form, {number(results.took_s)} s",
        "command": f"`{results.command}`",
    }
    parts = [
        misses(results),
        "Medians of the runs, with the lowest and the highest in brackets.",
        verdict_table(results),
    ]
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    for name, measured in results.scenarios.items():
        runs = max(len(runs) for runs in measured.runs.values())
        size = ", ".join(f"{key} {value}" for key, value in measured.parameters.items())
        parts.append(f"### {name}: {measured.title}\n\n{runs} run(s) of each; {size}.\n\n{detail_table(measured)}")
    return "\n\n".join(parts)


def write_document(results: Results) -> None:
    """Put the results between the markers and keep their JSON beside the document."""
    CANONICAL.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{document_part(results)}\n\n{END}{after}")


if __name__ == "__main__":
    write_document(msgspec.json.decode(CANONICAL.read_bytes(), type=Results))
