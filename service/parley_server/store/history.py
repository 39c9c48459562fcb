"""Reads what a prompt is built from: the conversation and the branch that new messages will follow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, select

from parley_server.core.context.estimate import READ_BYTES_PER_TOKEN
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    Identity,
    ImagePart,
    Message,
    Overflow,
    Role,
    State,
    Usage,
)
from parley_server.core.store_types import Position, PromptSource
from parley_server.errors import MessageNotFound, Reason
from parley_server.store.conversations import read_conversation
from parley_server.store.engine.dialect import AnyRow, Sought, listed, listed_values
from parley_server.store.images import load_images
from parley_server.store.messages import NO_LIMIT, find_message, holds_message
from parley_server.store.paths import KEPT, LATEST_US, NO_BYTES_LIMIT, POSITION, USAGE_DEPTH, PathLimits, read_path
from parley_server.store.rows import error_of, input_ids_of, kept_of, message_of, usage_of
from parley_server.store.schema import reply
from parley_server.store.summaries import find_summary

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
    new_turn: bool = False,
    max_bytes: int = 0,
    whole: bool = False,
) -> PromptSource:
    """See `Store.read_turn`. Raises ConversationNotFound, MessageNotFound."""
    owner, stored_messages = read_conversation(connection, identity, conversation_id)
    parent_id = _parent(connection, owner, position, has_input=has_input)
    place = {"tenant": owner.tenant, "conversation_id": owner.id}
    limits = PathLimits() if whole else _limits(owner.context, max_bytes)
    rows: Sequence[AnyRow] = ()
    if parent_id:
        rows = read_path(connection, parent_id, **place, continued=position.after, new_turn=new_turn, limits=limits)
    path = tuple(map(_shown, rows))
    summary = None
    if path and limits.summarized:
        before_us = LATEST_US if new_turn else _turn_us(path)
        summary = find_summary(connection, path[0].id, **place, before_us=before_us)
    return PromptSource(
        conversation=owner,
        parent_id=parent_id,
        path=path,
        positions=tuple(row[POSITION] for row in rows),
        stored_messages=stored_messages,
        images=load_images(connection, _image_ids(path), **place),
        refused=_refused(connection, _unanswered(path, has_input=has_input), **place),
        kept={row.id: kept for row in rows if (kept := kept_of(row[KEPT])) is not None},
        summary=summary,
        last_usage=_last_usage(rows),
    )


def _shown(row: AnyRow) -> Message:
    """The message of a row. If it is the partial text that the caller continues from, prompts contain it."""
    found = message_of(row)
    return msgspec.structs.replace(found, failed=False) if found.failed else found


def _limits(policy: ContextPolicy, max_bytes: int) -> PathLimits:
    return PathLimits(
        messages=policy.max_messages or NO_LIMIT,
        size_bytes=min(max_bytes or NO_BYTES_LIMIT, policy.max_tokens * READ_BYTES_PER_TOKEN or NO_BYTES_LIMIT),
        summarized=policy.overflow is Overflow.SUMMARIZE,
    )


def _turn_us(path: tuple[Message, ...]) -> int:
    """The time of the newest USER message; 0 if there is none."""
    return next((each.create_time_us for each in reversed(path) if each.role is Role.USER), 0)


def _last_usage(rows: Sequence[AnyRow]) -> dict[str, Usage]:
    """See `PromptSource.last_usage`."""
    found: dict[str, Usage] = {}
    for row in rows[-USAGE_DEPTH:]:
        usage = usage_of(row.usage)
        if usage is not None and usage.prompt_bytes and not usage.estimated:
            found[row.model] = usage
    return found


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


def _image_ids(path: tuple[Message, ...]) -> list[str]:
    return [part.image_id for each in path for part in each.parts if isinstance(part, ImagePart) and part.image_id]
