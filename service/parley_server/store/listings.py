"""Pages of conversations and of messages. A page starts at a key, so that rows written meanwhile do not shift it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    bindparam,
    exists,
    literal_column,
    not_,
    select,
    tuple_,
)

from parley_server.core.events import utf8_size
from parley_server.core.model import Identity, Message, Reply, Role, Value
from parley_server.core.store_types import ConversationFilter, ConversationPage, MessageFilter, MessagePage
from parley_server.errors import MessageNotFound
from parley_server.store.conversations import ACTIVE_REPLY, fold, get_conversation
from parley_server.store.engine.dialect import AnyRow, holdable, listed, listed_values
from parley_server.store.messages import NO_LIMIT, branch, branch_from, load_messages
from parley_server.store.pages import fill
from parley_server.store.rows import REPLY_COLUMNS, conversation_of, reply_of
from parley_server.store.schema import conversation, conversation_label, message, reply, reply_active

# SQLite fails on LIKE patterns of over 50,000 bytes with an error that looks like a corrupt database. Escaping can
# double a word's length.
LONGEST_WORD_BYTES = 10_000

LATEST_US = 2**62

_CONVERSATION = [column for column in conversation.c if column.name not in {"system", "post_system", "title_folded"}]
# A list leaves out the long texts. Constants take their place, so that `conversation_of` can read both kinds of rows.
_BRIEF = select(
    *_CONVERSATION,
    literal_column("'[]'", Text).label("system"),
    literal_column("''", Text).label("post_system"),
    ACTIVE_REPLY,
).order_by(conversation.c.update_time_us.desc(), conversation.c.id.desc())

_branch = branch("branch")
_BRANCH = select(_branch.c.id, _branch.c.size_bytes).order_by(_branch.c.depth)
_TREE = (
    select(message.c.id, message.c.size_bytes, message.c.position)
    .where(
        message.c.tenant == bindparam("of_tenant"),
        message.c.conversation_id == bindparam("of_conversation"),
        message.c.position <= bindparam("from_position", type_=Integer),
    )
    .order_by(message.c.position.desc())
    .limit(bindparam("rows", type_=Integer))
)


@cache
def _replies_of(dialect: str) -> Select[Any]:
    return select(*REPLY_COLUMNS).where(reply.c.id.in_(listed("reply_ids", dialect)))


@cache
def _unanswered(dialect: str) -> Select[Any]:
    """Selects replies that follow these messages and ended without a message of their own, newest first."""
    return (
        select(reply.c.id, reply.c.parent_message_id, reply.c.create_time_us)
        .where(
            reply.c.tenant == bindparam("of_tenant"),
            reply.c.conversation_id == bindparam("of_conversation"),
            reply.c.parent_message_id.in_(listed("parent_ids", dialect)),
            not_(reply_active),
            ~exists().where(message.c.id == reply.c.message_id),
        )
        .order_by(reply.c.create_time_us.desc(), reply.c.id.desc())
    )


def list_conversations(
    connection: Connection, identity: Identity, which: ConversationFilter, limit: int
) -> ConversationPage:
    """A page of conversations, ordered by (update_time_us, id), newest first."""
    nothing = ConversationPage(conversations=(), more=False)
    if not _answerable(identity, which):
        return nothing
    words = [fold(word) for word in which.words]
    if any(utf8_size(word) > LONGEST_WORD_BYTES for word in words):
        return nothing
    # The additional row shows whether there is another page.
    query = _matching(identity, which, words).limit(limit + 1)
    rows, following = fill(connection.execute(query), limit, size_bytes=_conversation_bytes)
    return ConversationPage(conversations=tuple(map(conversation_of, rows)), more=following is not None)


def _matching(identity: Identity, which: ConversationFilter, words: list[str]) -> Select[Any]:
    query = _BRIEF.where(conversation.c.tenant == identity.tenant)
    if identity.end_user:
        query = query.where(conversation.c.end_user == identity.end_user)
    for word in words:
        query = query.where(conversation.c.title_folded.contains(word, autoescape=True))
    for name in sorted(which.labels):
        query = query.where(_labelled(name, which.labels[name]))
    if which.before is not None:
        update_time_us, conversation_id = which.before
        newest = (conversation.c.update_time_us, conversation.c.id)
        query = query.where(tuple_(*newest) < tuple_(update_time_us, conversation_id))
    return query


def _answerable(identity: Identity, which: ConversationFilter) -> bool:
    """Whether any row can match. A caller may send texts and numbers that no row can hold and the driver refuses."""
    texts = [identity.tenant, identity.end_user, *which.words, *which.labels, *which.labels.values()]
    if which.before is not None:
        texts.append(which.before[1])
        if abs(which.before[0]) > LATEST_US:
            return False
    return all(map(holdable, texts))


def _labelled(name: str, value: str) -> ColumnElement[bool]:
    return exists().where(
        conversation_label.c.tenant == conversation.c.tenant,
        conversation_label.c.conversation_id == conversation.c.id,
        conversation_label.c.name == name,
        conversation_label.c.value == value,
    )


def _conversation_bytes(row: AnyRow) -> int:
    # 256 stands for the ids, times and names of fields in the message.
    return utf8_size(row.title) + utf8_size(row.labels) + utf8_size(row.context) + 256


def list_messages(connection: Connection, identity: Identity, which: MessageFilter, limit: int) -> MessagePage:
    """A page of messages, newest first. The cursor is the next message's id, or with `all_branches` its position.

    Raises ConversationNotFound, MessageNotFound."""
    owner = get_conversation(connection, identity, which.conversation_id)
    place = {"tenant": owner.tenant, "conversation_id": owner.id}
    if which.all_branches:
        rows, following = _tree(connection, which.cursor, limit, **place)
        cursor = "" if following is None else str(following.position)
    else:
        leaf = which.cursor or which.leaf
        rows, following = _up(connection, leaf or owner.head_message_id, limit, **place)
        if leaf and not rows:  # no message of this conversation; without a leaf, the conversation is empty
            raise MessageNotFound
        cursor = "" if following is None else following.id
    messages = load_messages(connection, [row.id for row in rows])
    if which.all_branches:
        places = _places_of_tree(messages)
    else:
        places = _places_of_branch(messages, None if which.cursor else which.leaf or owner.head_message_id)
    return MessagePage(messages=messages, replies=_replies(connection, list(places), **place), next_cursor=cursor)


def _up(connection: Connection, leaf: str, limit: int, **place: str) -> tuple[list[AnyRow], AnyRow | None]:
    if not leaf:
        return [], None
    found = connection.execute(_BRANCH, branch_from(leaf, wanted=limit + 1, **place))
    return fill(found, limit, size_bytes=_message_bytes)


def _tree(
    connection: Connection, cursor: str, limit: int, *, tenant: str, conversation_id: str
) -> tuple[list[AnyRow], AnyRow | None]:
    # A cursor comes from a caller. A number beyond the range of the column would make the driver raise an error.
    if cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < len(str(NO_LIMIT))):
        raise MessageNotFound
    parameters = {
        "of_tenant": tenant,
        "of_conversation": conversation_id,
        "from_position": int(cursor) if cursor else NO_LIMIT,
        "rows": limit + 1,
    }
    return fill(connection.execute(_TREE, parameters), limit, size_bytes=_message_bytes)


def _message_bytes(row: AnyRow) -> int:
    size_bytes: int = row.size_bytes
    return size_bytes + 256


class _Gap(Value, frozen=True):
    """A place for replies that ended without a message: children of `parent_id` (empty: the root), accepted before
    `before_us`."""

    parent_id: str
    before_us: int = LATEST_US


def _places_of_branch(messages: Iterable[Message], leaf: str | None) -> Iterator[str | _Gap]:
    """For each message, newest first, the id of the reply that wrote it, or a gap. `leaf` is None on later pages.

    There is a gap after the leaf and before each message that is not an answer. There is none before an answer, since a
    reply that failed there belongs to another branch.
    """
    if leaf is not None:
        yield _Gap(leaf)
    for each in messages:
        if each.reply_id:
            yield each.reply_id
        elif each.role is not Role.ASSISTANT:
            yield _Gap(each.parent_id, each.create_time_us)


def _places_of_tree(messages: Iterable[Message]) -> Iterator[str | _Gap]:
    for each in messages:
        yield _Gap(each.id)
        if each.reply_id:
            yield each.reply_id


def _replies(
    connection: Connection, places: list[str | _Gap], *, tenant: str, conversation_id: str
) -> tuple[Reply, ...]:
    """The replies at these places, in order; the newest one of each gap."""
    dialect = connection.dialect.name
    parent_ids = [each.parent_id for each in places if isinstance(each, _Gap)]
    ended: list[AnyRow] = []
    if parent_ids:
        where = {"of_tenant": tenant, "of_conversation": conversation_id, "parent_ids": listed_values(parent_ids)}
        ended = list(connection.execute(_unanswered(dialect), where))
    reply_ids = [_in_gap(each, ended) if isinstance(each, _Gap) else each for each in places]
    wanted = [reply_id for reply_id in reply_ids if reply_id]
    if not wanted:
        return ()
    rows = connection.execute(_replies_of(dialect), {"reply_ids": listed_values(wanted)})
    found = {row.id: reply_of(row) for row in rows}
    return tuple(found[reply_id] for reply_id in wanted if reply_id in found)


def _in_gap(gap: _Gap, ended: list[AnyRow]) -> str:
    below = (row.id for row in ended if row.parent_message_id == gap.parent_id and row.create_time_us < gap.before_us)
    return next(below, "")
