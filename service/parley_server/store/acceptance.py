"""The transaction that accepts a request.

A refusal leaves no rows behind, without a rollback, because on SQLite the transaction is shared with other units.
`engine.database` documents the order of its locks.
"""

from __future__ import annotations

from functools import cache

from sqlalchemy import Connection, Integer, Text, bindparam, delete, exists, literal_column, or_, select, update

from parley_server.core.model import FinishReason, Reply, State, Usage
from parley_server.core.quota_values import QuotaUse
from parley_server.core.store_types import (
    Acceptance,
    Accepted,
    AcceptOutcome,
    Busy,
    ConversationGone,
    ConversationTaken,
    Finalisation,
    HeadMoved,
    ImageGone,
    OverQuota,
    Replayed,
)
from parley_server.errors import StorageUnavailable
from parley_server.store import quotas, request_ids
from parley_server.store.conversations import find_conversation, insert_conversation
from parley_server.store.engine.dialect import Insert, Sought, insert
from parley_server.store.finalisation import finalise
from parley_server.store.images import first_missing, insert_images
from parley_server.store.messages import holds_message, insert_messages
from parley_server.store.ownership import owned, owner
from parley_server.store.replies import load_reply, request_key
from parley_server.store.rows import reply_values
from parley_server.store.schema import conversation, message, reply

CLAIM_TRIES = 5

Refusal = Busy | HeadMoved | ConversationTaken | ConversationGone | ImageGone | OverQuota
Uses = tuple[QuotaUse, ...]

_EMPTY = literal_column("''", Text)
_NAMES = {column.name: f"in_{column.name}" for column in reply.c}
_THIS = conversation.c.id == bindparam("in_conversation_id", type_=Text)
_AT_HEAD = conversation.c.head_message_id == bindparam("head", type_=Text)
_parent = bindparam("parent", type_=Text)
_BELOW_PARENT = or_(
    _parent == _EMPTY,
    exists().where(
        message.c.id == _parent,
        message.c.tenant == conversation.c.tenant,
        message.c.conversation_id == conversation.c.id,
    ),
)
_CONTINUE = (
    update(message)
    .where(
        message.c.id == bindparam("of_message", type_=Sought()),
        message.c.tenant == bindparam("of_tenant"),
        message.c.conversation_id == bindparam("of_conversation"),
        message.c.failed.is_(True),
    )
    .values(failed=False)
)
_WITHDRAW = delete(reply).where(reply.c.id == bindparam("of_reply"))
_MOVE_ON = (
    update(conversation)
    .where(conversation.c.tenant == bindparam("of_tenant"), conversation.c.id == bindparam("of_conversation"))
    .values(
        head_message_id=bindparam("new_head"),
        next_position=conversation.c.next_position + bindparam("added", type_=Integer),
        version=conversation.c.version + 1,
        update_time_us=bindparam("new_update_time_us"),
    )
    .returning(conversation.c.next_position)
)
_MOVE_ON_FROM_HEAD = _MOVE_ON.where(_AT_HEAD)


@cache
def _claim(dialect: str, *, at_head: bool) -> Insert:
    """Inserts the reply's row if the caller owns the conversation and no other reply is running in it.

    The conversation is not locked first: this statement waits for a finalisation, which itself may wait for the
    conversation. If the conversation is erased meanwhile, the foreign key fails and the whole unit is run again."""
    values = select(*[bindparam(_NAMES[column.name], type_=column.type) for column in reply.c])
    allowed = values.where(_THIS, owned(conversation), _AT_HEAD if at_head else _BELOW_PARENT)
    return insert(reply, dialect).from_select(list(_NAMES), allowed).on_conflict_do_nothing()


def accept(connection: Connection, acceptance: Acceptance) -> AcceptOutcome:
    """Write the request's rows, or none. Running the same acceptance again returns what the first run wrote."""
    asked = acceptance.reply
    key = request_key(acceptance.identity, asked.request_id or asked.id)
    made = request_ids.Made(payload_hash=acceptance.payload_hash, resource_id=asked.id, now_us=acceptance.now_us)
    claimed = request_ids.claim(connection, key, made)
    if isinstance(claimed, request_ids.Known):
        stored = load_reply(connection, claimed.resource_id)
        # The same reply id: this acceptance was committed by an earlier run whose outcome was unknown.
        if stored is not None and stored.id == asked.id:
            return Accepted(reply=stored)
        return Replayed(payload_hash=claimed.payload_hash, reply=stored)
    written = _write_new(connection, acceptance) if acceptance.new_conversation else _write(connection, acceptance)
    if not isinstance(written, tuple):
        request_ids.release(connection, key, claimed)
        return written
    request_ids.keep(connection, key, made, claimed)
    if claimed.mark is None:
        return Accepted(reply=asked, uses=written)
    # A Cancel for this request id came first: the reply ends in the same transaction.
    return Accepted(reply=_cancelled(connection, acceptance, claimed.mark))


def _hold(connection: Connection, acceptance: Acceptance) -> Uses | OverQuota:
    held = acceptance.plan.held
    if held is None:
        return ()
    uses, refusing = quotas.hold(connection, acceptance.reply.tenant, acceptance.quotas, held)
    return OverQuota(uses=tuple(refusing)) if refusing or not uses else tuple(uses)


def _undo_hold(connection: Connection, acceptance: Acceptance) -> None:
    if acceptance.plan.held is not None:
        quotas.undo_hold(connection, acceptance.reply.tenant, acceptance.plan.held)


