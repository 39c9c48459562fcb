"""Conversations and administration for blocking callers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from parley._admin import Admin, Grouping
from parley._background import Caller
from parley._conversations import Conversations
from parley.v1 import admin_pb2, conversations_pb2, resources_pb2


class SyncConversations:
    """Stores the dialogues of replies. See `Conversations`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._run = caller.run

    @property
    def _inner(self) -> Conversations:
        return self._caller.client.conversations

    def create(
        self,
        conversation: resources_pb2.Conversation | None = None,
        *,
        messages: Iterable[resources_pb2.Message] = (),
        request_id: str | None = None,
    ) -> resources_pb2.Conversation:
        """Creates a conversation. See `Conversations.create`."""
        return self._run(self._inner.create(conversation, messages=messages, request_id=request_id))

    def get(self, conversation_id: str) -> resources_pb2.Conversation:
        """Returns a conversation. See `Conversations.get`."""
        return self._run(self._inner.get(conversation_id))

    def list(
        self, *, page_size: int = 0, query: str = "", labels: Mapping[str, str] | None = None
    ) -> Iterator[resources_pb2.Conversation]:
        """Returns the matching conversations. See `Conversations.list`."""
        return self._caller.iterate(self._inner.list(page_size=page_size, query=query, labels=labels))

    def pages(
        self, *, page_size: int = 0, page_token: str = "", query: str = "", labels: Mapping[str, str] | None = None
    ) -> Iterator[conversations_pb2.ListConversationsResponse]:
        """Returns the same conversations page by page. See `Conversations.pages`."""
        pages = self._inner.pages(page_size=page_size, page_token=page_token, query=query, labels=labels)
        return self._caller.iterate(pages)

    def update(
        self, conversation: resources_pb2.Conversation, *, fields: Iterable[str] = ()
    ) -> resources_pb2.Conversation:
        """Changes fields of a conversation. See `Conversations.update`."""
        return self._run(self._inner.update(conversation, fields=fields))

    def delete(self, conversation_id: str, *, etag: str = "") -> None:
        """Deletes a conversation. See `Conversations.delete`."""
        self._run(self._inner.delete(conversation_id, etag=etag))

    def messages(
        self, conversation_id: str, *, page_size: int = 0, leaf_message_id: str = "", all_branches: bool = False
    ) -> Iterator[resources_pb2.Message]:
        """Returns the messages of a branch, newest first. See `Conversations.messages`."""
        messages = self._inner.messages(
            conversation_id, page_size=page_size, leaf_message_id=leaf_message_id, all_branches=all_branches
        )
        return self._caller.iterate(messages)

    def message_pages(
        self,
        conversation_id: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        leaf_message_id: str = "",
        all_branches: bool = False,
    ) -> Iterator[conversations_pb2.ListMessagesResponse]:
        """Returns the same messages page by page, with their replies. See `Conversations.message_pages`."""
        pages = self._inner.message_pages(
            conversation_id,
            page_size=page_size,
            page_token=page_token,
            leaf_message_id=leaf_message_id,
            all_branches=all_branches,
        )
        return self._caller.iterate(pages)

    def image(self, image_id: str) -> resources_pb2.Image:
        """Returns an image with its bytes. See `Conversations.image`."""
        return self._run(self._inner.image(image_id))


class SyncAdmin:
    """Provider keys, usage and status, for operators. See `Admin`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._run = caller.run

    @property
    def _inner(self) -> Admin:
        return self._caller.client.admin

    def set_provider_key(
        self, provider: str, api_key: str, *, tenant: str = "", verify: bool = False
    ) -> admin_pb2.ProviderKey:
        """Stores the key of a provider, encrypted. See `Admin.set_provider_key`."""
        return self._run(self._inner.set_provider_key(provider, api_key, tenant=tenant, verify=verify))

    def provider_keys(self, *, page_size: int = 0) -> Iterator[admin_pb2.ProviderKey]:
        """Returns all stored keys, each with its last characters only. See `Admin.provider_keys`."""
        return self._caller.iterate(self._inner.provider_keys(page_size=page_size))

    def delete_provider_key(self, provider: str, *, tenant: str = "") -> None:
        """Deletes the key of a provider. See `Admin.delete_provider_key`."""
        self._run(self._inner.delete_provider_key(provider, tenant=tenant))

    def usage(
        self,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        group_by: Iterable[Grouping] = (),
        tenant: str = "",
        end_user: str = "",
        model: str = "",
        page_size: int = 0,
    ) -> Iterator[admin_pb2.UsageRow]:
        """Returns sums of tokens, cost and outcomes, one row for each group. See `Admin.usage`."""
        rows = self._inner.usage(
            start_time=start_time,
            end_time=end_time,
            group_by=group_by,
            tenant=tenant,
            end_user=end_user,
            model=model,
            page_size=page_size,
        )
        return self._caller.iterate(rows)

    def status(self) -> admin_pb2.GetStatusResponse:
        """Returns the state of the replica that answers, and of all replicas. See `Admin.status`."""
        return self._run(self._inner.status())
