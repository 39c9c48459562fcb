"""Converts the requests and answers of Admin.ListUsage."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from parley.v1 import admin_pb2, errors_pb2, resources_pb2

from parley_server.core.counts import INT64_MAX, clamped
from parley_server.core.usage.reports import UsageReport
from parley_server.core.usage_values import UsageGroup, UsageQuery, UsageSums
from parley_server.errors import InvalidRequest

_GROUPS = {
    admin_pb2.ListUsageRequest.GROUP_BY_DAY: UsageGroup.DAY,
    admin_pb2.ListUsageRequest.GROUP_BY_TENANT: UsageGroup.TENANT,
    admin_pb2.ListUsageRequest.GROUP_BY_END_USER: UsageGroup.END_USER,
    admin_pb2.ListUsageRequest.GROUP_BY_MODEL: UsageGroup.MODEL,
    admin_pb2.ListUsageRequest.GROUP_BY_OUTCOME: UsageGroup.OUTCOME,
}
_STATES = dict(resources_pb2.Reply.State.items())
_FINISH_REASONS = dict(resources_pb2.FinishReason.items())
_ERROR_REASONS = dict(errors_pb2.ErrorReason.items())


def usage_query(request: admin_pb2.ListUsageRequest) -> UsageQuery:
    """The question of a request. Raises `InvalidRequest`."""
    for position, group in enumerate(request.group_by):
        if group not in _GROUPS:
            raise InvalidRequest.field(f"group_by[{position}]", "is not a group of this server")
    return UsageQuery(
        start_us=_time_us(request.start_time, "start_time"),
        end_us=_time_us(request.end_time, "end_time") if request.HasField("end_time") else None,
        groups=tuple(sorted({_GROUPS[group] for group in request.group_by})),
        tenant=request.tenant,
        end_user=request.end_user,
        model=request.model,
    )


def usage_response(report: UsageReport) -> admin_pb2.ListUsageResponse:
    """The answer: a page of rows."""
    return admin_pb2.ListUsageResponse(rows=map(_row, report.rows), next_page_token=report.next_page_token)


def _time_us(time: Timestamp, path: str) -> int:
    """Microseconds since the epoch; times before it are the epoch."""
    if not 0 <= time.nanos < 1_000_000_000:
        raise InvalidRequest.field(path, "has nanoseconds that are not below one second")
    return clamped(time.seconds * 1_000_000 + time.nanos // 1000, INT64_MAX)


def _row(sums: UsageSums) -> admin_pb2.UsageRow:
    key = sums.key
    row = admin_pb2.UsageRow(
        day=key.day,
        tenant=key.tenant,
        end_user=key.end_user,
        model=key.model,
        replies=sums.replies,
        prompt_tokens=sums.prompt_tokens,
        cached_prompt_tokens=sums.cached_tokens,
        cache_write_prompt_tokens=sums.cache_write_tokens,
        completion_tokens=sums.completion_tokens,
        reasoning_tokens=sums.reasoning_tokens,
        cost_nano_usd=clamped(sums.cost_nano_usd, INT64_MAX),
        unpriced_replies=sums.unpriced,
        estimated_replies=sums.estimated,
        summaries=sums.summaries,
        mean_first_token_ms=_mean(sums.first_token_us, sums.first_token_count) / 1000,
        mean_duration_ms=_mean(sums.duration_us, sums.replies) / 1000,
        mean_text_length=_mean(sums.text_length, sums.replies),
    )
    # Names that a newer release has stored stay unspecified.
    row.state = _STATES.get(f"STATE_{key.state}", row.state)
    row.finish_reason = _FINISH_REASONS.get(f"FINISH_REASON_{key.finish_reason}", row.finish_reason)
    row.error_reason = _ERROR_REASONS.get(f"ERROR_REASON_{key.error_reason}", row.error_reason)
    return row


def _mean(total: int, count: int) -> float:
    return total / count if count else 0.0
