"""Checks Parley's promises at the end of a siege. Each check returns a count of checked items and its violations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import msgspec

from benchmarks.siege.evidence import Attempt, Evidence, StoredReply
from benchmarks.siege.stand import SCOPES
from benchmarks.siege.words import read_answer

SHOWN = 20


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check. `ids`: the first of the violations."""

    check: str
    checked: int
    violations: int
    ids: list[str]


Check = Callable[[Evidence], tuple[int, Iterable[str]]]


def judge(evidence: Evidence) -> list[Finding]:
    """The findings of all checks, also of those without a violation."""
    return [_finding(name, check, evidence) for name, check in CHECKS.items()]


def _finding(name: str, check: Check, evidence: Evidence) -> Finding:
    checked, found = check(evidence)
    violations = list(found)
    return Finding(check=name, checked=checked, violations=len(violations), ids=violations[:SHOWN])


def replies_end(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """Every reply has a terminal state."""
    ended = {"COMPLETED", "CANCELLED", "FAILED"}
    return len(evidence.replies), (reply.id for reply in evidence.replies if reply.state not in ended)


def callers_get_an_end(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """Every caller that did not leave has received a terminal chunk or a refusal."""
    stayed = [each for each in evidence.transcripts if not each.left]
    return len(stayed), (f"{each.request_id} ({each.kind})" for each in stayed if not each.over)


def acceptances_are_kept(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """Every accepted reply is stored, under the request that started it."""
    stored = {reply.id: reply.request_id for reply in evidence.replies}
    accepted = [each for each in evidence.transcripts if each.reply_id]
    return len(accepted), (each.reply_id for each in accepted if stored.get(each.reply_id) != each.request_id)


def ends_are_those_stored(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """Every end that a caller has received is the stored state and reason."""
    stored = {reply.id: reply.end for reply in evidence.replies}
    ended = [each for each in evidence.transcripts if each.end and each.reply_id in stored]
    return len(ended), (
        f"{each.reply_id}: {each.end} received, {stored[each.reply_id]} stored"
        for each in ended
        if each.end != stored[each.reply_id]
    )


def texts_are_those_stored(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """Every caller with an end has the stored text. A caller without one has a prefix of it, or, if the owner was lost,
    a text that begins with it."""
    stored = {reply.id: reply for reply in evidence.replies}
    read = [each for each in evidence.transcripts if each.reply_id in stored]

    def wrong() -> Iterable[str]:
        for each in read:
            reply = stored[each.reply_id]
            if each.end:
                same = each.text == reply.text
            else:
                lost = reply.end == "FAILED/OWNER_LOST" and each.text.startswith(reply.text)
                same = reply.text.startswith(each.text) or lost
            if not same:
                yield f"{each.reply_id}: {len(each.text)} characters received, {len(reply.text)} stored"

    return len(read), wrong()


def texts_are_of_one_attempt(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """Every stored text is the beginning of the answer to one attempt for its request, and all of the answer if the
    reply has completed."""
    attempts = {attempt.id: attempt for attempt in evidence.attempts}

    def wrong() -> Iterable[str]:
        for reply in evidence.replies:
            if (reply.end == "COMPLETED/STOP" or reply.text) and (fault := _fault_of_text(reply, attempts)):
                yield f"{reply.id}: {fault}"

    return len(evidence.replies), wrong()


def _fault_of_text(reply: StoredReply, attempts: dict[str, Attempt]) -> str:
    read = read_answer(reply.text)
    if read is None:
        return "not the beginning of one answer"
    attempt = attempts.get(read.attempt)
    if attempt is None or attempt.request_id != reply.request_id:
        return "the answer to another request"
    if reply.end == "COMPLETED/STOP" and read.tokens != attempt.tokens:
        return f"{read.tokens} of {attempt.tokens} tokens"
    return "" if read.tokens <= attempt.tokens else "more than was sent"


def streams_are_in_order(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """Sequences rise, no chunk follows the end, a request has one reply, and refusals have temporary reasons."""
    found = (f"{each.request_id} ({each.kind}): {fault}" for each in evidence.transcripts for fault in each.faults)
    return len(evidence.transcripts), found


def replies_are_stored_once(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """Every reply has one row of usage, no checkpoint, and one message, or none if it has no text."""

    def fits(reply: StoredReply) -> bool:
        return reply.messages == bool(reply.text) and reply.usages == 1 and not reply.checkpoints

    return len(evidence.replies), (reply.id for reply in evidence.replies if not fits(reply))


def requests_have_one_reply(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """No request has started two replies."""
    counts = Counter((reply.tenant, reply.end_user, reply.request_id) for reply in evidence.replies)
    return len(counts), (request_id for (_, _, request_id), count in counts.items() if count > 1)


def requests_are_generated_once(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """A vendor sends a second answer to a request only after a failure before the first token, which the replica has
    logged."""
    attempts = Counter(attempt.request_id for attempt in evidence.attempts if attempt.began)
    allowed: Counter[str] = Counter()
    for reply in evidence.replies:
        failures = evidence.failures.get(reply.id, 0)
        # The failure that ends a reply with text was after its first token.
        allowed[reply.request_id] += failures - (
            failures > 0 and reply.end.startswith("FAILED/PROVIDER") and bool(reply.text)
        )
    return len(attempts), (
        f"{request_id}: {count} answers, {allowed[request_id]} failures before a token"
        for request_id, count in attempts.items()
        if count > 1 + allowed[request_id]
    )


def accepted_before_sent_to_vendors(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """A request is sent to a vendor only after its reply is stored."""
    stored = {reply.request_id for reply in evidence.replies}
    return len(evidence.attempts), (each.request_id for each in evidence.attempts if each.request_id not in stored)


def calls_are_closed(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """No vendor still answers a request."""
    return len(evidence.attempts), (each.request_id for each in evidence.attempts if each.open)


def nothing_is_held(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """No quota holds tokens or costs."""
    return len(evidence.quotas), (
        f"{row.tenant} {row.scope} {row.end_user} {row.period}: {row.held_tokens} tokens, {row.held_cost} nano USD held"
        for row in evidence.quotas
        if row.held_tokens or row.held_cost
    )


def used_is_the_sum_of_usage(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """The use of each quota is the sum of the usage of its replies, without those that failed without content."""
    sums: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in evidence.usage:
        for scope in SCOPES.get(row.tenant, ()):
            for period in (row.day, row.day[: len("2026-11")]):
                total = sums[row.tenant, scope, row.end_user if scope == "user" else "", period]
                total[0] += 0 if row.free else row.tokens
                total[1] += 0 if row.free else row.cost
    used = {
        (row.tenant, row.scope, row.end_user, row.period): [row.used_tokens, row.used_cost] for row in evidence.quotas
    }
    keys = sorted(sums.keys() | used.keys())
    return len(keys), (
        f"{' '.join(key)}: {used.get(key, [0, 0])} used, {sums.get(key, [0, 0])} in usage (tokens, nano USD)"
        for key in keys
        if used.get(key, [0, 0]) != sums.get(key, [0, 0])
    )


def logs_are_clean(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """No log contains a key, a prompt or an answer."""
    return 1, evidence.leaks


def no_defect_is_logged(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """No replica has logged a defect, and no reply has failed as INTERNAL."""
    internal = (reply.id for reply in evidence.replies if reply.end == "FAILED/INTERNAL")
    return 1, [*evidence.defects, *internal]


def all_is_quiet(evidence: Evidence) -> tuple[int, Iterable[str]]:
    """After the last mishap, all parts serve and all replies end in time."""
    return 1, evidence.missed


CHECKS: dict[str, Check] = {
    "replies without an end": replies_end,
    "callers without an end": callers_get_an_end,
    "accepted replies that are not stored": acceptances_are_kept,
    "ends that differ from the stored one": ends_are_those_stored,
    "texts that differ from the stored one": texts_are_those_stored,
    "stored texts that no single answer begins with": texts_are_of_one_attempt,
    "faults of order in streams and polls": streams_are_in_order,
    "replies not stored exactly once": replies_are_stored_once,
    "requests with two replies": requests_have_one_reply,
    "requests generated twice": requests_are_generated_once,
    "requests to a vendor without a stored reply": accepted_before_sent_to_vendors,
    "calls that a vendor still answers": calls_are_closed,
    "quotas that still hold something": nothing_is_held,
    "quotas whose use differs from the sum of usage": used_is_the_sum_of_usage,
    "log lines with a key, a prompt or an answer": logs_are_clean,
    "defects": no_defect_is_logged,
    "parts or replies not at rest in time": all_is_quiet,
}