def _write_new(connection: Connection, acceptance: Acceptance) -> Refusal | Uses:
    value = acceptance.new_conversation
    assert value is not None
    if acceptance.shown_images:
        taken = find_conversation(connection, acceptance.identity, value.id) is not None
        return ConversationTaken() if taken else ImageGone(image_id=acceptance.shown_images[0])
    added, uses = len(acceptance.messages), _hold(connection, acceptance)
    if isinstance(uses, OverQuota):
        return uses
    if not insert_conversation(connection, value, head=_new_head(acceptance), messages=added):
        _undo_hold(connection, acceptance)
        return ConversationTaken()
    if not _insert_reply(connection, acceptance, at_head=False, parent=""):
        raise AssertionError("a reply could not be written to its own new conversation")
    _insert_input(connection, acceptance, first_position=1)
    return uses


def _write(connection: Connection, acceptance: Acceptance) -> Refusal | Uses:
    asked, added = acceptance.reply, len(acceptance.messages)
    refusal = _claimed(connection, acceptance)
    if refusal is not None:
        return refusal
    uses = _hold(connection, acceptance)
    if isinstance(uses, OverQuota):
        connection.execute(_WITHDRAW, {"of_reply": asked.id})
        return uses
    move = {
        "of_tenant": asked.tenant,
        "of_conversation": asked.conversation_id,
        "new_head": _new_head(acceptance),
        "added": added,
        "new_update_time_us": acceptance.now_us,
        "head": acceptance.head,
    }
    moved = connection.execute(_MOVE_ON if acceptance.head is None else _MOVE_ON_FROM_HEAD, move).first()
    if moved is None:  # the head has moved since the claim; claim and hold are undone without a rollback
        _undo_hold(connection, acceptance)
        connection.execute(_WITHDRAW, {"of_reply": asked.id})
        return HeadMoved()
    _insert_input(connection, acceptance, first_position=moved.next_position - added)
    if acceptance.continued:
        place = {"of_tenant": asked.tenant, "of_conversation": asked.conversation_id}
        connection.execute(_CONTINUE, place | {"of_message": acceptance.continued})
    return uses


def _claimed(connection: Connection, acceptance: Acceptance) -> Refusal | None:
    """Claim the conversation, or return the reason for a refusal. Tries again if the obstacle has gone meanwhile."""
    asked, images = acceptance.reply, acceptance.shown_images
    parent = acceptance.messages[0].parent_id if acceptance.messages else asked.parent_message_id
    at_head = acceptance.head is not None
    place = {"tenant": asked.tenant, "conversation_id": asked.conversation_id}
    for _ in range(CLAIM_TRIES):
        missing = first_missing(connection, images, **place)
        if missing is None and _insert_reply(connection, acceptance, at_head=at_head, parent=parent):
            return None
        refusal = _refusal(connection, acceptance, missing, parent)
        if refusal is not None:
            return refusal
    raise StorageUnavailable("the conversation changes too often to be written to")


def _new_head(acceptance: Acceptance) -> str:
    return acceptance.messages[-1].id if acceptance.messages else acceptance.reply.parent_message_id


def _insert_reply(connection: Connection, acceptance: Acceptance, *, at_head: bool, parent: str) -> bool:
    values = {_NAMES[name]: value for name, value in reply_values(acceptance.reply, acceptance.plan).items()}
    values |= owner(acceptance.identity)
    values |= {"head": acceptance.head} if at_head else {"parent": parent}
    return connection.execute(_claim(connection.dialect.name, at_head=at_head), values).rowcount == 1


def _insert_input(connection: Connection, acceptance: Acceptance, *, first_position: int) -> None:
    asked = acceptance.reply
    place = {"tenant": asked.tenant, "end_user": asked.end_user, "conversation_id": asked.conversation_id}
    insert_messages(connection, acceptance.messages, first_position=first_position, **place)
    insert_images(connection, acceptance.images, **place)


def _refusal(connection: Connection, acceptance: Acceptance, missing: str | None, parent: str) -> Refusal | None:
    """Why the claim failed, by precedence of the reasons; None if the reason no longer holds."""
    asked = acceptance.reply
    found = find_conversation(connection, acceptance.identity, asked.conversation_id)
    if found is None:
        return ConversationGone()
    if found.active_reply_id:
        return Busy(reply_id=found.active_reply_id)
    if acceptance.head is not None and acceptance.head != found.head_message_id:
        return HeadMoved()
    if missing is not None:
        return ImageGone(image_id=missing)
    place = {"tenant": asked.tenant, "conversation_id": asked.conversation_id}
    if acceptance.head is None and parent and not holds_message(connection, parent, **place):
        return ConversationGone()
    return None


def _cancelled(connection: Connection, acceptance: Acceptance, reason: str) -> Reply:
    asked = acceptance.reply
    ended = finalise(
        connection,
        Finalisation(
            reply_id=asked.id,
            epoch=asked.epoch,
            state=State.CANCELLED,
            finish_reason=FinishReason.CANCELLED,
            usage=Usage(),
            model=asked.model,
            provider=asked.provider,
            cancel_reason=reason,
            last_sequence=1,
            end_time_us=acceptance.now_us,
            journaled=False,
        ),
    )
    assert ended is not None, "the reply was written in this transaction"
    return ended.reply
