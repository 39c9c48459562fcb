"""From a checked request and its conversation to what is stored and which models may answer."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from parley_server.core.access import TenantPolicy
from parley_server.core.context.estimate import Estimator
from parley_server.core.context.prompts import TurnPrompts
from parley_server.core.ids import new_id
from parley_server.core.message_checks import check_full
from parley_server.core.model import (
    Conversation,
    Identity,
    ImagePart,
    Message,
    Model,
    Part,
    Reply,
)
from parley_server.core.quotas.rules import QuotaRules
from parley_server.core.requests import ReplyRequest
from parley_server.core.store_types import Acceptance, Position, PromptSource, ReplyPlan, StoredImage
from parley_server.errors import InvalidRequest


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was decided before the transaction: what it stores, the models that may answer, their prompts, and the size
    of the first one's prompt in bytes."""

    acceptance: Acceptance
    candidates: tuple[Model, ...]
    prompts: TurnPrompts
    prompt_size: int


def make_plan(
    request: ReplyRequest,
    source: PromptSource,
    candidates: tuple[Model, ...],
    *,
    policy: TenantPolicy,
    estimator: Estimator,
    rules: QuotaRules,
    owner: str,
    now_us: int,
) -> Plan:
    """Plan the reply to a checked request. Raises `InvalidRequest` and its subclasses for what the first of the
    candidates cannot be given; others that cannot be given it are left out. `owner` is the id of this replica."""
    payload, conversation = request.payload, source.conversation
    check_full(source.stored_messages, len(payload.messages))
    stored, messages, images = store_messages(payload.messages, source.parent_id, now_us)
    prompts, model = TurnPrompts(request, source, messages, estimator), candidates[0]
    built = prompts.built(model)
    if not any(message.role != "system" for message in built.messages):
        raise InvalidRequest("there is no message to answer")
    prompts.check(model)
    reply_id, ignored_settings = new_id(now_us), prompts.ignored_settings(model)
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
        ignored_settings=ignored_settings,
    )
    able = (model, *[each for each in candidates[1:] if prompts.takes(each)])
    limits = rules.limits(policy, reply.end_user, now_us)
    prompt_tokens, most = prompts.of(model).likely_tokens, payload.sampling.max_output_tokens
    held = rules.hold(limits, able, prompt_tokens=prompt_tokens, max_output_tokens=most) if limits else None
    acceptance = Acceptance(
        identity=request.identity,
        payload_hash=payload.payload_hash(),
        reply=reply,
        plan=ReplyPlan(ignored_settings=ignored_settings, prompt_tokens=prompt_tokens, held=held),
        new_conversation=None if payload.conversation_id else conversation,
        head=source.parent_id if payload.conversation_id and payload.position == Position() else None,
        continued=payload.position.after,
        messages=stored,
        images=images,
        shown_images=shown_images(payload.messages),
        quotas=limits,
        now_us=now_us,
    )
    prompt_size = built.text_bytes + built.image_bytes
    return Plan(acceptance=acceptance, candidates=able, prompts=prompts, prompt_size=prompt_size)


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


def shown_images(messages: tuple[Message, ...]) -> tuple[str, ...]:
    """The ids of stored images that messages show."""
    return tuple(
        part.image_id for message in messages for part in message.parts if isinstance(part, ImagePart) and part.image_id
    )
