"""The transaction that ends a reply. The first one under the reply's current epoch wins; later ones return the winner's
result."""

from __future__ import annotations

import msgspec
from sqlalchemy import BigInteger, Connection, Integer, Text, bindparam, case, delete, insert, update

from parley_server.core.counts import holdable_usage
from parley_server.core.model import Message, Reply, ReplyError
from parley_server.core.store_types import Finalisation, Finalised
from parley_server.store.engine.dialect import held
from parley_server.store.messages import insert_messages
from parley_server.store.quotas import settle
from parley_server.store.replies import load_reply
from parley_server.store.rows import REPLY_COLUMNS, json_text, kept_text, plan_of, reply_of
from parley_server.store.schema import checkpoint, conversation, reply, reply_active, usage
from parley_server.store.usage import REPLY, usage_values

_first_token = bindparam("new_first_token_time_us", type_=BigInteger)
_END = (
    update(reply)
    .where(reply.c.id == bindparam("of_reply"), reply.c.epoch == bindparam("of_epoch"), reply_active)
    .values(
        state=bindparam("new_state"),
        finish_reason=bindparam("new_finish_reason"),
        provider_reason=bindparam("new_provider_reason"),
        error=bindparam("new_error"),
        usage=bindparam("new_usage"),
        model=bindparam("new_model"),
        provider=bindparam("new_provider"),
        cancel_reason=bindparam("new_cancel_reason"),
        last_sequence=bindparam("new_last_sequence"),
        first_token_time_us=case((_first_token > 0, _first_token), else_=reply.c.first_token_time_us),
        end_time_us=bindparam("new_end_time_us"),
    )
    .returning(*REPLY_COLUMNS)
)
_USAGE = insert(usage)
_at_parent = conversation.c.head_message_id == bindparam("of_parent", type_=Text)
_MOVE_ON = (
    update(conversation)
    .where(conversation.c.tenant == bindparam("of_tenant"), conversation.c.id == bindparam("of_conversation"))
    .values(
        head_message_id=case((_at_parent, bindparam("new_head", type_=Text)), else_=conversation.c.head_message_id),
        next_position=conversation.c.next_position + bindparam("added", type_=Integer),
        version=conversation.c.version + 1,
        update_time_us=bindparam("new_update_time_us"),
    )
    .returning(conversation.c.next_position)
)
_FORGET = delete(checkpoint).where(checkpoint.c.reply_id == bindparam("of_reply"))


def finalise(connection: Connection, finalisation: Finalisation) -> Finalised | None:
    """End the reply, or return how it has already ended; None if it was erased."""
    row = connection.execute(_END, _values(finalisation)).first()
    if row is None:
        stored = load_reply(connection, finalisation.reply_id)
        return None if stored is None else Finalised(reply=stored, won=False)
    if (held_quota := plan_of(row.plan).held) is not None:
        settle(connection, row.tenant, held_quota, finalisation.charge)
    ended = reply_of(row, _answer(row.message_id, finalisation, parent_id=row.parent_message_id))
    _add_to_conversation(connection, ended, kept_text(finalisation.kept))
    connection.execute(_USAGE, _usage_values(ended, finalisation))
    if finalisation.journaled:
        connection.execute(_FORGET, {"of_reply": ended.id})
    return Finalised(reply=ended, won=True)


def _answer(message_id: str, finalisation: Finalisation, *, parent_id: str) -> Message | None:
    if finalisation.message is None:
        return None
    return msgspec.structs.replace(
        finalisation.message,
        id=message_id,
        parent_id=parent_id,
        reply_id=finalisation.reply_id,
        create_time_us=finalisation.message.create_time_us or finalisation.end_time_us,
    )


def _add_to_conversation(connection: Connection, ended: Reply, kept: str | None) -> None:
    answer = ended.message
    parameters = {
        "of_tenant": ended.tenant,
        "of_conversation": ended.conversation_id,
        "of_parent": ended.parent_message_id,
        "new_head": answer.id if answer else ended.parent_message_id,
        "added": 1 if answer else 0,
        "new_update_time_us": ended.end_time_us,
    }
    next_position: int = connection.execute(_MOVE_ON, parameters).scalar_one()
    if answer is not None:
        insert_messages(
            connection,
            (answer,),
            tenant=ended.tenant,
            end_user=ended.end_user,
            conversation_id=ended.conversation_id,
            first_position=next_position - 1,
            kept=kept,
        )


def _values(finalisation: Finalisation) -> dict[str, object]:
    error = finalisation.error
    return {
        "of_reply": finalisation.reply_id,
        "of_epoch": finalisation.epoch,
        "new_state": finalisation.state.value,
        "new_finish_reason": finalisation.finish_reason,
        "new_provider_reason": held(finalisation.provider_reason),
        "new_error": None if error is None else _error_text(error),
        "new_usage": json_text(holdable_usage(finalisation.usage)),
        "new_model": finalisation.model,
        "new_provider": finalisation.provider,
        "new_cancel_reason": finalisation.cancel_reason,
        "new_last_sequence": finalisation.last_sequence,
        "new_first_token_time_us": finalisation.first_token_time_us,
        "new_end_time_us": finalisation.end_time_us,
    }


def _usage_values(ended: Reply, finalisation: Finalisation) -> dict[str, object]:
    return usage_values(holdable_usage(finalisation.usage)) | {
        "reply_id": ended.id,
        "tenant": ended.tenant,
        "end_user": ended.end_user,
        "model": ended.model,
        "provider": ended.provider,
        "state": ended.state.value,
        "finish_reason": ended.finish_reason,
        "error_reason": None if ended.error is None else ended.error.shown_reason.value,
        "create_time_us": ended.create_time_us,
        "first_token_time_us": ended.first_token_time_us,
        "end_time_us": ended.end_time_us,
        "text_length": finalisation.text_length,
        "kind": REPLY,
    }


def _error_text(error: ReplyError) -> str:
    """The error as JSON, without characters that the databases cannot hold."""
    metadata = {held(name): held(value) for name, value in error.metadata.items()}
    return json_text(msgspec.structs.replace(error, message=held(error.message), metadata=metadata))
