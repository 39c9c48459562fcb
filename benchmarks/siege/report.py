"""The result of a siege as JSON, and as a section of docs/guarantees.md."""

from __future__ import annotations

from collections import Counter

import msgspec

from benchmarks.report import number, table
from benchmarks.siege.evidence import Evidence
from benchmarks.siege.mishaps import Done
from benchmarks.siege.stand import Options
from benchmarks.siege.verdict import Finding

MOST_MET = 12


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The size, the mishaps with their outcomes, the findings, and counts.

    callers: requests by what their callers did. ends: replies by state and reason. met: failed calls, by status, that
    callers repeated. counts: other figures."""

    options: Options
    took_s: float
    mishaps: list[Done]
    findings: list[Finding]
    callers: dict[str, int]
    ends: dict[str, int]
    met: dict[str, int]
    counts: dict[str, int]

    @property
    def violations(self) -> int:
        """The number of violations of all checks."""
        return sum(finding.violations for finding in self.findings)


def result_of(
    options: Options,
    mishaps: list[Done],
    evidence: Evidence,
    findings: list[Finding],
    *,
    met: Counter[str],
    took_s: float,
) -> Result:
    """The result, without texts, and with the ids of violations only."""
    transcripts, replies = evidence.transcripts, evidence.replies
    return Result(
        options=options,
        took_s=round(took_s, 1),
        mishaps=mishaps,
        findings=findings,
        callers=_sorted(Counter(each.kind for each in transcripts)),
        ends=_sorted(Counter(reply.end for reply in replies)),
        met=_sorted(met),
        counts={
            "replies": len(replies),
            "readers": len(transcripts),
            "calls of readers": sum(each.calls for each in transcripts),
            "snapshots received": sum(each.snapshots for each in transcripts),
            "requests refused by a quota": sum(bool(each.refused) for each in transcripts),
            "replies taken over": sum(reply.epoch > 1 for reply in replies),
            "requests to vendors": len(evidence.attempts),
            "requests to vendors that failed, by the logs": sum(evidence.failures.values()),
            "requests refused by full vendors": evidence.refusals,
            "repeated requests to vendors": _repeated(evidence),
            "rows of quotas": len(evidence.quotas),
        },
    )


def part(result: Result) -> str:
    """The section of docs/guarantees.md."""
    options = result.options
    size = (
        f"{number(options.minutes)} minutes, {options.streams} callers, {number(options.pace)} tokens per second of "
        f"each reply, a mishap every {number(options.every)} s, seed "
        f"{options.seed}: {number(len(result.mishaps))} mishaps."
    )
    findings = table(
        ["must be 0", "checked", "found"],
        [[each.check, number(each.checked), number(each.violations)] for each in result.findings],
    )
    wrong = [f"- **{each.check}**: {'; '.join(each.ids)}" for each in result.findings if each.violations]
    parts = [
        size,
        findings,
        *(["\n".join(wrong)] if wrong else []),
        table(["mishap", "done", "skipped"], _mishap_rows(result.mishaps)),
        _line("Replies by their end", result.ends),
        _line("Readers", result.callers),
        _line("Counts", result.counts),
        _line("Failed calls that callers repeated", dict(list(result.met.items())[:MOST_MET])),
    ]
    skipped = sorted({done.outcome for done in result.mishaps if done.outcome != "done"})
    return "\n\n".join([*parts, *skipped])


def _mishap_rows(mishaps: list[Done]) -> list[list[str]]:
    happened: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for each in mishaps:
        (happened if each.outcome == "done" else skipped)[_kind(each)] += 1
    return [[kind, number(happened[kind]), number(skipped[kind])] for kind in sorted(happened.keys() | skipped.keys())]


def _kind(done: Done) -> str:
    """The kind with its target, where all replicas have one name, and all vendors."""
    target = " ".join(word.partition("-")[0] for word in done.mishap.target.split(" "))
    for vendor in ("acme", "birch"):
        target = target.replace(vendor, "vendor")
    return f"{target}: {done.mishap.kind}"


def _line(title: str, counts: dict[str, int]) -> str:
    return f"{title}: {', '.join(f'{number(count)} {name}' for name, count in counts.items())}."


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())


def _repeated(evidence: Evidence) -> int:
    attempts = Counter(attempt.request_id for attempt in evidence.attempts)
    return sum(count - 1 for count in attempts.values())
