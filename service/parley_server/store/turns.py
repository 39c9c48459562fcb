"""What a prompt is built from: the branch that new messages will follow."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from parley_server.core.model import Conversation, Identity, ImagePart, Message, Role
from parley_server.core.records import Position, Turn
from parley_server.errors import MessageNotFound
from parley_server.store.conversations import get_conversation
from parley_server.store.images import load_images
from parley_server.store.messages import NO_LIMIT, branch, branch_from, find_message, holds_message
from parley_server.store.rows import MESSAGE_COLUMNS, message_of
from parley_server.store.schema import message, reply
from parley_server.store.statements import Sought

_branch = branch("branch", with_failed=False)
_PATH = (
    select(*MESSAGE_COLUMNS)
    .join_from(_branch, message, message.c.id == _branch.c.id)
    .where(message.c.failed.is_(False))
    .order_by(_branch.c.depth.desc())
)
_REPLY_OF = select(reply.c.parent_message_id).where(
    reply.c.message_id == bindparam("message_id", type_=Sought()),
    reply.c.tenant == bindparam("of_tenant"),
    reply.c.conversation_id == bindparam("of_conversation"),
)


def read_turn(
    connection: Connection, identity: Identity, conversation_id: str, position: Position, *, has_input: bool
) -> Turn:
    """Raises ConversationNotFound, MessageNotFound."""
    owner = get_conversation(connection, identity, conversation_id)
    parent_id = _parent(connection, owner, position, has_input=has_input)
    place = {"tenant": owner.tenant, "conversation_id": owner.id}
    path: tuple[Message, ...] = ()
    if parent_id:
        wanted = owner.context.max_messages or NO_LIMIT
        rows = connection.execute(_PATH, branch_from(parent_id, wanted=wanted, **place))
        path = tuple(map(message_of, rows))
    images = load_images(connection, _shown(path), **place)
    return Turn(conversation=owner, parent_id=parent_id, path=path, images=images)


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
