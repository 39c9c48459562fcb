"""From a request to an accepted reply: refusals, one transaction, then the reply's own task.

The whole is run by the process as one unit: a call that is cancelled in between leaves a running reply, never a row
without a task. A refusal first asks whether the request is the retry of one that was accepted.
"""

from __future__ import annotations

import hashlib

import msgspec

from parley_server.core.context.build import build_messages, prompt_bytes
from parley_server.core.context.groups import unknown_results
from parley_server.core.engine import Engine
from parley_server.core.ids import new_id
from parley_server.core.model import (
    Conversation,
    FinishReason,
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
from parley_server.core.ports import Provider
from parley_server.core.replies.cancel import ask_to_stop
from parley_server.core.replies.commit import Commitment
from parley_server.core.replies.generate import Generation, as_it_stands
from parley_server.core.replies.log import Log, Reader
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.core.store_types import (
    Acceptance,
    Accepted,
    AcceptOutcome,
    Busy,
    CancelTarget,
    ConversationGone,
    ConversationTaken,
    HeadMoved,
    ImageGone,
    Position,
    PromptSource,
    Replayed,
    StoredImage,
)
from parley_server.core.validation import check_model, check_shown, refuse_unknown
from parley_server.errors import (
    ConversationExists,
    ConversationNotFound,
    Draining,
    ImageNotFound,
    InvalidRequest,
    ParleyError,
    ReplyInProgress,
    ReplyNotFound,
    RequestIdReused,
    StorageUnavailable,
)

MAX_TRIES = 3


class Plan(Value, frozen=True, kw_only=True):
    """All that was decided before the transaction."""

    acceptance: Acceptance
    prompt: Prompt
    prompt_size: int


class Acceptances:
    """Accepts requests; `draining` set refuses all that are not the retry of an accepted one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.draining: Draining | None = None

    async def accept(self, request: ReplyRequest) -> Generation | Replayed:
        """A new reply, running, or the one that this request's key has started. Raises every refusal."""
        began = self._engine.clock.monotonic()
        try:
            return await self._accept(request, began)
        except ParleyError as refusal:
            known = (
                await self._known(request) if not isinstance(refusal, RequestIdReused | StorageUnavailable) else None
            )
            if known is not None:
                return known
            self._engine.observer.refused(refusal.reason)
            raise

    async def _accept(self, request: ReplyRequest, began: float) -> Generation | Replayed:
        engine = self._engine
        self._check_room(0)
        if engine.load.overloaded:
            raise engine.capacity.overloaded("the server is as busy as it can be without harm to what runs")
        for tries_left in reversed(range(MAX_TRIES)):
            turn = await self._turn(request)
            model, provider = engine.catalog.resolve(request.payload.model or turn.conversation.model)
            check_model(model, request.payload)
            await self._check_results(request, turn)
            plan = self._plan(request, turn, model)
            if running := turn.conversation.active_reply_id:
                self._check_room(plan.prompt_size)
                if (known := await self._make_way(request, running)) is not None:
                    return known
                turn = await self._turn(request)
                await self._check_results(request, turn)
                plan = self._plan(request, turn, model)
            generation = self._generation(request.payload, plan, provider)
            self._check_room(plan.prompt_size)
            outcome = await Commitment(engine, generation, plan.acceptance, began=began).make()
            if isinstance(outcome, Accepted):
                return generation
            if isinstance(outcome, Replayed):
                return self._same(request, outcome)
            if isinstance(outcome, Busy):
                if not tries_left:  # nothing is interrupted in vain
                    raise _in_progress(outcome.reply_id)
                if (known := await self._make_way(request, outcome.reply_id)) is not None:
                    return known
                continue
            if not isinstance(outcome, HeadMoved):
                raise _refusal(outcome)
        raise ReplyInProgress("the conversation changed again and again meanwhile", retry_after_s=0.5)

    def _check_room(self, prompt_size: int) -> None:
        if self.draining is not None:
            raise self.draining
        if not self._engine.lease.held:
            raise StorageUnavailable("this replica has lost touch with the database")
        self._engine.capacity.check(prompt_size)

    async def _known(self, request: ReplyRequest) -> Replayed | None:
        if not request.request_id:
            return None
        clock = self._engine.clock
        known = await self._engine.store.find_request(request.identity, request.request_id, clock.now_us())
        return None if known is None else self._same(request, known)

    def _same(self, request: ReplyRequest, known: Replayed) -> Replayed:
        if known.payload_hash != request.payload.payload_hash():
            raise RequestIdReused("this request_id came before, with another payload")
        if known.reply is None:
            raise ReplyNotFound
        return known

    async def _turn(self, request: ReplyRequest) -> PromptSource:
        payload = request.payload
        if payload.conversation_id:
            turn = await self._engine.store.read_turn(
                request.identity, payload.conversation_id, payload.position, has_input=bool(payload.messages)
            )
            return await self._with_images(request, turn)
        if shown := _shown_images(payload.messages):
            raise _refusal(ImageGone(image_id=shown[0]))  # a new conversation holds none yet
        given = payload.new_conversation or Conversation()
        return PromptSource(conversation=new_conversation(given, request.identity, self._engine.clock.now_us()))

    async def _check_results(self, request: ReplyRequest, turn: PromptSource) -> None:
        """Refuse a tool result whose call is nowhere above it: no prompt could show it as a result.

        The call may be that of an answer which is about to be interrupted."""
        payload, live_replies = request.payload, self._engine.live_replies
        path = turn.path
        if running := turn.conversation.active_reply_id:
            writer = live_replies.running.get(running) or live_replies.followed.get(running)
            if writer is None:  # written elsewhere: its calls are known once it has ended
                return
            written = as_it_stands(writer.log, self._engine.clock.now_us()).message
            path = (*path, written) if written else path
        unknown = unknown_results(path, payload.messages)
        if unknown and turn.conversation.context.max_messages and payload.conversation_id:
            whole = await self._engine.store.read_turn(
                request.identity, payload.conversation_id, payload.position, has_input=True, whole=True
            )
            unknown = unknown_results((*whole.path, *path), payload.messages)
        refuse_unknown("input", unknown)

    async def _with_images(self, request: ReplyRequest, turn: PromptSource) -> PromptSource:
        """The turn with those stored images that the input shows, but the branch does not."""
        held = {image.id for image in turn.images}
        more = []
        for image_id in dict.fromkeys(_shown_images(request.payload.messages)):
            if image_id not in held:
                image = await self._engine.store.get_image(request.identity, image_id)
                more.append(StoredImage(id=image_id, mime_type=image.mime_type, data=image.data))
        return msgspec.structs.replace(turn, images=turn.images + tuple(more)) if more else turn

    async def _make_way(self, request: ReplyRequest, running: str) -> Replayed | None:
        """Interrupt the reply that runs, if that was asked for, and wait until it has ended; but a request does not
        interrupt what it has started itself."""
        if not request.payload.interrupt:
            raise _in_progress(running)
        if (known := await self._known(request)) is not None:
            return known
        engine = self._engine
        target = CancelTarget(reply_id=running)
        reason = "interrupted by another request"
        try:
            asked = await ask_to_stop(engine, request.identity, target, FinishReason.INTERRUPTED, reason)
        except ReplyNotFound:
            return None
        if asked is None or asked[1] is None:
            return None
        if not await ended_within(asked[1], engine.limits.interrupt_wait_s, engine):
            raise ReplyInProgress(
                "the interrupted reply has not ended yet", retry_after_s=1.0, metadata={"reply_id": running}
            )
        return None

    def _plan(self, request: ReplyRequest, turn: PromptSource, model: Model) -> Plan:
        payload, conversation = request.payload, turn.conversation
        now_us = self._engine.clock.now_us()
        stored, messages, images = store_messages(payload.messages, turn.parent_id, now_us)
        shown = build_messages(
            turn.path,
            messages,
            system=payload.system or conversation.system,
            post_system=conversation.post_system,
            max_messages=conversation.context.max_messages,
            images=turn.images,
            refused=turn.refused,
        )
        if not any(message.role != "system" for message in shown):
            raise InvalidRequest("there is no message to answer")
        check_shown(model, shown)
        reply_id = new_id(now_us)
        reply = Reply(
            id=reply_id,
            owner=self._engine.replica_id,
            tenant=conversation.tenant,
            end_user=conversation.end_user,
            conversation_id=conversation.id,
            request_id=request.request_id or reply_id,
            message_id=new_id(now_us),
            parent_message_id=stored[-1].id if stored else turn.parent_id,
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
            head=turn.parent_id if payload.conversation_id and payload.position == Position() else None,
            continued=payload.position.after,
            messages=stored,
            images=images,
            shown_images=_shown_images(payload.messages),
            now_us=now_us,
        )
        prompt = _prompt(request, model, shown, _cache_key(conversation))
        return Plan(acceptance=acceptance, prompt=prompt, prompt_size=prompt_bytes(shown))

    def _generation(self, payload: ReplyPayload, plan: Plan, provider: Provider) -> Generation:
        limits = self._engine.limits
        ttl_s = limits.orphan_ttl_s if payload.orphan_ttl_s is None else payload.orphan_ttl_s
        return Generation(
            self._engine,
            reply=plan.acceptance.reply,
            prompt=plan.prompt,
            provider=provider,
            prompt_size=plan.prompt_size,
            orphan_ttl_s=limits.disconnect_cancel_s if payload.cancel_on_disconnect else ttl_s,
            time_limit_s=payload.time_limit_s or limits.time_limit_s,
        )


async def ended_within(log: Log, wait_s: float, engine: Engine) -> bool:
    """Whether a log ends within this time, by the engine's clock."""
    reader, clock = Reader(log, log.last_sequence), engine.clock
    deadline = clock.monotonic() + wait_s
    timer = clock.call_at(deadline, reader.wake)
    try:
        while not log.over and clock.monotonic() < deadline:
            reader.position = log.last_sequence
            await reader.wait()
    finally:
        timer.cancel()
    return log.ended or log.erased


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


def _shown_images(messages: tuple[Message, ...]) -> tuple[str, ...]:
    return tuple(
        part.image_id for message in messages for part in message.parts if isinstance(part, ImagePart) and part.image_id
    )


def _in_progress(reply_id: str) -> ReplyInProgress:
    metadata = {"reply_id": reply_id}
    return ReplyInProgress("another reply runs in this conversation", retry_after_s=1.0, metadata=metadata)


def _refusal(outcome: AcceptOutcome) -> ParleyError:
    if isinstance(outcome, ConversationTaken):
        return ConversationExists("a conversation of this id exists already")
    if isinstance(outcome, ConversationGone):
        return ConversationNotFound()
    assert isinstance(outcome, ImageGone)
    return ImageNotFound(f"image {outcome.image_id[:64]!r} is not one of the conversation's")
