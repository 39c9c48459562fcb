"""Data collected at the end of a siege: rows of the database, the vendors' counts, transcripts, and logs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import msgspec

from benchmarks.siege.callers import Transcript
from benchmarks.siege.providers import Noted, read_counts
from benchmarks.siege.stand import Stand
from benchmarks.siege.words import MARKS
from tests.processes import ServerProcess
from tests.services import query_postgres

QUIET_S = 90.0
POLL_S = 0.5
ERRORS_OF_FAULTS = frozenset(
    {
        "database_lost",
        "lease_expired",
        "provider_close_timed_out",
        "relay_check_failed",
        "relay_command_failed",
        "text_recall_timed_out",
    }
)
"""Log events of level error that report a fault of another part, not a defect of Parley."""
_RUNNING = "SELECT count(*) FROM reply WHERE state IN ('PENDING', 'STREAMING')"
_HELD = "SELECT count(*) FROM quota_use WHERE held_tokens <> 0 OR held_cost <> 0"
_REPLIES = """
SELECT r.id, r.tenant, r.end_user, r.request_id, r.state,
       r.state || '/' ||
       coalesce(r.finish_reason, (SELECT max(u.error_reason) FROM usage u WHERE u.reply_id = r.id), ''),
       coalesce((SELECT m.parts FROM message m WHERE m.reply_id = r.id), '[]'),
       (SELECT count(*) FROM message m WHERE m.reply_id = r.id),
       (SELECT count(*) FROM usage u WHERE u.reply_id = r.id),
       (SELECT count(*) FROM checkpoint c WHERE c.reply_id = r.id),
       r.epoch
