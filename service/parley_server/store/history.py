"""Reads what a prompt is built from: the conversation and the branch that new messages will follow."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, or_, select

from parley_server.core.model import Conversation, Identity, ImagePart, Message, Role, State
from parley_server.core.store_types import Position, PromptSource
from parley_server.errors import MessageNotFound, Reason
from parley_server.store.conversations import get_conversation
from parley_server.store.engine.dialect import Sought, listed, listed_values
from parley_server.store.images import load_images
from parley_server.store.messages import NO_LIMIT, branch, branch_from, find_message, holds_message
from parley_server.store.rows import MESSAGE_COLUMNS, error_of, input_ids_of, message_of
from parley_server.store.schema import message, reply

_branch = branch("branch", with_failed=False)
_PATH = (
    select(*MESSAGE_COLUMNS)
    .join_from(_branch, message, message.c.id == _branch.c.id)
    .where(or_(message.c.failed.is_(False), message.c.id == bindparam("continued", type_=Sought())))
    .order_by(_branch.c.depth.desc())
)
_REPLY_OF = select(reply.c.parent_message_id).where(
    reply.c.message_id == bindparam("message_id", type_=Sought()),
    reply.c.tenant == bindparam("of_tenant"),
    reply.c.conversation_id == bindparam("of_conversation"),
)


@cache
def _failed_below(dialect: str) -> Select[Any]:
    return select(reply.c.parent_message_id, reply.c.input_message_ids, reply.c.error).where(
        reply.c.tenant == bindparam("of_tenant"),
        reply.c.conversation_id == bindparam("of_conversation"),
        reply.c.state == State.FAILED.value,
        reply.c.parent_message_id.in_(listed("parent_ids", dialect)),
    )


def read_turn(
    connection: Connection,
    identity: Identity,
    conversation_id: str,
    position: Position,
    *,
    has_input: bool,
    whole: bool = False,
) -> PromptSource:
    """See `Store.read_turn`. Raises ConversationNotFound, MessageNotFound."""
    owner = get_conversation(connection, identity, conversation_id)
    parent_id = _parent(connection, owner, position, has_input=has_input)
    place = {"tenant": owner.tenant, "conversation_id": owner.id}
    path: tuple[Message, ...] = ()
    if parent_id:
        wanted = NO_LIMIT if whole else owner.context.max_messages or NO_LIMIT
        rows = connection.execute(_PATH, branch_from(parent_id, wanted=wanted, **place) | {"continued": position.after})
        path = tuple(msgspec.structs.replace(message_of(row), failed=False) for row in rows)
    return PromptSource(
        conversation=owner,
        parent_id=parent_id,
        path=path,
        images=load_images(connection, _shown(path), **place),
        refused=_refused(connection, _unanswered(path, has_input=has_input), **place),
    )


def _unanswered(path: tuple[Message, ...], *, has_input: bool) -> list[str]:
    """The ids of input messages that are followed by other input instead of an answer. Usually empty."""
    inputs = [each.id for each, below in pairwise(path) if Role.ASSISTANT not in (each.role, below.role)]
    if has_input and path and path[-1].role is not Role.ASSISTANT:
        inputs.append(path[-1].id)
    return inputs


def _refused(connection: Connection, parent_ids: list[str], *, tenant: str, conversation_id: str) -> dict[str, str]:
    """See `PromptSource.refused`."""
    if not parent_ids:
        return {}
    parameters = {
        "of_tenant": tenant,
        "of_conversation": conversation_id,
        "parent_ids": listed_values(parent_ids),
    }
    refused: dict[str, str] = {}
    for row in connection.execute(_failed_below(connection.dialect.name), parameters):
        error = error_of(row.error)
        if error is not None and error.shown_reason is Reason.PROVIDER_CONTEXT_TOO_LARGE:
            inputs = (*input_ids_of(row.input_message_ids), row.parent_message_id)
            refused |= dict.fromkeys(inputs, row.parent_message_id)
    return refused


def _parent(connection: Connection, owner: Conversation, position: Position, *, has_input: bool) -> str:
    place = {"tenant": owner.tenant, "conversation_id": owner.id}
    if position.after:
        if not holds_message(connection, position.after, **place):
            raise MessageNotFound
        return position.after
    if not position.replace:
        return owner.head_message_id
    named = find_message(connection, position.replace, **place)
    if named is None:
        return _parent_of_answer(connection, owner, position.replace)
    below_itself = not has_input and named.role != Role.ASSISTANT
    parent_id: str = named.id if below_itself else named.parent_id
    return parent_id


def _parent_of_answer(connection: Connection, owner: Conversation, message_id: str) -> str:
    parameters = {"message_id": message_id, "of_tenant": owner.tenant, "of_conversation": owner.id}
    parent_id: str | None = connection.execute(_REPLY_OF, parameters).scalar()
    if parent_id is None:
        raise MessageNotFound
    return parent_id


def _shown(path: tuple[Message, ...]) -> list[str]:
    return [part.image_id for each in path for part in each.parts if isinstance(part, ImagePart) and part.image_id]
