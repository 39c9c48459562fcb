"""Converts between rows and the core's values. Fields absent from a row's JSON take their defaults, so that rows of an
older release stay readable."""

from __future__ import annotations

import msgspec

from parley_server.core.counts import MOST_COST, clamped, holdable_usage
from parley_server.core.events import (
    Failed,
    Finished,
    ReasoningDelta,
    Snapshot,
    TextDelta,
    ToolCallDelta,
    UsageUpdate,
)
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    FinishReason,
    Kept,
    Message,
    Part,
    Reply,
    ReplyError,
    Role,
    State,
    Usage,
)
from parley_server.core.quota_values import Hold
from parley_server.core.store_types import ReplyPlan
from parley_server.store.engine.dialect import AnyRow
from parley_server.store.schema import message, reply

StoredEntry = TextDelta | ReasoningDelta | ToolCallDelta | UsageUpdate | Snapshot | Finished | Failed

_encoder = msgspec.json.Encoder()
_parts = msgspec.json.Decoder(tuple[Part, ...])
_strings = msgspec.json.Decoder(tuple[str, ...])
_labels = msgspec.json.Decoder(dict[str, str])
_usage = msgspec.json.Decoder(Usage)
_error = msgspec.json.Decoder(ReplyError)
_context = msgspec.json.Decoder(ContextPolicy)
_entries = msgspec.json.Decoder(tuple[StoredEntry, ...])
_plan = msgspec.json.Decoder(ReplyPlan)
_kept = msgspec.json.Decoder(Kept)

REPLY_COLUMNS = [column for column in reply.c if column is not reply.c.cancel_requested]
MESSAGE_COLUMNS = [
    message.c.id,
    message.c.role,
    message.c.parts,
    message.c.parent_id,
    message.c.reply_id,
    message.c.partial,
    message.c.failed,
    message.c.create_time_us,
]


def json_text(value: object) -> str:
    """Encode a value as JSON text; default values are left out."""
    return _encoder.encode(value).decode()


def entries_of(text: str) -> tuple[StoredEntry, ...]:
    """Decode the log entries of a checkpoint. Raises msgspec.MsgspecError for entries of a newer release."""
    return _entries.decode(text)


def context_of(text: str) -> ContextPolicy:
    """Decode the context policy of a conversation's row."""
    return _context.decode(text)


def error_of(text: str | None) -> ReplyError | None:
    """Decode the error of a reply's row; None if it has none."""
    return _error.decode(text) if text else None


def input_ids_of(text: str) -> tuple[str, ...]:
    """Decode the ids of a reply's input messages."""
    return _strings.decode(text)


def usage_of(text: str | None) -> Usage | None:
    """Decode the usage of a reply's row, within the range of the contract; None if it has none."""
    return holdable_usage(_usage.decode(text)) if text else None


def plan_of(text: str | None) -> ReplyPlan:
    """Decode the plan of a reply's row. One that cannot be decoded is empty, because no reply may depend on it."""
    if not text:
        return ReplyPlan()
    try:
        plan = _plan.decode(text)
    except msgspec.MsgspecError:
        return ReplyPlan()
    return msgspec.structs.replace(plan, prompt_tokens=clamped(plan.prompt_tokens), held=_held(plan.held))


def _held(hold: Hold | None) -> Hold | None:
    """The hold within the range that acceptances write."""
    if hold is None:
        return None
    return Hold(tokens=clamped(hold.tokens), cost=clamped(hold.cost, MOST_COST), rows=hold.rows)


def kept_text(value: Kept | None) -> str | None:
    """Encode the kept items of a message; None if there are none, or if they hold text that no row can hold."""
    try:
        return None if value is None else json_text(value)
    except UnicodeEncodeError:
        return None


def kept_of(text: str | None) -> Kept | None:
    """Decode the kept items of a message's row; None if that fails, since a prompt can do without them."""
    if not text:
        return None
    try:
        return _kept.decode(text)
    except msgspec.MsgspecError:
        return None


