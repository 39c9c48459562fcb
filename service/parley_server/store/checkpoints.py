"""Checkpoints: consecutive parts of running replies' logs, appended as rows."""

from __future__ import annotations

from functools import cache
from operator import itemgetter

from sqlalchemy import Connection, Integer, Text, bindparam, select, update

from parley_server.core.model import State
from parley_server.core.store_types import Checkpoint
from parley_server.store.engine.dialect import Insert, insert, json_rows
from parley_server.store.rows import json_text
from parley_server.store.schema import checkpoint, reply, reply_active, reply_pending

# The first checkpoint of a reply also marks it as STREAMING, which saves a transaction for each reply. No call waits
# for this state.
_STREAM = (
    update(reply)
    .where(
        reply.c.id == bindparam("in_reply_id", type_=Text),
        reply.c.epoch == bindparam("in_epoch", type_=Integer),
        reply_pending,
    )
    .values(
        state=State.STREAMING.value,
        first_token_time_us=bindparam("in_first_token_time_us"),
        model=bindparam("in_model"),
        provider=bindparam("in_provider"),
    )
)


@cache
def _append(dialect: str) -> Insert:
    """Appends checkpoints. After a commit of unknown outcome, a longer checkpoint replaces the shorter one.

    The replies are locked in the order of their ids. A reply that is being finalised is waited for, then skipped."""
    reply_id, epoch, first, last, entries = json_rows("rows", (Text, Integer, Integer, Integer, Text), dialect)
    # FOR NO KEY UPDATE, so that rows which refer to the reply can be inserted meanwhile. The epoch excludes the old
    # owner of a reply that was taken over.
    stretches = (
        select(reply.c.id, reply.c.epoch, first, last, reply.c.tenant, reply.c.end_user, entries)
        .where(reply.c.id == reply_id, reply.c.epoch == epoch, reply_active)
        .order_by(reply.c.id, first)
        .with_for_update(key_share=True, of=reply)
    )
    statement = insert(checkpoint, dialect).from_select([column.name for column in checkpoint.c], stretches)
    written = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[checkpoint.c.reply_id, checkpoint.c.epoch, checkpoint.c.from_sequence],
        set_={"to_sequence": written.to_sequence, "entries": written.entries},
        where=written.to_sequence > checkpoint.c.to_sequence,
    )


def append_checkpoints(connection: Connection, checkpoints: list[Checkpoint]) -> None:
    """Write checkpoints. Those whose reply is terminal, erased or has another epoch are skipped."""
    if not checkpoints:
        return
    rows = [
        (each.reply_id, each.epoch, each.from_sequence, each.to_sequence, json_text(each.entries))
        for each in checkpoints
    ]
    connection.execute(_append(connection.dialect.name), {"rows": json_text(rows)})
    started = [
        {
            "in_reply_id": each.reply_id,
            "in_epoch": each.epoch,
            "in_first_token_time_us": each.first_token_time_us,
            "in_model": each.model,
            "in_provider": each.provider,
        }
        for each in checkpoints
        if each.from_sequence == 1
    ]
    if started:  # sorted, because units lock replies in the order of their ids (see `engine/database.py`)
        connection.execute(_STREAM, sorted(started, key=itemgetter("in_reply_id")))
