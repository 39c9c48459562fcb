"""The status of replicas as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from parley.v1 import admin_pb2

from parley_server.cli.columns import aligned

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_RUNNING = ("model", "running", "> 10 s", "> 1 min", "> 10 min", "oldest")
_REPLICAS = ("replica", "version", "started", "lease", "running")
_QUOTAS = ("tenant", "end user", "quota", "used", "limit", "part", "until")


def lines_of(status: admin_pb2.GetStatusResponse) -> Iterator[str]:
    """All lines: the replica if there is one, the database, and the problems at the end, where they are seen."""
    if status.HasField("replica"):
        yield from _replica(status.replica)
    yield from _database(status.database)
    yield ""
    if status.problems:
        yield "problems"
        yield from (f"  {problem}" for problem in status.problems)
    else:
        yield "no problems"


def _replica(replica: admin_pb2.ReplicaStatus) -> Iterator[str]:
    standalone = replica.mode == admin_pb2.ReplicaStatus.MODE_STANDALONE
    facts = [
        ("replica", "standalone" if standalone else replica.replica_id),
        ("version", replica.version),
        ("up", _period(replica.uptime)),
        ("configuration", f"read at {_time(replica.configuration_time)}"),
    ]
    if replica.HasField("lease_left"):
        facts.append(("lease", f"{_period(replica.lease_left)} left" if _seconds(replica.lease_left) else "not held"))
    facts += [
        ("readers", f"{replica.readers}; {replica.followed_replies} replies of other replicas are followed"),
        ("event loop", f"{replica.loop_utilisation:.0%} busy" + (", overloaded" if replica.overloaded else "")),
    ]
    if replica.draining:
        facts.append(("draining", "new replies are refused"))
    if replica.relay:
        facts.append(("Redis", _relay(replica.relay)))
    yield from aligned(facts)
    yield from _section("running replies of this replica", _RUNNING, map(_running, replica.running))
    yield from _section("circuit breakers", ("provider", "model", "state"), map(_breaker, replica.breakers))
    yield ""


def _database(database: admin_pb2.DatabaseStatus) -> Iterator[str]:
    if database.problem:
        yield f"database  {database.kind}, cannot be read"
        return
    yield f"database  {database.kind}, schema release {database.schema_release}"
    yield from _section("replicas", _REPLICAS, map(_lease, database.replicas))
    yield from _section("running replies of all replicas", _RUNNING, map(_running, database.running))
    yield from _section("fullest quotas", _QUOTAS, map(_quota, database.quotas))


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    if found := list(rows):
        yield ""
        yield title
        yield from (f"  {line}" for line in aligned([head, *found]))


def _running(given: admin_pb2.RunningReplies) -> tuple[str, ...]:
    counts = (given.replies, given.over_10_seconds, given.over_1_minute, given.over_10_minutes)
    return (given.model, *map(str, counts), _period(given.oldest_age))


def _breaker(given: admin_pb2.Breaker) -> tuple[str, ...]:
    state = "closed"
    if given.open:
        left_s = _seconds(given.next_probe_in)
        state = (
            f"open, next probe in {_period(given.next_probe_in)}" if left_s else "open, probes with the next request"
        )
    return given.provider, given.model, state


def _relay(parts: Iterable[admin_pb2.RelayPart]) -> str:
    lost = [f"{part.name} for {_period(part.lost)}" for part in parts if part.HasField("lost")]
    return f"lost: {', '.join(lost)}" if lost else "connected"


def _lease(given: admin_pb2.ReplicaLease) -> tuple[str, ...]:
    left_s = _seconds(given.lease_left)
    lease = f"{left_s:.1f} s left" if left_s > 0 else f"expired {-left_s:.1f} s ago"
    return given.replica_id, given.version or "-", _time(given.start_time), lease, str(given.running_replies)


def _quota(given: admin_pb2.QuotaUse) -> tuple[str, ...]:
    quota = given.quota
    part = f"{quota.used / quota.limit:.0%}" if quota.limit else "-"
    numbers = (str(quota.used), str(quota.limit), part)
    return given.tenant, given.end_user or "-", quota.name, *numbers, _time(quota.reset_time)


def _seconds(given: Duration) -> float:
    return given.seconds + given.nanos / 1e9


def _period(given: Duration) -> str:
    seconds = _seconds(given)
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min {seconds % _MINUTE_S:.0f} s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h {seconds % _HOUR_S // _MINUTE_S:.0f} min"
    return f"{seconds // _DAY_S:.0f} d {seconds % _DAY_S // _HOUR_S:.0f} h"


def _time(given: Timestamp) -> str:
    return given.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ")
