"""The verdict of a siege finds each broken promise, and only that; the sequence of mishaps follows from the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
from parley.v1 import chat_pb2, resources_pb2

from benchmarks.siege import words
from benchmarks.siege.callers import Transcript
from benchmarks.siege.evidence import (
    Attempt,
    Evidence,
    StoredQuota,
    StoredReply,
    StoredUsage,
    defects_of,
    leaks_of,
    read_attempts,
)
from benchmarks.siege.mishaps import plan
from benchmarks.siege.providers import Noted
from benchmarks.siege.stand import Options
from benchmarks.siege.verdict import CHECKS, judge

WHOLE, CUT, LOST, EMPTY = "whole", "cut", "lost", "empty"
TOKENS = 10


def attempt_of(name: str) -> str:
    return {WHOLE: "a1", CUT: "b2", LOST: "c3", EMPTY: "d4"}[name]


def text(name: str, tokens: int) -> str:
    return words.answer(attempt_of(name), tokens)


def reply(name: str, end: str, tokens: int) -> StoredReply:
    return StoredReply(
        id=f"reply-{name}",
        tenant="shop",
        end_user="ada",
        request_id=name,
        state=end.partition("/")[0],
        end=end,
        text=text(name, tokens),
        messages=1 if tokens else 0,
        usages=1,
        checkpoints=0,
        epoch=1,
    )


def reader(name: str, end: str, tokens: int, **fields: object) -> Transcript:
    base = Transcript(
        kind="read",
        tenant="shop",
        end_user="ada",
        request_id=name,
        tokens=TOKENS,
        reply_id=f"reply-{name}",
        text=text(name, tokens),
        end=end,
    )
    return msgspec.structs.replace(base, **fields)


def usage(name: str, tokens: int, *, free: bool = False) -> StoredUsage:
    return StoredUsage(
        reply_id=f"reply-{name}", tenant="shop", end_user="ada", day="2026-11-30", tokens=tokens, cost=7, free=free
    )


def quota(scope: str, end_user: str, period: str, **fields: int) -> StoredQuota:
    sums = {"used_tokens": 60, "used_cost": 21, "held_tokens": 0, "held_cost": 0} | fields
    return StoredQuota(tenant="shop", scope=scope, end_user=end_user, period=period, **sums)


def asked(name: str, **fields: object) -> Attempt:
    base = Attempt(id=attempt_of(name), request_id=name, tokens=TOKENS, began=True, whole=True, open=False)
    return msgspec.structs.replace(base, **fields)


def in_order() -> Evidence:
    """A reply that completed, one that was cancelled, one whose replica died, and one that failed without content."""
    return Evidence(
        replies=[
            reply(WHOLE, "COMPLETED/STOP", TOKENS),
            reply(CUT, "CANCELLED/CANCELLED", 4),
            reply(LOST, "FAILED/OWNER_LOST", 3),
            reply(EMPTY, "FAILED/PROVIDER_UNAVAILABLE", 0),
        ],
        quotas=[quota("user", "ada", period) for period in ("2026-11", "2026-11-30")]
        + [quota("tenant", "", period) for period in ("2026-11", "2026-11-30")],
        usage=[usage(WHOLE, 30), usage(CUT, 20), usage(LOST, 10), usage(EMPTY, 20, free=True)],
        attempts=[asked(name) for name in (WHOLE, CUT, LOST, EMPTY)] + [asked(EMPTY, id="d5", began=False)],
        transcripts=[
            reader(WHOLE, "COMPLETED/STOP", TOKENS),
            reader(WHOLE, "", 6, left=True),
            reader(CUT, "CANCELLED/CANCELLED", 4),
            reader(LOST, "FAILED/OWNER_LOST", 3),
            reader(LOST, "", 5, left=True),
            reader(EMPTY, "FAILED/PROVIDER_UNAVAILABLE", 0),
            Transcript(
                kind="read", tenant="kiosk", end_user="ben", request_id="no", tokens=8, refused="QUOTA_EXCEEDED"
            ),
        ],
        refusals=0,
        failures={f"reply-{EMPTY}": 2},
        leaks=[],
        defects=[],
        missed=[],
    )


Change = Callable[[Evidence], None]


@dataclass(frozen=True)
class Break:
    """A change of evidence that is in order, the check that finds it, and what the finding names."""

    check: str
    change: Change
    named: str


def put(kind: str, index: int, **fields: object) -> Change:
    """Change one element of a list."""

    def change(evidence: Evidence) -> None:
        found = getattr(evidence, kind)
        found[index] = msgspec.structs.replace(found[index], **fields)

    return change


def add(kind: str, *new: object) -> Change:
    return lambda evidence: getattr(evidence, kind).extend(new)


def remove(kind: str, index: int) -> Change:
    return lambda evidence: getattr(evidence, kind).pop(index)


SHORT = text(WHOLE, TOKENS - 1)
BREAKS = [
    Break("replies without an end", put("replies", 2, state="STREAMING"), "reply-lost"),
    Break("callers without an end", put("transcripts", 0, end="", text=SHORT), "whole (read)"),
    Break("accepted replies that are not stored", add("transcripts", reader(CUT, "", 0, left=True, reply_id="x")), "x"),
    Break("accepted replies that are not stored", put("transcripts", 2, request_id="other"), "reply-cut"),
    Break("ends that differ from the stored one", put("transcripts", 2, end="COMPLETED/STOP"), "reply-cut"),
    Break("ends that differ from the stored one", put("transcripts", 5, end="FAILED/OWNER_LOST"), "reply-empty"),
    Break("texts that differ from the stored one", put("transcripts", 0, text=SHORT), "reply-whole"),
    Break("texts that differ from the stored one", put("transcripts", 1, text=text(CUT, 3)), "reply-whole"),
    Break("texts that differ from the stored one", add("transcripts", reader(CUT, "", 5, left=True)), "reply-cut"),
    Break("stored texts that no single answer begins with", put("attempts", 1, request_id=WHOLE), "reply-cut"),
    Break("faults of order in streams and polls", put("transcripts", 3, faults=["sequence 4 after 5"]), "4 after 5"),
    Break("replies not stored exactly once", put("replies", 0, messages=2), "reply-whole"),
    Break("replies not stored exactly once", put("replies", 0, messages=0), "reply-whole"),
    Break("replies not stored exactly once", put("replies", 1, usages=0), "reply-cut"),
    Break("replies not stored exactly once", put("replies", 2, checkpoints=1), "reply-lost"),
    Break("requests with two replies", add("replies", reply(CUT, "CANCELLED/CANCELLED", 4)), "cut"),
    Break("requests generated twice", add("attempts", asked(WHOLE, id="e5")), "whole: 2 answers"),
    Break("requests generated twice", add("attempts", *(asked(EMPTY, id=f"e{n}") for n in range(3))), "empty: 4 an"),
    Break("requests to a vendor without a stored reply", add("attempts", asked(CUT, id="e5", request_id="y")), "y"),
    Break("calls that a vendor still answers", put("attempts", 3, open=True), "empty"),
    Break("quotas that still hold something", put("quotas", 1, held_tokens=5), "shop user ada 2026-11-30"),
    Break("quotas that still hold something", put("quotas", 2, held_cost=-1), "shop tenant  2026-11:"),
    Break("quotas whose use differs from the sum of usage", put("quotas", 0, used_tokens=59), "shop user ada 2026-11:"),
    Break("quotas whose use differs from the sum of usage", put("quotas", 3, used_cost=22), "shop tenant  2026-11-30"),
    Break("quotas whose use differs from the sum of usage", remove("quotas", 0), "shop user ada 2026-11:"),
    Break("log lines with a key, a prompt or an answer", add("leaks", "redis:3: prompt"), "redis:3"),
    Break("defects", add("defects", "replica-0:7: sweep_failed"), "replica-0:7"),
    Break("parts or replies not at rest in time", add("missed", "1 replies run"), "1 replies run"),
]


def test_nothing_is_found_where_all_is_in_order() -> None:
    assert [finding for finding in judge(in_order()) if finding.violations] == []


def test_each_check_has_a_break() -> None:
    assert {each.check for each in BREAKS} == CHECKS.keys()


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: f"{broken.check}: {broken.named}")
def test_each_break_is_found_and_named_once(broken: Break) -> None:
    evidence = in_order()
    broken.change(evidence)
    found = {finding.check: finding for finding in judge(evidence) if finding.violations}
    assert found[broken.check].violations == 1
    assert broken.named in found[broken.check].ids[0]


def test_a_failure_after_the_first_token_allows_no_second_request() -> None:
    evidence = in_order()
    evidence.replies[1] = reply(CUT, "FAILED/PROVIDER_TIMEOUT", 4)
    evidence.transcripts[2] = reader(CUT, "FAILED/PROVIDER_TIMEOUT", 4)
    evidence.failures[f"reply-{CUT}"] = 1
    assert [finding for finding in judge(evidence) if finding.violations] == []
    evidence.attempts.append(asked(CUT, id="e5"))
    assert [finding.check for finding in judge(evidence) if finding.violations] == ["requests generated twice"]


@pytest.mark.parametrize(
    "wrong",
    [
        text(WHOLE, TOKENS - 1),
        text(WHOLE, TOKENS + 1),
        text(WHOLE, 4) + text(CUT, TOKENS)[len(text(CUT, 4)) :],
        text(WHOLE, TOKENS)[:-1],
        text(WHOLE, 3) + text(WHOLE, TOKENS),
        text(CUT, TOKENS),
        "",
    ],
    ids=["short", "long", "mixed", "cut token", "twice", "of another request", "empty"],
)
def test_a_completed_reply_has_the_whole_answer_of_one_attempt(wrong: str) -> None:
    evidence = in_order()
    evidence.replies[0] = msgspec.structs.replace(evidence.replies[0], text=wrong)
    found = {finding.check: finding for finding in judge(evidence) if finding.violations}
    assert "reply-whole" in found["stored texts that no single answer begins with"].ids[0]


def chunk(sequence: int, **event: object) -> chat_pb2.TokenChunk:
    return chat_pb2.TokenChunk(sequence=sequence, **event)


STOP = chat_pb2.Finished(reason=resources_pb2.FINISH_REASON_STOP)


@pytest.mark.parametrize(
    ("chunks", "fault"),
    [
        ([chunk(1, text="a"), chunk(2, text="b"), chunk(3, finished=STOP)], ""),
        ([chunk(1, text="a"), chunk(2, finished=STOP), chunk(2, finished=STOP)], "finished after the end"),
        ([chunk(2, text="a"), chunk(2, text="b")], "sequence 2 after 2"),
        ([chunk(2, text="a"), chunk(1, text="b")], "sequence 1 after 2"),
        (
            [
                chunk(0, reply_id="x", accepted=chat_pb2.Accepted()),
                chunk(0, reply_id="y", accepted=chat_pb2.Accepted()),
            ],
            "x",
        ),
    ],
    ids=["in order", "two ends", "repeated", "backwards", "two replies"],
)
def test_a_transcript_notes_what_is_out_of_order(chunks: list[chat_pb2.TokenChunk], fault: str) -> None:
    transcript = Transcript(kind="read", tenant="shop", end_user="ada", request_id="r", tokens=2)
    for each in chunks:
        transcript.take(each)
    assert (fault in str(transcript.faults)) if fault else not transcript.faults


def test_attempts_of_a_killed_vendor_are_not_open() -> None:
    notes = [
        Noted(attempt="a", what="asked", process=1, request_id="r1", tokens=5),
        Noted(attempt="b", what="asked", process=2, request_id="r2", tokens=6),
        Noted(attempt="a", what="began", process=1),
        Noted(attempt="c", what="asked", process=2, request_id="r3", tokens=7),
        Noted(attempt="c", what="left", process=2),
    ]
    found = {
        each.request_id: (each.tokens, each.began, each.whole, each.open) for each in read_attempts(notes, running=2)
    }
    assert found == {"r1": (5, True, False, False), "r2": (6, False, False, True), "r3": (7, False, False, False)}


def test_marked_words_are_found_in_every_log_without_being_shown() -> None:
    logs = {
        "replica-0": ["fine", f'{{"event":"x","problem":"{words.prompt("0" * 36, 3)}"}}'],
        "postgres": [f"ERROR: {words.token('a1', 0)}", f"Bearer {words.KEY_MARK}-acme"],
    }
    assert leaks_of(logs) == ["replica-0:2: prompt", "postgres:1: answer", "postgres:2: key"]


def test_errors_that_report_faults_of_other_parts_are_no_defects() -> None:
    events = [
        {"log": "replica-0", "number": 1, "level": "error", "event": "relay_check_failed"},
        {"log": "replica-0", "number": 2, "level": "error", "event": "sweep_failed"},
        {"log": "replica-1", "number": 3, "level": "warning", "event": "lease_defect"},
        {"log": "replica-1", "number": 4, "level": "warning", "event": "lease_expired"},
    ]
    assert defects_of(events) == ["replica-0:2: sweep_failed", "replica-1:3: lease_defect"]


def test_the_newest_message_of_a_prompt_names_the_request() -> None:
    first, second = "0" * 36, "1" * 36
    body = f"{words.prompt(first, 3)} ... {words.answer('a1', 3)} ... {words.prompt(second, 7)}"
    assert words.read_prompt(body) == (second, 7)
    assert words.read_prompt("nothing of a siege") is None


def test_a_seed_repeats_the_mishaps_and_each_kind_comes_before_any_comes_again() -> None:
    options = Options(minutes=30, every=20, seed=7)
    mishaps = plan(options)
    assert plan(options) == mishaps
    assert plan(Options(minutes=30, every=20, seed=8)) != mishaps
    assert len(mishaps) == 89
    deck = 22
    first = [(each.kind, each.target.partition("-")[0]) for each in mishaps[:deck]]
    assert {kind for kind, _ in first} == {"killed", "paused", "cut off", "stalled", "full", "clock"}
    for each in mishaps:
        assert 0 < each.seconds < options.every
        assert each.at_s + options.every <= options.minutes * 60


def test_the_short_form_has_each_mishap_twice() -> None:
    mishaps, deck = plan(Options(minutes=3, every=3.7, seed=1)), 22
    assert len(mishaps) == 47
    for turn in (mishaps[:deck], mishaps[deck : 2 * deck]):
        assert len({(each.kind, each.target) for each in turn}) == deck
