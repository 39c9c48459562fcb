"""Creates conversations on their first use, and stops their replies."""

from __future__ import annotations

from typing import Any, Literal

from starlette.exceptions import HTTPException

from parley._client import Client
from parley.errors import AlreadyExists, ReplyNotFound
from parley.v1 import resources_pb2

_TITLE_LENGTH = 60


async def ensure_conversation(client: Client, conversation_id: str, **fields: Any) -> None:
    """Creates the conversation if it does not exist yet. `fields` are those of a `Conversation`, such as `title`,
    `system` and `model`; an existing conversation keeps its own.

    It also returns if another user has this id: the next call in that conversation is then NOT_FOUND.
    """
    conversation = resources_pb2.Conversation(id=conversation_id, **fields)
    try:
        await client.conversations.create(conversation, request_id=f"conversation:{conversation_id}")
    except AlreadyExists:
        # RequestIdReused: the first request had another title, or came before the product's settings changed.
        return


async def stop_reply(client: Client, **target: str) -> Literal["cancelled", "already_finished"]:
    """Cancels the reply of a `conversation_id`, `reply_id` or `request_id`. Raises HTTPException 409 if none runs."""
    try:
        reply = await client.cancel(reason="user_cancelled", **target)
    except ReplyNotFound:
        raise HTTPException(409, "No answer is being written.") from None
    return "cancelled" if reply.state == resources_pb2.Reply.STATE_CANCELLED else "already_finished"


def title_of(question: str) -> str:
    """Returns a title for a conversation that begins with this question: its first 60 characters, on one line."""
    line = " ".join(question.split())
    return "".join(character for character in line if character.isprintable())[:_TITLE_LENGTH]
