"""Operations on conversations. Page tokens are opaque to callers, and valid only for the query that returned them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from parley_server.core.access import Tenants
from parley_server.core.context.groups import unknown_results
from parley_server.core.field_checks import (
    MAX_ETAG,
    MAX_MODEL,
    MAX_QUERY,
    MAX_TITLE,
    check_key,
    check_labels,
    check_name,
    check_texts,
)
from parley_server.core.limits import Limits
from parley_server.core.message_checks import check_messages, refuse_unknown
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    FinishReason,
    Identity,
    ImagePart,
    Message,
    Reply,
    Value,
)
from parley_server.core.observer import Observer
from parley_server.core.page_tokens import cursor_of, page_token_of
from parley_server.core.ports import Catalog, Clock, Store
from parley_server.core.replies.cancel import CancelRequests
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.log import Reader
from parley_server.core.replies.plan import new_conversation, store_messages
from parley_server.core.requests import payload_hash
from parley_server.core.store_types import (
    Busy,
    CancelTarget,
    ConversationFilter,
    ConversationReplayed,
    ConversationUpdate,
    MessageFilter,
    NewConversation,
)
from parley_server.core.tenant_catalog import catalog_for
from parley_server.core.validation import check_context, check_conversation, check_system
from parley_server.errors import (
    ConversationExists,
    ConversationNotFound,
    InvalidRequest,
    ReplyInProgress,
    ReplyNotFound,
    RequestIdReused,
)

DEFAULT_PAGE = 50
MAX_PAGE = 200
MAX_DELETE_TRIES = 5


class Creation(Value, frozen=True, kw_only=True):
    """The payload of a creation. Two creations with the same `request_id` must have equal payloads."""

    conversation: Conversation
    messages: tuple[Message, ...] = ()


class Page(Value, frozen=True, kw_only=True):
    """A page of conversations, newest activity first. The token is empty on the last page."""

    conversations: tuple[Conversation, ...]
    next_page_token: str


class Messages(Value, frozen=True, kw_only=True):
    """A page of messages, newest first, with replies as in `MessagePage`. The token is empty on the last page."""

    messages: tuple[Message, ...]
    replies: tuple[Reply, ...]
    next_page_token: str


class Conversations:
    """Creates, reads, lists, updates and deletes conversations of the caller. `on_erased` receives the ids of erased
    replies."""

    def __init__(
        self,
        *,
        store: Store,
        catalog: Catalog,
        tenants: Tenants,
        clock: Clock,
        limits: Limits,
        live_replies: LiveReplies,
        cancel_requests: CancelRequests,
        observer: Observer,
        on_erased: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._tenants = tenants
        self._clock = clock
        self._limits = limits
        self._live_replies = live_replies
        self._cancel_requests = cancel_requests
        self._observer = observer
        self._on_erased = on_erased

    async def create(self, identity: Identity, creation: Creation, request_id: str) -> Conversation:
        """Create a conversation with its first messages. The same `request_id` returns the same conversation."""
        limits, now_us = self._limits, self._clock.now_us()
        check_key("request_id", request_id)
        check_key("x-end-user", identity.end_user)
        check_conversation(creation.conversation, "conversation", limits)
        messages = check_messages("messages", creation.messages, limits)
        refuse_unknown("messages", unknown_results((), messages))
        if any(isinstance(part, ImagePart) and part.image_id for message in messages for part in message.parts):
            raise InvalidRequest.field("messages", "a new conversation holds no images to name by image_id")
        conversation = new_conversation(creation.conversation, identity, now_us)
        self._check_model(identity, conversation.model)
        stored, _, images = store_messages(messages, "", now_us)
        digest = payload_hash(creation)
        new = NewConversation(
            identity=identity,
            request_id=request_id,
            payload_hash=digest,
            conversation=conversation,
            messages=stored,
            images=images,
            now_us=now_us,
        )
        outcome = await self._store.create_conversation(new)
        if isinstance(outcome, Conversation):
            return outcome
        if not isinstance(outcome, ConversationReplayed):
            raise ConversationExists("a conversation of this id exists already")
        if outcome.payload_hash != digest:
            raise RequestIdReused("this request_id came before, with another payload")
        if outcome.conversation is None:
            raise ConversationNotFound
        return outcome.conversation

    async def get(self, identity: Identity, conversation_id: str) -> Conversation:
        """Raises `ConversationNotFound`."""
        return await self._store.get_conversation(identity, conversation_id)

    async def list(
        self, identity: Identity, *, query: str, labels: dict[str, str], page_size: int, page_token: str
    ) -> Page:
        """List conversations whose title contains every word of `query` and whose labels match."""
        check_labels("labels", labels)
        check_name("query", query, MAX_QUERY)
        which = ConversationFilter(words=tuple(query.split()), labels=labels)
        before = cursor_of(page_token, which, tuple[int, str])
        asked = msgspec.structs.replace(which, before=before)
        page = await self._store.list_conversations(identity, asked, _page_size(page_size))
        last = page.conversations[-1] if page.more else None
        token = page_token_of((last.update_time_us, last.id), which) if last else ""
        return Page(conversations=page.conversations, next_page_token=token)

    async def update(self, identity: Identity, update: ConversationUpdate) -> Conversation:
        """Change the fields that are set. Raises `ConversationNotFound`, `EtagMismatch`, `MessageNotFound` (head)."""
        limits = self._limits
        check_name("conversation.etag", update.etag, MAX_ETAG)
        check_name("conversation.title", update.title or "", MAX_TITLE)
        check_name("conversation.model", update.model or "", MAX_MODEL)
        check_system("conversation.system", update.system or (), limits)
        check_texts("conversation.post_system", (update.post_system or "",), limits)
        check_labels("conversation.labels", update.labels or {})
        context = ContextPolicy(
            max_messages=update.max_messages or 0,
            max_tokens=update.max_tokens or 0,
            reminder=update.reminder or "",
            reminder_interval=update.reminder_interval or 0,
        )
        check_context("conversation.context", context)
        self._check_model(identity, update.model or "")
        return await self._store.update_conversation(identity, update, self._clock.now_us())

    async def delete(self, identity: Identity, conversation_id: str, etag: str) -> None:
        """Cancel the running reply, then erase the conversation and everything that belongs to it."""
        check_name("etag", etag, MAX_ETAG)
        for _ in range(MAX_DELETE_TRIES):
            outcome = await self._store.delete_conversation(identity, conversation_id, etag)
            if not isinstance(outcome, Busy):
                self.erased(outcome)
                self._observer.conversations_erased("call", 1)
                return
            etag = ""  # it matched the first time; the end of the reply changes it
            await self._cancel(identity, outcome.reply_id)
        raise ReplyInProgress("new replies keep starting in this conversation", retry_after_s=1.0)

    def erased(self, reply_ids: tuple[str, ...]) -> None:
        """Drop replies, whose conversations were erased, from memory and from other replicas."""
        self._live_replies.erase(reply_ids)
        if self._on_erased is not None:
            self._on_erased(reply_ids)

    async def messages(self, identity: Identity, which: MessageFilter, page_size: int, page_token: str) -> Messages:
        """List the branch that ends in a leaf, or the whole tree. Raises `ConversationNotFound`, `MessageNotFound`."""
        cursor = cursor_of(page_token, which, str)
        asked = msgspec.structs.replace(which, cursor=cursor or "")
        page = await self._store.list_messages(identity, asked, _page_size(page_size))
        token = page_token_of(page.next_cursor, which) if page.next_cursor else ""
        return Messages(messages=page.messages, replies=page.replies, next_page_token=token)

    async def image(self, identity: Identity, image_id: str) -> ImagePart:
        """The image with its bytes. Raises `ImageNotFound`."""
        return await self._store.get_image(identity, image_id)

    async def _cancel(self, identity: Identity, reply_id: str) -> None:
        target, reason = CancelTarget(reply_id=reply_id), "conversation deleted"
        try:
            asked = await self._cancel_requests.store(identity, target, FinishReason.CANCELLED, reason)
        except ReplyNotFound:
            return
        if asked is not None and asked[1] is not None:
            await Reader(asked[1], 0).until_ended()

    def _check_model(self, identity: Identity, alias: str) -> None:
        if alias:
            catalog_for(self._catalog, self._tenants.policy(identity.tenant)).model(alias)


def _page_size(asked: int) -> int:
    if asked < 0:
        raise InvalidRequest.field("page_size", "must not be negative")
    return min(asked or DEFAULT_PAGE, MAX_PAGE)
