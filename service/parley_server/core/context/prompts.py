"""The prompts of one turn: the same messages for any model that may answer them."""

from __future__ import annotations

import hashlib

import msgspec

from parley_server.core.context.build import build_messages
from parley_server.core.model import Conversation, Message, Model, Prompt, Sampling
from parley_server.core.requests import ReplyRequest
from parley_server.core.store_types import PromptSource
from parley_server.core.validation import check_model, check_shown
from parley_server.errors import ParleyError


class TurnPrompts:
    """Implements `Prompts` for a checked request, from the stored branch and the new messages."""

    def __init__(self, request: ReplyRequest, source: PromptSource, new: tuple[Message, ...]) -> None:
        self._request = request
        self._source = source
        self._new = new
        self._asked: Prompt | None = None

    @property
    def asked(self) -> Prompt | None:
        """See `Prompts.asked`."""
        return self._asked

    def of(self, model: Model, *, with_kept: bool = True) -> Prompt:  # noqa: ARG002 - no item is kept yet
        """See `Prompts.of`."""
        payload, conversation = self._request.payload, self._source.conversation
        shown = build_messages(
            self._source.path,
            self._new,
            system=payload.system or conversation.system,
            post_system=conversation.post_system,
            max_messages=conversation.context.max_messages,
            images=self._source.images,
            refused=self._source.refused,
        )
        check_shown(model, shown)
        self._asked = Prompt(
            model=model,
            messages=shown,
            sampling=_sampling(payload.sampling, model),
            tools=payload.tools,
            tool_choice=payload.tool_choice,
            json_schema=payload.json_schema,
            traceparent=self._request.traceparent,
            cache_key=_cache_key(conversation),
            tenant=conversation.tenant,
        )
        return self._asked

    def takes(self, model: Model) -> bool:
        """Whether the model can take what the request means."""
        try:
            check_model(model, self._request.payload)
            self.of(model)
        except ParleyError:
            return False
        return True

    def refused_as_too_long(
        self,
        model: Model,  # noqa: ARG002 - the prompt is never shortened yet
        *,
        limit_tokens: int | None,  # noqa: ARG002
        prompt_tokens: int | None,  # noqa: ARG002
    ) -> bool:
        """See `Prompts.refused_as_too_long`."""
        return False


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
