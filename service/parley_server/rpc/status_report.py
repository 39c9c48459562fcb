"""Converts the answer of Admin.GetStatus."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from parley.v1 import admin_pb2

from parley_server.core.quotas.rules import state_of
from parley_server.core.status_values import (
    BreakerState,
    DatabaseState,
    QuotaSpot,
    RelayPart,
    ReplicaLease,
    ReplicaState,
    RunningReplies,
    Status,
)
from parley_server.rpc.to_proto import quota_message, time_message


def status_response(status: Status) -> admin_pb2.GetStatusResponse:
    """The whole answer."""
    replica = None if status.replica is None else _replica(status.replica)
    return admin_pb2.GetStatusResponse(replica=replica, database=_database(status.database), problems=status.problems)


def _replica(state: ReplicaState) -> admin_pb2.ReplicaStatus:
    modes = admin_pb2.ReplicaStatus.Mode
    return admin_pb2.ReplicaStatus(
        replica_id=state.replica_id,
        version=state.version,
        mode=modes.MODE_CLUSTER if state.replica_id else modes.MODE_STANDALONE,
        uptime=_duration(state.uptime_s),
        configuration_time=time_message(state.configuration_time_us),
        lease_left=None if state.lease_left_s is None else _duration(state.lease_left_s),
        draining=state.draining,
        running=map(_running, state.running),
        followed_replies=state.followed,
        readers=state.readers,
        loop_utilisation=state.utilisation,
        overloaded=state.overloaded,
        relay=map(_relay_part, state.relay),
        breakers=map(_breaker, state.breakers),
    )


def _database(state: DatabaseState) -> admin_pb2.DatabaseStatus:
    shown = admin_pb2.DatabaseStatus(kind=state.kind, problem=state.problem, quotas=map(_quota, state.quotas))
    if (stored := state.stored) is not None:
        shown.schema_release = stored.schema_release
        shown.replicas.extend(map(_lease, stored.replicas))
        shown.running.extend(map(_running, stored.running))
    return shown


def _running(given: RunningReplies) -> admin_pb2.RunningReplies:
    first, second, third = given.older
    return admin_pb2.RunningReplies(
        model=given.model,
        replies=given.replies,
        over_10_seconds=first,
        over_1_minute=second,
        over_10_minutes=third,
        oldest_age=_duration(given.oldest_s),
    )


def _relay_part(part: RelayPart) -> admin_pb2.RelayPart:
    return admin_pb2.RelayPart(name=part.name, lost=_duration(part.lost_s) if part.lost_s else None)


def _breaker(state: BreakerState) -> admin_pb2.Breaker:
    next_probe = _duration(state.next_probe_s) if state.is_open else None
    return admin_pb2.Breaker(provider=state.provider, model=state.model, open=state.is_open, next_probe_in=next_probe)


def _lease(given: ReplicaLease) -> admin_pb2.ReplicaLease:
    return admin_pb2.ReplicaLease(
        replica_id=given.replica_id,
        version=given.version,
        start_time=time_message(given.start_time_us),
        lease_left=_duration(given.lease_left_s),
        running_replies=given.running,
    )


def _quota(spot: QuotaSpot) -> admin_pb2.QuotaUse:
    return admin_pb2.QuotaUse(tenant=spot.tenant, end_user=spot.row.end_user, quota=quota_message(state_of(spot)))


def _duration(seconds: float) -> Duration:
    shown = Duration()
    shown.FromMicroseconds(round(seconds * 1e6))
    return shown
