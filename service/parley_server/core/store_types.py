"""What the core and the store hand each other: whole values, one per question or command.

A refusal that a transaction can meet is an outcome, returned and not raised, because transactions of several callers
may share one commit.
"""

from __future__ import annotations

import msgspec

from parley_server.core.model import (
    Conversation,
    FinishReason,
    Identity,
    Message,
    Reply,
    ReplyError,
    State,
    Usage,
    Value,
)
from parley_server.core.replies.events import Entry


class Position(Value, frozen=True, kw_only=True):
    """Where new messages go: after the head (both empty), after a message, or in the place of one."""

    after: str = ""
    replace: str = ""


class StoredImage(Value, frozen=True, kw_only=True):
    """An image with its bytes, kept apart from the message that shows it."""

    id: str
    mime_type: str
    data: bytes


class PromptSource(Value, frozen=True, kw_only=True):
    """What a prompt is built from. `path` runs from the oldest message to `parent_id`, which the new messages follow;
    it leaves out partial texts of failed replies, but for the one that the position names, and holds at most
    `context.max_messages` where that is set. `images` holds every stored image that the path shows. `refused` has those
    messages that were input of a reply which the provider refused as larger than its model's context: by their ids, the
    id of the newest input of that request."""

    conversation: Conversation
    parent_id: str = ""
    path: tuple[Message, ...] = ()
    images: tuple[StoredImage, ...] = ()
    refused: dict[str, str] = msgspec.field(default_factory=dict)


class Acceptance(Value, frozen=True, kw_only=True):
    """The one transaction that makes a request durable: the idempotency key, the conversation where it is new, the
    input messages, the reply (PENDING) with its claim on the conversation.

    `head` is what the conversation's head must still be; None where the caller named a position. `shown_images` are
    stored images that the input shows and that the conversation must hold. `continued` is the message that the caller
    writes on from (empty: none was named): the partial text of a failed reply is part of later prompts from then on.
    """

    identity: Identity
    payload_hash: str
    reply: Reply
    new_conversation: Conversation | None = None
    head: str | None = None
    continued: str = ""
    messages: tuple[Message, ...] = ()
    images: tuple[StoredImage, ...] = ()
    shown_images: tuple[str, ...] = ()
    now_us: int


class Accepted(Value, frozen=True, kw_only=True):
    """Committed. The reply is CANCELLED already (last_sequence 1) where a Cancel by request_id came before it."""

    reply: Reply


class Replayed(Value, frozen=True, kw_only=True):
    """The idempotency key is known: `reply` is what it started, None where that has been erased."""

    payload_hash: str
    reply: Reply | None


class Busy(Value, frozen=True, kw_only=True):
    """Another reply runs in the conversation."""

    reply_id: str


class HeadMoved(Value, frozen=True, kw_only=True):
    """The head is no longer the one the prompt was built from."""


class ConversationTaken(Value, frozen=True, kw_only=True):
    """The chosen conversation id exists."""


class ConversationGone(Value, frozen=True, kw_only=True):
    """The conversation was erased in between."""


class ImageGone(Value, frozen=True, kw_only=True):
    """An image that the input shows is not one of the conversation's."""

    image_id: str


AcceptOutcome = Accepted | Replayed | Busy | HeadMoved | ConversationTaken | ConversationGone | ImageGone


class Checkpoint(Value, frozen=True, kw_only=True):
    """A stretch of a reply's log, to be made durable. The first one also turns the reply from PENDING to STREAMING."""

    reply_id: str
    epoch: int
    from_sequence: int
    to_sequence: int
    entries: tuple[Entry, ...]
    first_token_time_us: int


class Finalisation(Value, frozen=True, kw_only=True):
    """How a reply ended: state, message, usage and settlement commit together, guarded by epoch and state.

    `message` is None where the reply left none. `journaled` says whether checkpoints may exist.
    """

    reply_id: str
    epoch: int
    state: State
    finish_reason: FinishReason | None = None
    provider_reason: str = ""
    error: ReplyError | None = None
    usage: Usage
    message: Message | None = None
    model: str
    provider: str
    cancel_reason: str = ""
    last_sequence: int
    first_token_time_us: int = 0
    end_time_us: int
    text_length: int = 0
    journaled: bool = True


class Finalised(Value, frozen=True, kw_only=True):
    """The reply as it is stored now; `won` says whether by this finalisation or by an earlier one."""

    reply: Reply
    won: bool


class Standing(Value, frozen=True, kw_only=True):
    """How a reply stands in the store: who may write and end it, whether it has ended, and the wish to cancel it."""

    reply_id: str
    owner: str
    epoch: int
    terminal: bool
    cancel: FinishReason | None = None
    cancel_reason: str = ""


class Unfinished(Value, frozen=True, kw_only=True):
    """A reply that a dead process left: what of its log was durable, and whether somebody had asked to cancel it.
    `reply` has the owner and the epoch under which it may be ended; entries may be merged."""

    reply: Reply
    cancel: FinishReason | None = None
    entries: tuple[Entry, ...] = ()
    durable_sequence: int = 0


class CancelTarget(Value, frozen=True, kw_only=True):
    """Exactly one is set."""

    reply_id: str = ""
    request_id: str = ""
    conversation_id: str = ""


class NewConversation(Value, frozen=True, kw_only=True):
    """A conversation to create, with the messages and images it begins with."""

    identity: Identity
    request_id: str = ""
    payload_hash: str = ""
    conversation: Conversation
    messages: tuple[Message, ...] = ()
    images: tuple[StoredImage, ...] = ()
    now_us: int


class ConversationReplayed(Value, frozen=True, kw_only=True):
    """The creation's idempotency key is known: what it made, None where that has been erased."""

    payload_hash: str
    conversation: Conversation | None


CreateOutcome = Conversation | ConversationReplayed | ConversationTaken


class ConversationFilter(Value, frozen=True, kw_only=True):
    """Which conversations to list: words that the title contains, labels that match. `before` is the last row of the
    page before: (update_time_us, id)."""

    words: tuple[str, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    before: tuple[int, str] | None = None


class ConversationPage(Value, frozen=True, kw_only=True):
    """Newest activity first, without `system` and `post_system`; `more` where rows follow."""

    conversations: tuple[Conversation, ...]
    more: bool


class ConversationUpdate(Value, frozen=True, kw_only=True):
    """New values; None leaves a field as it is. `etag` empty: not checked."""

    conversation_id: str
    etag: str = ""
    title: str | None = None
    system: tuple[str, ...] | None = None
    post_system: str | None = None
    model: str | None = None
    max_messages: int | None = None
    labels: dict[str, str] | None = None
    head_message_id: str | None = None


class MessageFilter(Value, frozen=True, kw_only=True):
    """Which messages to list, newest first: the branch that ends in `leaf` (empty: the head), or with `all_branches`
    the whole tree. `cursor` is `MessagePage.next_cursor` of the page before."""

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