FROM reply r
"""
_QUOTAS = """
SELECT tenant, scope, end_user, period, used_tokens::bigint, used_cost::bigint, held_tokens::bigint, held_cost::bigint
FROM quota_use
"""
_USAGE = """
SELECT u.reply_id, u.tenant, u.end_user, to_char(to_timestamp(u.create_time_us / 1e6) AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
       u.prompt_tokens + u.completion_tokens, coalesce(u.cost_nano_usd, 0),
       u.state = 'FAILED' AND NOT EXISTS (SELECT 1 FROM message m WHERE m.reply_id = u.reply_id)
FROM usage u WHERE u.kind = 'reply'
"""


class StoredReply(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table `reply`, with the number of rows that belong to it. `end`: as in `Transcript`."""

    id: str
    tenant: str
    end_user: str
    request_id: str
    state: str
    end: str
    text: str
    messages: int
    usages: int
    checkpoints: int
    epoch: int


class StoredQuota(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table `quota_use`."""

    tenant: str
    scope: str
    end_user: str
    period: str
    used_tokens: int
    used_cost: int
    held_tokens: int
    held_cost: int


class StoredUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table `usage`. `free`: the reply failed without content, which quotas are not charged for."""

    reply_id: str
    tenant: str
    end_user: str
    day: str
    tokens: int
    cost: int
    free: bool


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a vendor. `began`: the vendor has sent a token. `open`: the vendor still answers it."""

    id: str
    request_id: str
    tokens: int
    began: bool
    whole: bool
    open: bool


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All collected data. `failures`: by reply, the number of failed requests to providers that replicas have logged.
    `refusals`: requests that full vendors have refused. `leaks`: log lines with a marked word. `defects`: log lines of
    level error that no fault of another part explains. `missed`: replies and parts not at rest within `QUIET_S`."""

    replies: list[StoredReply]
    quotas: list[StoredQuota]
    usage: list[StoredUsage]
    attempts: list[Attempt]
    transcripts: list[Transcript]
    failures: dict[str, int]
    refusals: int
    leaks: list[str]
    defects: list[str]
    missed: list[str]


async def wait_until_quiet(stand: Stand) -> list[str]:
    """Wait until no reply runs and no quota is held; returns what is not at rest after `QUIET_S`."""
    end = time.monotonic() + QUIET_S
    while True:
        left = await _not_at_rest(stand)
        if not left or time.monotonic() > end:
            return left
        await asyncio.sleep(POLL_S)


async def _not_at_rest(stand: Stand) -> list[str]:
    ((running,),) = await _rows(stand, _RUNNING)
    ((held,),) = await _rows(stand, _HELD)
    healths = await asyncio.gather(*(_health(replica) for replica in stand.replicas))
    found = {"replies run": running, "rows of quota_use hold something": held}
    left = [f"{count} {what}" for what, count in found.items() if count]
    left += [f"replica-{index} is {health}" for index, health in enumerate(healths) if health != "SERVING"]
    open_calls = sum(attempt.open for attempt in attempts_of(stand))
    return left + ([f"{open_calls} calls at vendors"] if open_calls else [])


async def _health(replica: ServerProcess) -> str:
    return await replica.health("parley.v1.Chat")


async def collect(stand: Stand, transcripts: list[Transcript], missed: list[str]) -> Evidence:
    """Read the data from the database and the files."""
    replies, quotas, usage = [await _rows(stand, query) for query in (_REPLIES, _QUOTAS, _USAGE)]
    logs = stand.logs()
    events = [event for name, lines in logs.items() if name.startswith("replica") for event in _events(name, lines)]
    return Evidence(
        replies=[_reply(*row) for row in replies],
        quotas=[_struct(StoredQuota, row) for row in quotas],
        usage=[_struct(StoredUsage, row) for row in usage],
        attempts=attempts_of(stand),
        transcripts=transcripts,
        failures=Counter(event["reply_id"] for event in events if event["event"] == "provider_attempt"),
        refusals=sum(
            note.what == "refused" for vendor in stand.vendors.values() for note in read_counts(vendor.counts)
        ),
        leaks=leaks_of(logs),
        defects=defects_of(events),
        missed=missed,
    )


def attempts_of(stand: Stand) -> list[Attempt]:
    """The requests of all vendors. A request to a process that was killed is not open."""
    return [
        attempt
        for vendor in stand.vendors.values()
        for attempt in read_attempts(read_counts(vendor.counts), running=vendor.pid)
    ]


def read_attempts(notes: list[Noted], *, running: int) -> list[Attempt]:
    """The attempts in one vendor's file; `running` is the id of its last process."""
    noted: dict[str, set[str]] = {}
    for note in notes:
        noted.setdefault(note.attempt, set()).add(note.what)
    return [
        Attempt(
            id=note.attempt,
            request_id=note.request_id,
            tokens=note.tokens,
            began="began" in noted[note.attempt],
            whole="whole" in noted[note.attempt],
            open=note.process == running and not noted[note.attempt] & {"whole", "left"},
        )
        for note in notes
        if note.what == "asked"
    ]


def leaks_of(logs: dict[str, list[str]]) -> list[str]:
    """The lines with a marked word, by their numbers. The lines themselves are not shown."""
    return [
        f"{name}:{number}: {what}"
        for name, lines in logs.items()
        for number, line in enumerate(lines, start=1)
        for what, mark in MARKS.items()
        if mark in line
    ]


def defects_of(events: list[dict[str, Any]]) -> list[str]:
    """The log lines that report a defect of Parley."""
    return [
        f"{event['log']}:{event['number']}: {event['event']}"
        for event in events
        if event["event"].endswith("_defect") or (event["level"] == "error" and event["event"] not in ERRORS_OF_FAULTS)
    ]


def _events(name: str, lines: list[str]) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("{"):
            found.append({**json.loads(line), "log": name, "number": number})
    return found


def _reply(*row: Any) -> StoredReply:
    names = StoredReply.__struct_fields__
    values = dict(zip(names, row, strict=True))
    parts = json.loads(values["text"])
    values["text"] = "".join(part["text"] for part in parts if part["type"] == "text")
    return StoredReply(**values)


def _struct(kind: Any, row: tuple[Any, ...]) -> Any:
    return kind(**dict(zip(kind.__struct_fields__, row, strict=True)))


async def _rows(stand: Stand, query: str) -> list[tuple[Any, ...]]:
    return await query_postgres(stand.postgres.url(stand.database), query)
