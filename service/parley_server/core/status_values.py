"""Values that show the state of a replica and of the database. They contain no text of conversations and no keys."""

from __future__ import annotations

from collections.abc import Iterable

from parley_server.core.model import Value
from parley_server.core.quota_values import QuotaRow

AGES_S = (10, 60, 600)
"""The ages by which running replies are counted, in seconds."""


class RunningReplies(Value, frozen=True, kw_only=True):
    """Running replies of one model (its alias). `older` counts those that are older than each of `AGES_S`."""

    model: str
    replies: int
    older: tuple[int, int, int]
    oldest_s: float


class BreakerState(Value, frozen=True, kw_only=True):
    """The circuit breaker of a model (the vendor's name). It admits a probe in `next_probe_s`, if it is open."""

    provider: str
    model: str
    is_open: bool
    next_probe_s: float = 0.0


class RelayPart(Value, frozen=True, kw_only=True):
    """A part of the connection to Redis; `lost_s` is 0 while it works."""

    name: str
    lost_s: float


class ReplicaLease(Value, frozen=True, kw_only=True):
    """A row of a replica. `version` is empty if its release does not store it. `lease_left_s` is negative once the
    lease has expired; `running` is the number of running replies that the replica owns."""

    replica_id: str
    version: str
    start_time_us: int
    lease_left_s: float
    running: int


class QuotaCap(Value, frozen=True, kw_only=True):
    """A limit of a tenant in a period: of all end users each (`scope` is `USER`), or of the whole tenant. `kind` is
    "tokens" or "cost_nano_usd". The tenant `*` stands for all tenants that have no table of their own."""

    tenant: str
    scope: str
    period: str
    kind: str
    most: int


class QuotaCaps(Value, frozen=True, kw_only=True):
    """All limits of a day and a month. `named`: the tenants that have a table of their own."""

    caps: tuple[QuotaCap, ...] = ()
    named: tuple[str, ...] = ()


class QuotaSpot(Value, frozen=True, kw_only=True):
    """A limit of a row of use, what is used and held of it, and its kind (see `QuotaCap`)."""

    tenant: str
    row: QuotaRow
    kind: str
    most: int
    used: int


class StoredStatus(Value, frozen=True, kw_only=True):
    """What the database shows. `unowned` counts the running replies whose owner has no row."""

    schema_release: int
    replicas: tuple[ReplicaLease, ...]
    running: tuple[RunningReplies, ...]
    unowned: int


class ReplicaState(Value, frozen=True, kw_only=True):
    """The state of this process. `lease_left_s` is None if it needs no lease; `replica_id` is empty then."""

    replica_id: str
    version: str
    uptime_s: float
    configuration_time_us: int
    lease_left_s: float | None
    draining: bool
    running: tuple[RunningReplies, ...]
    followed: int
    readers: int
    utilisation: float
    overloaded: bool
    relay: tuple[RelayPart, ...]
    breakers: tuple[BreakerState, ...]


class DatabaseState(Value, frozen=True, kw_only=True):
    """What the database shows; with a `problem`, it could not be read. `quotas_known` False: the use of quotas could
    not be compared in time."""

    kind: str
    problem: str = ""
    stored: StoredStatus | None = None
    quotas: tuple[QuotaSpot, ...] = ()
    quotas_known: bool = True


class Status(Value, frozen=True, kw_only=True):
    """The answer of a replica, or of a command that reads the database alone (then `replica` is None)."""

    replica: ReplicaState | None
    database: DatabaseState
    problems: tuple[str, ...]


def running_by_model(found: Iterable[tuple[str, float]]) -> tuple[RunningReplies, ...]:
    """Counts running replies, each given by its model and its age in seconds."""
    ages: dict[str, list[float]] = {}
    for model, age_s in found:
        ages.setdefault(model, []).append(max(0.0, age_s))
    return tuple(
        RunningReplies(model=model, replies=len(some), older=_older(some), oldest_s=max(some))
        for model, some in sorted(ages.items())
    )


def _older(ages_s: list[float]) -> tuple[int, int, int]:
    first, second, third = (sum(age_s > limit for age_s in ages_s) for limit in AGES_S)
    return first, second, third