def reply_values(value: Reply, plan: ReplyPlan) -> dict[str, object]:
    """The columns of a reply's row. The reply's message has its own row."""
    return {
        "id": value.id,
        "tenant": value.tenant,
        "end_user": value.end_user,
        "conversation_id": value.conversation_id,
        "request_id": value.request_id,
        "message_id": value.message_id,
        "parent_message_id": value.parent_message_id,
        "input_message_ids": json_text(value.input_message_ids),
        "epoch": value.epoch,
        "state": value.state.value,
        "finish_reason": value.finish_reason,
        "provider_reason": value.provider_reason,
        "usage": None if value.usage is None else json_text(value.usage),
        "error": None if value.error is None else json_text(value.error),
        "requested_model": value.requested_model,
        "model": value.model,
        "provider": value.provider,
        "last_sequence": value.last_sequence,
        "cancel_requested": None,
        "cancel_reason": value.cancel_reason,
        "create_time_us": value.create_time_us,
        "first_token_time_us": value.first_token_time_us,
        "end_time_us": value.end_time_us,
        "labels": json_text(value.labels) if value.labels else "{}",
        "owner": value.owner,
        "plan": None if plan == ReplyPlan() else json_text(plan),
    }


def reply_of(row: AnyRow, stored_message: Message | None = None) -> Reply:
    """Convert a row that begins with `REPLY_COLUMNS`."""
    return Reply(
        id=row[0],
        tenant=row[1],
        end_user=row[2],
        conversation_id=row[3],
        request_id=row[4],
        message_id=row[5],
        parent_message_id=row[6],
        input_message_ids=input_ids_of(row[7]),
        epoch=row[8],
        state=State(row[9]),
        finish_reason=FinishReason(row[10]) if row[10] else None,
        provider_reason=row[11],
        usage=usage_of(row[12]),
        error=error_of(row[13]),
        requested_model=row[14],
        model=row[15],
        provider=row[16],
        last_sequence=row[17],
        cancel_reason=row[18],
        create_time_us=row[19],
        first_token_time_us=row[20],
        end_time_us=row[21],
        labels=_labels.decode(row[22]),
        owner=row[23],
        ignored_settings=plan_of(row[24]).ignored_settings,
        message=stored_message,
    )


def message_values(
    value: Message, tenant: str, *, end_user: str, conversation_id: str, position: int
) -> dict[str, object]:
    """The columns of a message's row."""
    parts = _encoder.encode(value.parts)
    return {
        "id": value.id,
        "tenant": tenant,
        "end_user": end_user,
        "conversation_id": conversation_id,
        "parent_id": value.parent_id,
        "position": position,
        "role": value.role.value,
        "reply_id": value.reply_id or None,
        "partial": value.partial,
        "failed": value.failed,
        "create_time_us": value.create_time_us,
        "size_bytes": len(parts),
        "parts": parts.decode(),
    }


def message_of(row: AnyRow, start: int = 0) -> Message:
    """Convert a row that has `MESSAGE_COLUMNS` at `start`."""
    id_, role, parts, parent_id, reply_id, partial, failed, create_time_us = row[start : start + len(MESSAGE_COLUMNS)]
    return Message(
        id=id_,
        role=Role(role),
        parts=_parts.decode(parts),
        parent_id=parent_id,
        reply_id=reply_id or "",
        partial=partial,
        failed=failed,
        create_time_us=create_time_us,
    )


def conversation_of(row: AnyRow) -> Conversation:
    """Convert a row with the columns of the table and `active_reply_id`."""
    return Conversation(
        id=row.id,
        tenant=row.tenant,
        end_user=row.end_user,
        title=row.title,
        system=_strings.decode(row.system),
        post_system=row.post_system,
        model=row.model,
        context=_context.decode(row.context),
        labels=_labels.decode(row.labels),
        head_message_id=row.head_message_id,
        active_reply_id=row.active_reply_id or "",
        create_time_us=row.create_time_us,
        update_time_us=row.update_time_us,
        etag=str(row.version),
    )
