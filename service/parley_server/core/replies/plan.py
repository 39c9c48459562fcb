"""From a checked request and its conversation to what is stored and what the provider is sent. Pure functions."""

from __future__ import annotations

import hashlib

import msgspec

from parley_server.core.context.build import build_messages, prompt_bytes
from parley_server.core.ids import new_id
from parley_server.core.model import (
    Conversation,
    Identity,
    ImagePart,
    Message,
    Model,
    Part,
    Prompt,
    PromptMessage,
    Reply,
    Sampling,
    Value,
)
from parley_server.core.requests import ReplyRequest
from parley_server.core.store_types import Acceptance, Position, PromptSource, StoredImage
from parley_server.core.validation import check_shown
from parley_server.errors import InvalidRequest


class Plan(Value, frozen=True, kw_only=True):
    """What was decided before the transaction: what it stores, and the prompt with its size in bytes."""

    acceptance: Acceptance
    prompt: Prompt
    prompt_size: int


def make_plan(request: ReplyRequest, source: PromptSource, model: Model, *, owner: str, now_us: int) -> Plan:
    """Plan the reply to a checked request. Raises `InvalidRequest` and `NotSupported` for what the model cannot be
    given; `owner` is the id of this replica."""
    payload, conversation = request.payload, source.conversation
    stored, messages, images = store_messages(payload.messages, source.parent_id, now_us)
    shown = build_messages(
        source.path,
        messages,
        system=payload.system or conversation.system,
        post_system=conversation.post_system,
        max_messages=conversation.context.max_messages,
        images=source.images,
        refused=source.refused,
    )
    if not any(message.role != "system" for message in shown):
        raise InvalidRequest("there is no message to answer")
    check_shown(model, shown)
    reply_id = new_id(now_us)
    reply = Reply(
        id=reply_id,
        owner=owner,
        tenant=conversation.tenant,
        end_user=conversation.end_user,
        conversation_id=conversation.id,
        request_id=request.request_id or reply_id,
        message_id=new_id(now_us),
        parent_message_id=stored[-1].id if stored else source.parent_id,
        input_message_ids=tuple(message.id for message in stored),
        requested_model=model.alias,
        model=model.alias,
        provider=model.provider,
        create_time_us=now_us,
        labels=payload.labels,
    )
    acceptance = Acceptance(
        identity=request.identity,
        payload_hash=payload.payload_hash(),
        reply=reply,
        new_conversation=None if payload.conversation_id else conversation,
        head=source.parent_id if payload.conversation_id and payload.position == Position() else None,
        continued=payload.position.after,
        messages=stored,
        images=images,
        shown_images=shown_images(payload.messages),
        now_us=now_us,
    )
    prompt = _prompt(request, model, shown, _cache_key(conversation))
    return Plan(acceptance=acceptance, prompt=prompt, prompt_size=prompt_bytes(shown))


def new_conversation(given: Conversation, identity: Identity, now_us: int) -> Conversation:
    """A conversation as it will be stored, owned by the caller."""
    return msgspec.structs.replace(
        given,
        id=given.id or new_id(now_us),
        tenant=identity.tenant,
        end_user=identity.end_user,
        head_message_id="",
        active_reply_id="",
        create_time_us=now_us,
        update_time_us=now_us,
        etag="",
    )


def store_messages(
    messages: tuple[Message, ...], parent_id: str, now_us: int
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[StoredImage, ...]]:
    """Messages as they are stored (each follows the one before, images by id), the same as a prompt shows them (images
    by their bytes), and the images."""
    stored: list[Message] = []
    shown: list[Message] = []
    images: list[StoredImage] = []
    for message in messages:
        identified = msgspec.structs.replace(message, id=new_id(now_us), parent_id=parent_id, create_time_us=now_us)
        parent_id = identified.id
        shown.append(identified)
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, ImagePart) and part.data:
                image = StoredImage(id=new_id(now_us), mime_type=part.mime_type, data=part.data)
                images.append(image)
                parts.append(ImagePart(image_id=image.id, mime_type=part.mime_type, size_bytes=len(part.data)))
            else:
                parts.append(part)
        stored.append(msgspec.structs.replace(identified, parts=tuple(parts)))
    return tuple(stored), tuple(shown), tuple(images)


def _prompt(request: ReplyRequest, model: Model, shown: tuple[PromptMessage, ...], cache_key: str) -> Prompt:
    payload = request.payload
    return Prompt(
        model=model,
        messages=shown,
        sampling=_sampling(payload.sampling, model),
        tools=payload.tools,
        tool_choice=payload.tool_choice,
        json_schema=payload.json_schema,
        traceparent=request.traceparent,
        cache_key=cache_key,
    )


def _sampling(asked: Sampling, model: Model) -> Sampling:
    """With the output limit of the request, bounded by the model's; else the one that is configured to be sent."""
    wanted = asked.max_output_tokens
    if wanted is None:
        wanted = model.output_tokens or None
    elif model.max_output_tokens:
        wanted = min(wanted, model.max_output_tokens)
    return msgspec.structs.replace(asked, max_output_tokens=wanted)


def _cache_key(conversation: Conversation) -> str:
    """Tells a provider which prompts begin alike, and nothing else."""
    return hashlib.sha256(f"{conversation.tenant}\0{conversation.id}".encode()).hexdigest()[:32]


def shown_images(messages: tuple[Message, ...]) -> tuple[str, ...]:
    """The ids of stored images that messages show."""
    return tuple(
        part.image_id for message in messages for part in message.parts if isinstance(part, ImagePart) and part.image_id
    )
