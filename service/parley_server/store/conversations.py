"""Creates, reads, updates and erases a conversation."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, delete, insert, select, update

from parley_server.core.model import ContextPolicy, Conversation, Identity
from parley_server.core.store_types import (
    Busy,
    ConversationReplayed,
    ConversationTaken,
    ConversationUpdate,
    CreateOutcome,
    NewConversation,
)
from parley_server.errors import ConversationNotFound, EtagMismatch, MessageNotFound
from parley_server.store import request_ids
from parley_server.store.engine.dialect import AnyRow, Insert, Sought
from parley_server.store.engine.dialect import insert as insert_for
from parley_server.store.images import insert_images
from parley_server.store.messages import holds_message, insert_messages
from parley_server.store.ownership import owned, owner
from parley_server.store.rows import context_of, conversation_of, json_text
from parley_server.store.schema import conversation, conversation_label, reply, reply_active

_CONTEXT = ContextPolicy.__struct_fields__  # fields of the same names in `ConversationUpdate`
ACTIVE_REPLY = (
    select(reply.c.id)
    .where(reply.c.tenant == conversation.c.tenant, reply.c.conversation_id == conversation.c.id, reply_active)
    .scalar_subquery()
    .label("active_reply_id")
)

_THIS = conversation.c.id == bindparam("conversation_id", type_=Sought())
_GET = select(conversation, ACTIVE_REPLY).where(_THIS, owned(conversation))
# A change does not lock the key of the row, so that rows which refer to it can be inserted meanwhile. An erasure locks
# it, so that no row can be added below the conversation.
_LOCK_TO_CHANGE = select(conversation.c.id).where(_THIS, owned(conversation)).with_for_update(key_share=True)
_LOCK_TO_ERASE = select(conversation.c.id).where(_THIS, owned(conversation)).with_for_update()
_REPLIES = select(reply.c.id).where(
    reply.c.tenant == bindparam("of_tenant"), reply.c.conversation_id == bindparam("of_conversation")
)
_DELETE = delete(conversation).where(_THIS, conversation.c.tenant == bindparam("of_tenant"))
_UPDATE = update(conversation).where(_THIS, conversation.c.tenant == bindparam("of_tenant"))
_INSERT_LABELS = insert(conversation_label)
_DELETE_LABELS = delete(conversation_label).where(
    conversation_label.c.tenant == bindparam("of_tenant"),
    conversation_label.c.conversation_id == bindparam("of_conversation"),
)


@cache
def _insert(dialect: str) -> Insert:
    return insert_for(conversation, dialect).on_conflict_do_nothing()


def fold(text: str) -> str:
    """Normalise text for the search in titles: case and composition of accents do not matter."""
    # Twice, because folding the case of a normalised text can result in a text that is not normalised.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def insert_conversation(connection: Connection, value: Conversation, *, head: str, messages: int) -> bool:
    """Write a new conversation and reserve its first `messages` positions. Returns False if the id is taken."""
    row = {
        "tenant": value.tenant,
        "id": value.id,
        "end_user": value.end_user,
        "head_message_id": head,
        "next_position": messages + 1,
        "version": 1,
        "create_time_us": value.create_time_us,
        "update_time_us": value.update_time_us or value.create_time_us,
        "model": value.model,
        "context": json_text(value.context),
        "labels": json_text(value.labels),
        "title": value.title,
        "title_folded": fold(value.title),
        "system": json_text(value.system),
        "post_system": value.post_system,
    }
    if not connection.execute(_insert(connection.dialect.name), row).rowcount:
        return False
    _insert_labels(connection, value.tenant, conversation_id=value.id, end_user=value.end_user, labels=value.labels)
    return True


def find_conversation(connection: Connection, identity: Identity, conversation_id: str) -> Conversation | None:
    """The conversation; None if it does not exist or belongs to another owner."""
    row = _row(connection, identity, conversation_id)
    return None if row is None else conversation_of(row)


def get_conversation(connection: Connection, identity: Identity, conversation_id: str) -> Conversation:
    """The conversation. Raises ConversationNotFound."""
    found = find_conversation(connection, identity, conversation_id)
    if found is None:
        raise ConversationNotFound
    return found


def read_conversation(connection: Connection, identity: Identity, conversation_id: str) -> tuple[Conversation, int]:
    """The conversation and the number of its messages. Raises ConversationNotFound."""
    row = _row(connection, identity, conversation_id)
    if row is None:
        raise ConversationNotFound
    return conversation_of(row), row.next_position - 1


def create_conversation(connection: Connection, new: NewConversation) -> CreateOutcome:
    """Create a conversation with its first messages. Running the same creation again returns what the first run
    created."""
    if not new.request_id:
        return _create(connection, new)
    identity = new.identity
    key = request_ids.Key(
        tenant=identity.tenant, end_user=identity.end_user, kind=request_ids.CONVERSATION, key=new.request_id
    )
    made = request_ids.Made(payload_hash=new.payload_hash, resource_id=new.conversation.id, now_us=new.now_us)
    claimed = request_ids.claim(connection, key, made)
    if isinstance(claimed, request_ids.Known):
        found = find_conversation(connection, identity, claimed.resource_id)
        return ConversationReplayed(payload_hash=claimed.payload_hash, conversation=found)
    outcome = _create(connection, new)
    if isinstance(outcome, ConversationTaken):  # a refusal leaves no key, so the caller may send another id with it
        request_ids.release(connection, key, claimed)
    else:
        request_ids.keep(connection, key, made, claimed)
    return outcome


def _create(connection: Connection, new: NewConversation) -> Conversation | ConversationTaken:
    value, messages = new.conversation, new.messages
    if not value.create_time_us:
        value = msgspec.structs.replace(value, create_time_us=new.now_us)
    head = messages[-1].id if messages else ""
    if insert_conversation(connection, value, head=head, messages=len(messages)):
        place = {"tenant": value.tenant, "end_user": value.end_user, "conversation_id": value.id}
        insert_messages(connection, messages, first_position=1, **place)
        insert_images(connection, new.images, **place)
        return get_conversation(connection, new.identity, value.id)
    stored = find_conversation(connection, new.identity, value.id)
    # Unchanged since its creation at this very time: an earlier run of this creation has made it.
    if stored is not None and stored.create_time_us == value.create_time_us and stored.etag == "1":
        return stored
    return ConversationTaken()


def update_conversation(
    connection: Connection, identity: Identity, update_: ConversationUpdate, now_us: int
) -> Conversation:
    """Change the given fields. Raises ConversationNotFound, EtagMismatch, MessageNotFound (for the head), in each case
    before the first write."""
    row = _locked(connection, identity, update_.conversation_id, etag=update_.etag, lock=_LOCK_TO_CHANGE)
    place = {"tenant": row.tenant, "conversation_id": row.id}
    # All refusals come before the first write: on SQLite, other units may share the transaction, so it is not rolled
    # back.
    if update_.head_message_id and not holds_message(connection, update_.head_message_id, **place):
        raise MessageNotFound
    values = _changes(row, update_)
    if not values:
        return conversation_of(row)
    # The replicas' clocks differ, but a conversation's update time must not go back.
    values |= {"version": row.version + 1, "update_time_us": max(now_us, row.update_time_us)}
    connection.execute(_UPDATE.values(values), {"of_tenant": row.tenant, "conversation_id": row.id})
    if update_.labels is not None:
        connection.execute(_DELETE_LABELS, {"of_tenant": row.tenant, "of_conversation": row.id})
        _insert_labels(connection, **place, end_user=row.end_user, labels=update_.labels)
    return get_conversation(connection, identity, row.id)


def delete_conversation(
    connection: Connection, identity: Identity, conversation_id: str, etag: str
) -> Busy | tuple[str, ...]:
    """Erase the conversation with its rows in all tables, and return the ids of its replies; `Busy` while one runs.
    Raises ConversationNotFound, EtagMismatch."""
    row = _locked(connection, identity, conversation_id, etag=etag, lock=_LOCK_TO_ERASE)
    if row.active_reply_id:
        return Busy(reply_id=row.active_reply_id)
    place = {"of_tenant": row.tenant, "of_conversation": row.id}
    # Read before the rows are deleted. The caller removes these replies from memory, from Redis and from other
    # replicas.
    reply_ids = tuple(connection.execute(_REPLIES, place).scalars())
    connection.execute(_DELETE, {"of_tenant": row.tenant, "conversation_id": row.id})
    return reply_ids


def _row(connection: Connection, identity: Identity, conversation_id: str) -> AnyRow | None:
    return connection.execute(_GET, {"conversation_id": conversation_id, **owner(identity)}).first()


def _locked(
    connection: Connection, identity: Identity, conversation_id: str, *, etag: str, lock: Select[Any]
) -> AnyRow:
    """Lock the row, then read it in a second statement, which sees the changes that the lock has waited for."""
    locked = connection.execute(lock, {"conversation_id": conversation_id, **owner(identity)}).first()
    row = locked and _row(connection, identity, conversation_id)
    if row is None:
        raise ConversationNotFound
    if etag and etag != str(row.version):
        raise EtagMismatch("the conversation has changed since it was read")
    return row


def _changes(row: AnyRow, update_: ConversationUpdate) -> dict[str, object]:
    values: dict[str, object] = {}
    if update_.title is not None:
        values |= {"title": update_.title, "title_folded": fold(update_.title)}
    if update_.system is not None:
        values["system"] = json_text(update_.system)
    if update_.post_system is not None:
        values["post_system"] = update_.post_system
    if update_.model is not None:
        values["model"] = update_.model
    if context := {name: value for name in _CONTEXT if (value := getattr(update_, name)) is not None}:
        values["context"] = json_text(msgspec.structs.replace(context_of(row.context), **context))
    if update_.labels is not None:
        values["labels"] = json_text(update_.labels)
    if update_.head_message_id is not None:
        values["head_message_id"] = update_.head_message_id
    return values


def _insert_labels(
    connection: Connection, tenant: str, *, conversation_id: str, end_user: str, labels: dict[str, str]
) -> None:
    if labels:
        place = {"tenant": tenant, "conversation_id": conversation_id, "end_user": end_user}
        connection.execute(_INSERT_LABELS, [place | {"name": name, "value": labels[name]} for name in labels])
