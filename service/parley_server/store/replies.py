"""Looks replies up, records cancel requests, and finds replies that a dead process left unfinished."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Integer, Select, Text, bindparam, case, func, select, update

from parley_server.core.model import FinishReason, Identity, Reply
from parley_server.core.store_types import CancelTarget, Replayed, Unfinished
from parley_server.errors import ReplyNotFound
from parley_server.store import request_ids
from parley_server.store.conversations import get_conversation
from parley_server.store.engine.dialect import AnyRow, Sought, listed, listed_values
from parley_server.store.ownership import owned, owner
from parley_server.store.rows import (
    MESSAGE_COLUMNS,
    REPLY_COLUMNS,
    StoredEntry,
    entries_of,
    message_of,
    plan_of,
    reply_of,
)
from parley_server.store.schema import checkpoint, message, reply, reply_active

logger = logging.getLogger("parley.store")

UNFINISHED_COLUMNS = [*REPLY_COLUMNS, reply.c.cancel_requested]

_THIS = reply.c.id == bindparam("reply_id", type_=Sought())
_WITH_MESSAGE = select(*REPLY_COLUMNS, *MESSAGE_COLUMNS).outerjoin_from(
    reply, message, message.c.reply_id == reply.c.id
)
_LOAD = _WITH_MESSAGE.where(_THIS)
_GET = _WITH_MESSAGE.where(_THIS, owned(reply))
_UNFINISHED = (
    select(*UNFINISHED_COLUMNS)
    .where(reply_active)
    .order_by(reply.c.create_time_us, reply.c.id)
    .limit(bindparam("rows", type_=Integer))
)
_UNFINISHED_ONE = _UNFINISHED.where(_THIS)
_UNFINISHED_IDS = select(reply.c.id).where(reply_active)
_COUNT_RUNNING = select(func.count()).select_from(reply).where(reply.c.tenant == bindparam("of_tenant"), reply_active)


@cache
def _checkpoints(dialect: str) -> Select[Any]:
    return (
        select(checkpoint.c.reply_id, checkpoint.c.to_sequence, checkpoint.c.entries)
        .where(checkpoint.c.reply_id.in_(listed("reply_ids", dialect)))
        .order_by(checkpoint.c.reply_id, checkpoint.c.epoch, checkpoint.c.from_sequence)
    )


def _cancel(which: ColumnElement[bool]) -> Any:
    # Reason and kind of the first request are kept together; the row is returned to later callers as well.
    first = reply.c.cancel_requested.is_(None)
    return (
        update(reply)
        .where(which, owned(reply), reply_active)
        .values(
            cancel_requested=func.coalesce(reply.c.cancel_requested, bindparam("new_kind", type_=Text)),
            cancel_reason=case((first, bindparam("new_reason", type_=Text)), else_=reply.c.cancel_reason),
        )
        .returning(*REPLY_COLUMNS)
    )


_CANCEL_REPLY = _cancel(_THIS)
_CANCEL_IN_CONVERSATION = _cancel(reply.c.conversation_id == bindparam("of_conversation", type_=Sought()))


def count_running(connection: Connection, tenant: str) -> int:
    """See `Store.count_running`."""
    return connection.execute(_COUNT_RUNNING, {"of_tenant": tenant}).scalar_one()


def load_reply(connection: Connection, reply_id: str) -> Reply | None:
    """The reply with its message, without a check of the owner; None if it does not exist."""
    return _reply(connection.execute(_LOAD, {"reply_id": reply_id}).first())


def get_reply(connection: Connection, identity: Identity, reply_id: str) -> Reply:
    """The reply with its message. Raises ReplyNotFound."""
    found = _reply(connection.execute(_GET, {"reply_id": reply_id, **owner(identity)}).first())
    if found is None:
        raise ReplyNotFound
    return found


def request_key(identity: Identity, request_id: str) -> request_ids.Key:
    """The idempotency key of a request for a reply."""
    return request_ids.Key(tenant=identity.tenant, end_user=identity.end_user, kind=request_ids.REPLY, key=request_id)


def find_request(connection: Connection, identity: Identity, request_id: str, now_us: int) -> Replayed | None:
    """The reply that the request id has started; None if the id is unknown, expired or only marked by a Cancel."""
    known = request_ids.find(connection, request_key(identity, request_id), now_us)
    if known is None:
        return None
    # The key contains tenant and end user, so the reply needs no check of its owner. An erased one is None.
    return Replayed(payload_hash=known.payload_hash, reply=load_reply(connection, known.resource_id))


def request_cancel(
    connection: Connection, identity: Identity, target: CancelTarget, *, kind: FinishReason, reason: str, now_us: int
) -> Reply | None:
    """Record a cancel request on a running reply; the first one is kept. Raises ReplyNotFound, ConversationNotFound."""
    request = {"new_kind": kind.value, "new_reason": reason, **owner(identity)}
    if target.conversation_id:
        row = connection.execute(_CANCEL_IN_CONVERSATION, request | {"of_conversation": target.conversation_id}).first()
        if row is None:  # which of the two is absent decides the error
            get_conversation(connection, identity, target.conversation_id)
            raise ReplyNotFound("no reply runs in the conversation")
        return reply_of(row)
    reply_id = target.reply_id
    if not reply_id:
        known = request_ids.mark(connection, request_key(identity, target.request_id), reason, now_us)
        if known is None:
            return None
        reply_id = known.resource_id
    row = connection.execute(_CANCEL_REPLY, request | {"reply_id": reply_id}).first()
    return get_reply(connection, identity, reply_id) if row is None else reply_of(row)


def unfinished(connection: Connection, limit: int, reply_id: str = "") -> list[Unfinished]:
    """Replies that are not terminal, oldest first, or only `reply_id`; each with the durable part of its log."""
    which = {"rows": limit} | ({"reply_id": reply_id} if reply_id else {})
    rows = connection.execute(_UNFINISHED_ONE if reply_id else _UNFINISHED, which).all()
    return unfinished_of(connection, rows)


def unfinished_of(connection: Connection, rows: Sequence[AnyRow]) -> list[Unfinished]:
    """Convert rows with `UNFINISHED_COLUMNS`, and load each reply's checkpoints of all epochs."""
    if not rows:
        return []
    stretches: dict[str, list[AnyRow]] = {row.id: [] for row in rows}
    reply_ids = {"reply_ids": listed_values(stretches)}
    for stretch in connection.execute(_checkpoints(connection.dialect.name), reply_ids):
        stretches[stretch.reply_id].append(stretch)
    return [_unfinished(row, stretches[row.id]) for row in rows]


