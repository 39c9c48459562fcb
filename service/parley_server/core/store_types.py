"""The values that the core and the store exchange: one per query or command.

A refusal that a transaction can meet is an outcome, returned and not raised, because transactions of several callers
may share one commit.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from parley_server.core.events import Entry
from parley_server.core.model import (
    Conversation,
    FinishReason,
    Identity,
    Kept,
    Message,
    Overflow,
    Reply,
    ReplyError,
    State,
    Usage,
    Value,
)
from parley_server.core.quota_values import Charge, Hold, QuotaLimit, QuotaUse


class Position(Value, frozen=True, kw_only=True):
    """Where new messages go: after the head (both fields empty), after a message, or in place of a message."""

    after: str = ""
    replace: str = ""


class StoredImage(Value, frozen=True, kw_only=True):
    """An image with its bytes. It is stored separately from the messages that contain it."""

    id: str
    mime_type: str
    data: bytes


class Summary(Value, frozen=True, kw_only=True):
    """The text that stands in a prompt for the messages of a branch from the root to `message_id`.

    `model` is the alias of the model that wrote it."""

    tenant: str
    conversation_id: str
    message_id: str
    text: str
    model: str
    create_time_us: int


class PromptSource(Value, frozen=True, kw_only=True):
    """The stored input of a prompt.

    `path` runs from the oldest message to `parent_id`, which the new messages follow. It omits partial texts of failed
    replies (except the one that the position names). Older messages are missing where a limit of `Store.read_turn`
    ended the path, or where `summary` replaces them: then the path begins with the message `summary.message_id`.
    `positions` has the position in the conversation of each message of the path: rising, not dense.

    `stored_messages` counts the messages of all branches. `images` has every stored image of the path. `refused` has
    the messages whose reply failed because the provider refused the prompt as larger than the model's context: message
    id to the id of that request's newest input.
    `kept` has wire items by message id, only of messages after the last USER message. `last_usage` has the newest
    counted usage with a known `prompt_bytes` of recent replies of the path, by model alias."""

    conversation: Conversation
    parent_id: str = ""
    path: tuple[Message, ...] = ()
    positions: tuple[int, ...] = ()
    stored_messages: int = 0
    images: tuple[StoredImage, ...] = ()
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    kept: dict[str, Kept] = msgspec.field(default_factory=dict)
    summary: Summary | None = None
    last_usage: dict[str, Usage] = msgspec.field(default_factory=dict)


class ReplyPlan(Value, frozen=True, kw_only=True):
    """What was decided about a reply at its acceptance and is not known afterwards.

    `ignored_settings`: the request's settings that the model does not take. `prompt_tokens`: the estimate of the
    prompt, for the usage of a reply whose process has died. `held`: what it holds in quotas, which its end settles."""

    ignored_settings: tuple[str, ...] = msgspec.field(default=(), name="ignored")
    prompt_tokens: int = 0
    held: Hold | None = None


class Acceptance(Value, frozen=True, kw_only=True):
    """The content of the transaction that makes a request durable: the idempotency key, the conversation if it is new,
    the input messages, and the reply (PENDING), which becomes the active reply of the conversation.

    `head` is the expected head of the conversation; None if the caller named a position. `shown_images` are stored
    images that the input contains and that must belong to the conversation. `continued` is the message that the caller
    named to continue from (or empty); if it is the partial text of a failed reply, later prompts contain it.
    `plan.ignored_settings` equals that of the reply. `quotas` has the limits of the rows in `plan.held`.
    """

    identity: Identity
    payload_hash: str
    reply: Reply
    plan: ReplyPlan = ReplyPlan()
    new_conversation: Conversation | None = None
    head: str | None = None
    continued: str = ""
    messages: tuple[Message, ...] = ()
    images: tuple[StoredImage, ...] = ()
    shown_images: tuple[str, ...] = ()
    quotas: tuple[QuotaLimit, ...] = ()
    now_us: int


class Accepted(Value, frozen=True, kw_only=True):
    """Committed. If a Cancel by request_id came first, the reply is already CANCELLED (last_sequence 1). `uses` has the
    quotas after its hold; empty if an earlier run has committed it."""

    reply: Reply
    uses: tuple[QuotaUse, ...] = ()


class Replayed(Value, frozen=True, kw_only=True):
    """The idempotency key is known. `reply` is the reply that it started; None if that was erased."""

    payload_hash: str
    reply: Reply | None


class Busy(Value, frozen=True, kw_only=True):
    """Another reply is running in the conversation."""

    reply_id: str


class HeadMoved(Value, frozen=True, kw_only=True):
    """The head has changed since the prompt was built."""


class ConversationTaken(Value, frozen=True, kw_only=True):
    """A conversation with the requested id exists."""


class ConversationGone(Value, frozen=True, kw_only=True):
    """The conversation was erased since the prompt was built."""


class ImageGone(Value, frozen=True, kw_only=True):
    """An image of the input does not belong to the conversation."""

    image_id: str


class OverQuota(Value, frozen=True, kw_only=True):
    """The reply needs more than is left of a quota. `uses` has the rows that refuse it."""

    uses: tuple[QuotaUse, ...]


AcceptOutcome = Accepted | Replayed | Busy | HeadMoved | ConversationTaken | ConversationGone | ImageGone | OverQuota


class Checkpoint(Value, frozen=True, kw_only=True):
    """A range of a reply's log, to be made durable. The first one also changes the reply from PENDING to STREAMING, and
    stores the model that answers, so that a takeover prices it."""

    reply_id: str
    epoch: int
    model: str = ""
    provider: str = ""
    from_sequence: int
    to_sequence: int
    entries: tuple[Entry, ...]
    first_token_time_us: int


class Finalisation(Value, frozen=True, kw_only=True):
    """The end of a reply. State, message and usage commit together, only if the epoch matches and the state is active.

    `message` is None if the reply left no message. `kept` is only set for a message with a whole tool call. `charge`
    replaces what the reply holds in quotas.
    """

    reply_id: str
    epoch: int
    state: State
    finish_reason: FinishReason | None = None
    provider_reason: str = ""
    error: ReplyError | None = None
    usage: Usage
    message: Message | None = None
    kept: Kept | None = None
    model: str
    provider: str
    cancel_reason: str = ""
    last_sequence: int
    first_token_time_us: int = 0
    end_time_us: int
    text_length: int = 0
    charge: Charge = Charge()
    journaled: bool = True


class Finalised(Value, frozen=True, kw_only=True):
    """The reply as stored now. `won`: by this finalisation, not by an earlier one."""

    reply: Reply
    won: bool


class Standing(Value, frozen=True, kw_only=True):
    """The stored status of a reply: its owner and epoch, whether it has ended, and a request to cancel it."""

    reply_id: str
    owner: str
    epoch: int
    terminal: bool
    cancel: FinishReason | None = None
    cancel_reason: str = ""


class Unfinished(Value, frozen=True, kw_only=True):
    """A reply of a dead process, with the durable part of its log (entries may be merged) and a requested cancel.

    `reply` has the owner and the epoch under which it may be ended. `prompt_tokens` is the estimate of its prompt
    (0: unknown)."""

    reply: Reply
    prompt_tokens: int = 0
    cancel: FinishReason | None = None
    entries: tuple[Entry, ...] = ()
    durable_sequence: int = 0


class CancelTarget(Value, frozen=True, kw_only=True):
    """The reply to cancel. Exactly one field is set."""

    reply_id: str = ""
    request_id: str = ""
    conversation_id: str = ""


class NewConversation(Value, frozen=True, kw_only=True):
    """A conversation to create, with its first messages and images."""

    identity: Identity
    request_id: str = ""
    payload_hash: str = ""
    conversation: Conversation
    messages: tuple[Message, ...] = ()
    images: tuple[StoredImage, ...] = ()
    now_us: int


class ConversationReplayed(Value, frozen=True, kw_only=True):
    """The idempotency key is known. The conversation that it created; None if that was erased."""

    payload_hash: str
    conversation: Conversation | None


CreateOutcome = Conversation | ConversationReplayed | ConversationTaken


class ConversationFilter(Value, frozen=True, kw_only=True):
    """Selects conversations by words of the title and by labels. `before` is the last row of the previous page:
    (update_time_us, id)."""

    words: tuple[str, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    before: tuple[int, str] | None = None


class ConversationPage(Value, frozen=True, kw_only=True):
    """A page of conversations, newest activity first, without `system` and `post_system`. `more`: rows follow."""

    conversations: tuple[Conversation, ...]
    more: bool


class ConversationUpdate(Value, frozen=True, kw_only=True):
    """New values of fields; None: unchanged. An empty `etag` is not checked."""

    conversation_id: str
    etag: str = ""
    title: str | None = None
    system: tuple[str, ...] | None = None
    post_system: str | None = None
    model: str | None = None
    max_messages: int | None = None
    max_tokens: int | None = None
    overflow: Overflow | None = None
    reminder: str | None = None
    reminder_interval: int | None = None
    labels: dict[str, str] | None = None
    head_message_id: str | None = None


class MessageFilter(Value, frozen=True, kw_only=True):
    """Selects messages, newest first: the branch that ends in `leaf` (empty: the head), or with `all_branches` the
    whole tree. `cursor` is `MessagePage.next_cursor` of the previous page."""

    conversation_id: str
    leaf: str = ""
    all_branches: bool = False
    cursor: str = ""


class MessagePage(Value, frozen=True, kw_only=True):
    """A page of messages, its replies (without their messages), and the cursor (empty: the end).

    The replies wrote the messages, or ended without a message: see `ListMessagesResponse.replies` in the contract.
    """

    messages: tuple[Message, ...]
    replies: tuple[Reply, ...]
    next_cursor: str


class KeyPlace(NamedTuple):
    """Whose key it is: the provider's for a tenant, or for all tenants without their own (`tenant` is empty)."""

    provider: str
    tenant: str


class StoredKey(Value, frozen=True, kw_only=True):
    """A row with a provider's API key. `token` is the encrypted key, `hint` its last characters."""

    provider: str
    tenant: str
    token: str
    hint: str
    update_time_us: int

    @property
    def place(self) -> KeyPlace:
        """Whose key it is."""
        return KeyPlace(self.provider, self.tenant)


class ErasedConversations(Value, frozen=True, kw_only=True):
    """How many conversations a call has erased, and the ids of their replies."""

    count: int
    reply_ids: tuple[str, ...]
