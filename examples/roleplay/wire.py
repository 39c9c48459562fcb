"""The events and the JSON of the sessions' API, and their description for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from parley import Event, Finished, ParleyError, Reconnecting, ReplyStream, Text
from parley.asgi import openapi_events
from parley.v1 import admin_pb2, resources_pb2

# Why a reply ended before the model was done, and the reason that watchers see.
_CANCELLED: Final = {
    "CANCELLED": "user_cancelled",
    "ORPHANED": "no_connections",
    "INTERRUPTED": "interrupted",
    "TIME_LIMIT": "time_limit",
}
_MAINTENANCE: Final = "The server is being restarted. The answer continues in a moment."


def events(event: Event | ParleyError) -> dict[str, Any] | None:
    """The events of a session's stream."""
    match event:
        case Text():
            return {"type": "content", "data": event.text}
        case Reconnecting() if event.attempt == 1:
            return {"type": "notice", "message": _MAINTENANCE}
        case Finished() if event.reason in _CANCELLED:
            return {"type": "cancelled", "reason": event.cancel_reason or _CANCELLED[event.reason]}
        case Finished():
            return {"type": "done"}
        case ParleyError():
            return {"type": "error", "error": event.message, "code": event.reason, "retryable": event.retryable}
    return None


def both_messages(content: str, stream: ReplyStream, end: Finished) -> dict[str, Any]:
    """The answer without streaming."""
    question = stream.accepted.input_message_ids[0] if stream.accepted else ""
    answer = {"id": stream.message_id, "role": "assistant", "content": end.text, "finish_reason": end.reason}
    return {"user_message": {"id": question, "role": "user", "content": content}, "ai_message": answer}


def cancellations(rows: list[admin_pb2.UsageRow]) -> dict[str, Any]:
    """Rates, reasons and lengths of partial texts, from usage that is grouped by outcome."""
    reasons = [_reason_row(row) for row in rows if _finish(row) in _CANCELLED]
    total, cancelled = sum(row.replies for row in rows), sum(each["replies"] for each in reasons)
    characters = sum(each["replies"] * each["mean_text_length"] for each in reasons)
    return {
        "replies": total,
        "cancelled": cancelled,
        "rate": cancelled / total if total else 0.0,
        "mean_text_length": characters / cancelled if cancelled else 0.0,
        "reasons": reasons,
    }


def _reason_row(row: admin_pb2.UsageRow) -> dict[str, Any]:
    return {"reason": _finish(row), "replies": row.replies, "mean_text_length": row.mean_text_length}


def _finish(row: admin_pb2.UsageRow) -> str:
    return resources_pb2.FinishReason.Name(row.finish_reason).removeprefix("FINISH_REASON_")


STREAM: Final = openapi_events(
    content={"data": "string"},
    notice={"message": "string"},
    done={},
    cancelled={"reason": "string"},
    error={"error": "string", "code": "string", "retryable": "boolean"},
)