def unfinished_ids(connection: Connection) -> list[str]:
    """The ids of all replies that are not terminal."""
    return list(connection.execute(_UNFINISHED_IDS).scalars())


def _unfinished(row: AnyRow, stretches: list[AnyRow]) -> Unfinished:
    return Unfinished(
        reply=reply_of(row),
        prompt_tokens=plan_of(row.plan).prompt_tokens,
        cancel=FinishReason(row.cancel_requested) if row.cancel_requested else None,
        entries=tuple(_readable(row.id, stretches)),
        durable_sequence=max((stretch.to_sequence for stretch in stretches), default=0),
    )


def _readable(reply_id: str, stretches: list[AnyRow]) -> Iterator[StoredEntry]:
    """The entries before the first checkpoint that this release cannot decode. The reply must be ended in any case, and
    text after a gap would be wrong."""
    for stretch in stretches:
        try:
            entries = entries_of(stretch.entries)
        except msgspec.MsgspecError as error:
            fields = {"reply_id": reply_id, "to_sequence": stretch.to_sequence, "problem": str(error)}
            logger.error("checkpoint_decode_failed", extra={"fields": fields})  # noqa: TRY400 - bad data, not a bug
            return
        yield from entries


def _reply(row: AnyRow | None) -> Reply | None:
    if row is None:
        return None
    start = len(REPLY_COLUMNS)
    return reply_of(row, None if row[start] is None else message_of(row, start))
