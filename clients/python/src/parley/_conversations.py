"""Calls of the Conversations service. They return messages of `parley.v1` and raise a `ParleyError`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping

from google.protobuf.field_mask_pb2 import FieldMask

from parley._connection import Connection
from parley.v1 import conversations_pb2, resources_pb2


class Conversations:
    """Stores the dialogues of replies. A caller that acts for an end user sees only that user's conversations; others
    are NOT_FOUND. A page has at most 1 MiB, and may have fewer items than `page_size`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(
        self,
        conversation: resources_pb2.Conversation | None = None,
        *,
        messages: Iterable[resources_pb2.Message] = (),
        request_id: str | None = None,
    ) -> resources_pb2.Conversation:
        """Creates a conversation, optionally with messages and a chosen id. A repeated `request_id` returns the
        existing one.
        """
        request = conversations_pb2.CreateConversationRequest(
            conversation=conversation, messages=messages, request_id=request_id or str(uuid.uuid4())
        )
        return await self._connection.call(self._connection.conversations.CreateConversation, request)

    async def get(self, conversation_id: str) -> resources_pb2.Conversation:
        """Returns a conversation; its `active_reply_id` names the running reply, which can be resumed."""
        request = conversations_pb2.GetConversationRequest(conversation_id=conversation_id)
        return await self._connection.call(self._connection.conversations.GetConversation, request)

    async def list(
        self, *, page_size: int = 0, query: str = "", labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[resources_pb2.Conversation]:
        """Returns the matching conversations, newest activity first, without `system` and `post_system`."""
        async for page in self.pages(page_size=page_size, query=query, labels=labels):
            for item in page.conversations:
                yield item

    async def pages(
        self, *, page_size: int = 0, page_token: str = "", query: str = "", labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[conversations_pb2.ListConversationsResponse]:
        """Returns the same conversations page by page, from the page of `page_token`."""
        request = conversations_pb2.ListConversationsRequest(
            page_size=page_size, page_token=page_token, query=query, labels=labels
        )
        while True:
            page = await self._connection.call(self._connection.conversations.ListConversations, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def update(
        self, conversation: resources_pb2.Conversation, *, fields: Iterable[str] = ()
    ) -> resources_pb2.Conversation:
        """Changes the named fields of a conversation, or those that are set. Its `etag`, if set, must be current. Not
        safe to retry after a cut: a retry may overwrite later changes of another caller.
        """
        request = conversations_pb2.UpdateConversationRequest(
            conversation=conversation, update_mask=FieldMask(paths=fields)
        )
        return await self._connection.call(self._connection.conversations.UpdateConversation, request, repeatable=False)

    async def delete(self, conversation_id: str, *, etag: str = "") -> None:
        """Deletes a conversation with its messages, images and replies; a running reply is cancelled first. Its `etag`,
        if set, must be current. Usage and cost remain counted.
        """
        request = conversations_pb2.DeleteConversationRequest(conversation_id=conversation_id, etag=etag)
        await self._connection.call(self._connection.conversations.DeleteConversation, request)

    async def messages(
        self, conversation_id: str, *, page_size: int = 0, leaf_message_id: str = "", all_branches: bool = False
    ) -> AsyncIterator[resources_pb2.Message]:
        """Returns the messages of a branch, newest first; by default of the branch that is shown."""
        pages = self.message_pages(
            conversation_id, page_size=page_size, leaf_message_id=leaf_message_id, all_branches=all_branches
        )
        async for page in pages:
            for message in page.messages:
                yield message

    async def message_pages(
        self,
        conversation_id: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        leaf_message_id: str = "",
        all_branches: bool = False,
    ) -> AsyncIterator[conversations_pb2.ListMessagesResponse]:
        """Returns the same messages page by page, from the page of `page_token`, with their replies."""
        request = conversations_pb2.ListMessagesRequest(
            conversation_id=conversation_id,
            page_size=page_size,
            page_token=page_token,
            leaf_message_id=leaf_message_id,
            all_branches=all_branches,
        )
        while True:
            page = await self._connection.call(self._connection.conversations.ListMessages, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def image(self, image_id: str) -> resources_pb2.Image:
        """Returns an image of one of the caller's conversations, with its bytes."""
        request = conversations_pb2.GetImageRequest(image_id=image_id)
        return await self._connection.call(self._connection.conversations.GetImage, request)
