"""Values for the store's contract tests: acceptances, finalisations and conversations, with readable ids."""

from __future__ import annotations

import itertools

from parley_server.core.events import TextDelta
from parley_server.core.model import (
    Conversation,
    FinishReason,
    Identity,
    Message,
    Reply,
    Role,
    State,
    TextPart,
    Usage,
)
from parley_server.core.store_types import (
    Acceptance,
    Accepted,
    Checkpoint,
    ConversationReplayed,
    ConversationTaken,
    Finalisation,
    Finalised,
    NewConversation,
    StoredImage,
    Summary,
)

ADA = Identity(tenant="shop", end_user="ada")
BEN = Identity(tenant="shop", end_user="ben")
SHOP = Identity(tenant="shop")
RIVAL = Identity(tenant="rival")
NOW_US = 1_800_000_000_000_000
SECOND_US = 1_000_000
USAGE = Usage(prompt_tokens=7, cached_prompt_tokens=2, completion_tokens=3, reasoning_tokens=1, cost_nano_usd=1234)

_numbers = itertools.count(1)


def unique(word: str) -> str:
    """An id that no other test has."""
    return f"{word}-{next(_numbers):06d}"


def user_message(text: str = "hello", *, parent: str = "", id: str = "") -> Message:  # noqa: A002 - the field's name
    return Message(
        id=id or unique("message"),
        role=Role.USER,
        parts=(TextPart(text=text),),
        parent_id=parent,
        create_time_us=NOW_US,
    )


def chain(*texts: str, parent: str = "") -> tuple[Message, ...]:
    """Messages of alternating roles, each the child of the one before."""
    made: list[Message] = []
    for number, text in enumerate(texts):
        message = user_message(text, parent=made[-1].id if made else parent)
        role = Role.USER if number % 2 == 0 else Role.ASSISTANT
        made.append(
            Message(id=message.id, role=role, parts=message.parts, parent_id=message.parent_id, create_time_us=NOW_US)
        )
    return tuple(made)


def new_conversation(
    identity: Identity = ADA,
    *messages: Message,
    id: str = "",  # noqa: A002 - the field's name
    title: str = "",
    labels: dict[str, str] | None = None,
    request_id: str = "",
    payload_hash: str = "",
    images: tuple[StoredImage, ...] = (),
    now_us: int = NOW_US,
    **fields: object,
) -> NewConversation:
    conversation = Conversation(
        id=id or unique("conversation"),
        tenant=identity.tenant,
        end_user=identity.end_user,
        title=title,
        labels=labels or {},
        create_time_us=now_us,
        update_time_us=now_us,
        **fields,
    )
    return NewConversation(
        identity=identity,
        request_id=request_id,
        payload_hash=payload_hash,
        conversation=conversation,
        messages=messages,
        images=images,
        now_us=now_us,
    )


async def created(store, identity: Identity = ADA, *messages: Message, **fields) -> Conversation:
    outcome = await store.create_conversation(new_conversation(identity, *messages, **fields))
    assert not isinstance(outcome, ConversationTaken | ConversationReplayed)
    return outcome


def acceptance(
    conversation: Conversation,
    *,
    identity: Identity = ADA,
    request_id: str = "",
    text: str = "hello",
    parent: str | None = None,
    head: str | None = None,
    messages: tuple[Message, ...] | None = None,
    payload_hash: str = "hash",
    images: tuple[StoredImage, ...] = (),
    shown_images: tuple[str, ...] = (),
    new: bool = False,
    now_us: int = NOW_US,
    labels: dict[str, str] | None = None,
) -> Acceptance:
    """A request after the conversation's head as it was read, or after `parent`."""
    below = conversation.head_message_id if parent is None else parent
    if messages is None:
        messages = (user_message(text, parent=below),)
    reply_id = unique("reply")
    reply = Reply(
        id=reply_id,
        tenant=conversation.tenant,
        end_user=conversation.end_user,
        conversation_id=conversation.id,
        request_id=request_id or unique("request"),
        message_id=unique("answer"),
        parent_message_id=messages[-1].id if messages else below,
        input_message_ids=tuple(message.id for message in messages),
        requested_model="fast",
        model="fast",
        provider="scripted",
        create_time_us=now_us,
        labels=labels or {},
    )
    at_head = conversation.head_message_id if parent is None and not new else None
    return Acceptance(
        identity=identity,
        payload_hash=payload_hash,
        reply=reply,
        new_conversation=conversation if new else None,
        head=at_head if head is None else head,
        messages=messages,
        images=images,
        shown_images=shown_images,
        now_us=now_us,
    )


async def accepted(store, conversation: Conversation, **fields) -> Reply:
    outcome = await store.accept(acceptance(conversation, **fields))
    assert isinstance(outcome, Accepted), outcome
    return outcome.reply


def finalisation(reply: Reply, text: str = "the answer", **fields) -> Finalisation:
    message = Message(id=reply.message_id, role=Role.ASSISTANT, parts=(TextPart(text=text),)) if text else None
    values = {
        "reply_id": reply.id,
        "epoch": reply.epoch,
        "state": State.COMPLETED,
        "finish_reason": FinishReason.STOP,
        "provider_reason": "stop",
        "usage": USAGE,
        "message": message,
        "model": "fast",
        "provider": "scripted",
        "last_sequence": 5,
        "first_token_time_us": NOW_US + SECOND_US,
        "end_time_us": NOW_US + 2 * SECOND_US,
        "text_length": len(text),
    }
    return Finalisation(**values | fields)


def summary(conversation: Conversation, message_id: str, **fields) -> Summary:
    values = {"text": "short", "model": "fast", "create_time_us": NOW_US + SECOND_US}
    place = {"tenant": conversation.tenant, "conversation_id": conversation.id, "message_id": message_id}
    return Summary(**(place | values | fields))


async def answered(store, conversation: Conversation, text: str = "the answer", **fields) -> Reply:
    """Accept and finalise a reply."""
    reply = await accepted(store, conversation, **fields)
    outcome = await store.finalise(finalisation(reply, text))
    assert isinstance(outcome, Finalised)
    return outcome.reply


def checkpoint(reply: Reply, *texts: str, start: int = 1, epoch: int | None = None, **fields) -> Checkpoint:
    return Checkpoint(
        reply_id=reply.id,
        epoch=reply.epoch if epoch is None else epoch,
        model=fields.get("model", reply.model),
        provider=fields.get("provider", reply.provider),
        from_sequence=start,
        to_sequence=start + len(texts) - 1,
        entries=tuple(TextDelta(text) for text in texts),
        first_token_time_us=NOW_US + SECOND_US,
    )
