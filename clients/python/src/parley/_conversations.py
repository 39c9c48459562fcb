"""Calls on conversations. They return the messages of `parley.v1`, and raise ParleyErrors."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping

from google.protobuf.field_mask_pb2 import FieldMask

from parley._connection import Connection
from parley.v1 import conversations_pb2, resources_pb2


class Conversations:
    """The caller's conversations: those of its end user, or of the whole tenant where it names none."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = connection.conversations

    async def create(
        self,
        conversation: resources_pb2.Conversation | None = None,
        *,
        messages: Iterable[resources_pb2.Message] = (),
        request_id: str | None = None,
    ) -> resources_pb2.Conversation:
        """Creates a conversation that begins with `messages`, oldest first; a repeated `request_id` returns it."""
        request = conversations_pb2.CreateConversationRequest(
            conversation=conversation, messages=messages, request_id=request_id or str(uuid.uuid4())
        )
        return await self._connection.call(self._stub.CreateConversation, request)

    async def get(self, conversation_id: str) -> resources_pb2.Conversation:
        """The conversation; its `active_reply_id` is a reply to resume."""
        request = conversations_pb2.GetConversationRequest(conversation_id=conversation_id)
        return await self._connection.call(self._stub.GetConversation, request)

    async def list(
        self, *, query: str = "", labels: Mapping[str, str] | None = None, page_size: int = 0
    ) -> AsyncIterator[resources_pb2.Conversation]:
        """All conversations whose title contains the words and whose labels match, newest activity first."""
        request = conversations_pb2.ListConversationsRequest(query=query, labels=labels, page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListConversations, request)
            for conversation in page.conversations:
                yield conversation
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def update(
        self, conversation: resources_pb2.Conversation, *, fields: Iterable[str] = ()
    ) -> resources_pb2.Conversation:
        """Changes the named `fields`, or those that are set. Its `etag`, where set, must be the newest.

        It is not repeated after a cut, since it may overwrite what another caller has written meanwhile.
        """
        request = conversations_pb2.UpdateConversationRequest(
            conversation=conversation, update_mask=FieldMask(paths=fields)
        )
        return await self._connection.call(self._stub.UpdateConversation, request, repeatable=False)

    async def delete(self, conversation_id: str, *, etag: str = "") -> None:
        """Erases the conversation with all that is in it; a running reply is cancelled first."""
        request = conversations_pb2.DeleteConversationRequest(conversation_id=conversation_id, etag=etag)
        await self._connection.call(self._stub.DeleteConversation, request)

    async def messages(
        self, conversation_id: str, *, leaf_message_id: str = "", all_branches: bool = False, page_size: int = 0
    ) -> AsyncIterator[resources_pb2.Message]:
        """The messages of a branch, by default of the one that is shown, newest first."""
        request = conversations_pb2.ListMessagesRequest(
            conversation_id=conversation_id,
            leaf_message_id=leaf_message_id,
            all_branches=all_branches,
            page_size=page_size,
        )
        while True:
            page = await self._connection.call(self._stub.ListMessages, request)
            for message in page.messages:
                yield message
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def image(self, image_id: str) -> resources_pb2.Image:
        """An image with its bytes."""
        return await self._connection.call(self._stub.GetImage, conversations_pb2.GetImageRequest(image_id=image_id))
