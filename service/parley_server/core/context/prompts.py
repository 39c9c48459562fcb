"""The prompts of one turn: the same messages for any model that may answer them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from parley_server.core.context.abilities import check_request_fits, check_shown, taken_settings
from parley_server.core.context.branch import Sizing
from parley_server.core.context.build import Built, build_messages
from parley_server.core.context.estimate import Estimator, Rates, extra_tokens, own_ratio, tools_size
from parley_server.core.model import Conversation, Message, Model, Prompt
from parley_server.core.requests import ReplyRequest
from parley_server.core.store_types import PromptSource
from parley_server.errors import ContextTooLarge, ParleyError

OUTPUT_SHARE = 4
"""Without an output limit in the request, at most this part of the context is left to the answer."""
GUESSED_SHARE = 0.5
"""The part of a prompt that is sent again if its provider has refused it without a limit."""
SHORTER_SHARE = 0.9
"""A prompt that was refused as too long is sent again with at most this part of it."""


@dataclass(frozen=True)
class _Turn:
    prompt: Prompt
    built: Built


class TurnPrompts:
    """Implements `Prompts` for a checked request, from the stored branch and the new messages."""

    def __init__(
        self, request: ReplyRequest, source: PromptSource, new: tuple[Message, ...], estimator: Estimator
    ) -> None:
        self.source = source
        self.new = new
        self._request = request
        self._estimator = estimator
        self._asked: Prompt | None = None
        self._built: dict[tuple[str, bool], _Turn] = {}
        self._layouts: dict[tuple[Sizing, bool], Built] = {}
        self._rates: dict[str, Rates] = {}
        self._budgets: dict[str, float] = {}

    @property
    def asked(self) -> Prompt | None:
        """See `Prompts.asked`."""
        return self._asked

    def of(self, model: Model, *, with_kept: bool = True) -> Prompt:
        """See `Prompts.of`."""
        self._asked = self._turn(model, with_kept=with_kept).prompt
        return self._asked

    def built(self, model: Model) -> Built:
        """The messages of the prompt for this model, with their measures. Raises `UnsupportedInput`."""
        return self._turn(model, with_kept=True).built

    def ignored_settings(self, model: Model) -> tuple[str, ...]:
        """The names of the request's settings that the model does not take as they are."""
        return taken_settings(model, self._request.payload.sampling)[1]

    def check(self, model: Model) -> None:
        """Raises `UnsupportedInput` or `ContextTooLarge` if the model cannot be given this request."""
        check_request_fits(model, self._request.payload)
        least, limit = self.built(model).least_tokens, self.source.conversation.context.max_tokens
        if limit and least > limit:
            raise ContextTooLarge(
                f"the newest message is estimated at {least} tokens, and the conversation allows {limit} for a prompt",
                metadata={"limit": f"{limit} tokens"},
            )

    def takes(self, model: Model) -> bool:
        """Whether the model can be given this request."""
        try:
            self.check(model)
        except ParleyError:
            return False
        return True

    def refused_as_too_long(self, model: Model, *, limit_tokens: int | None, prompt_tokens: int | None) -> bool:
        """See `Prompts.refused_as_too_long`. A prompt is shortened once."""
        refused = self._turn(model, with_kept=True)
        self._estimator.refused(refused.prompt, limit_tokens=limit_tokens, prompt_tokens=prompt_tokens)
        if model.alias in self._budgets:
            return False
        estimate = refused.built.tokens
        budget = GUESSED_SHARE * estimate
        if limit := limit_tokens or (self._estimator.context_tokens(model) if prompt_tokens else 0):
            actual = max(prompt_tokens or 0, limit)  # it was refused, so that it had more than the limit
            budget = self._room(model, limit) * estimate / actual
        self._budgets[model.alias] = max(1.0, min(budget, SHORTER_SHARE * estimate))
        self._built = {key: turn for key, turn in self._built.items() if key[0] != model.alias}
        return self.built(model).text_bytes < refused.built.text_bytes

    def budget(self, model: Model) -> float | None:
        """The most tokens that the prompt of this model may have, by estimate; None: no limit is known."""
        context = self._estimator.context_tokens(model)
        limits = (
            self.source.conversation.context.max_tokens,
            self._room(model, context) if context else 0,
            self._budgets.get(model.alias, 0),
        )
        return min((float(limit) for limit in limits if limit), default=None)

    def sizing(self, model: Model) -> Sizing:
        """How the messages are measured for this model."""
        payload = self._request.payload
        # What is learnt meanwhile counts from the next turn on: a limit of this one is in its units.
        rates = self._rates.setdefault(model.alias, self._estimator.rates(model))
        return Sizing(
            budget=self.budget(model),
            rates=rates,
            history_ratio=own_ratio(self.source.last_usage.get(model.alias), rates),
            extra_bytes=tools_size(payload.tools, payload.json_schema),
            extra_tokens=extra_tokens(tools=bool(payload.tools), json_schema=bool(payload.json_schema)),
            cache_min=model.cache_min,
        )

    def _room(self, model: Model, context: int) -> int:
        """The tokens of a context that the answer does not need, at least one."""
        wanted = taken_settings(model, self._request.payload.sampling)[0].max_output_tokens
        return max(1, context - (wanted or min(model.max_output_tokens or context, context // OUTPUT_SHARE)))

    def _turn(self, model: Model, *, with_kept: bool) -> _Turn:
        key = (model.alias, with_kept)
        if key not in self._built:
            self._built[key] = self._make(model, with_kept=with_kept)
        return self._built[key]

    def _make(self, model: Model, *, with_kept: bool) -> _Turn:
        payload, conversation = self._request.payload, self.source.conversation
        built = self._layout(self.sizing(model), with_kept=with_kept)
        check_shown(model, built.messages)
        prompt = Prompt(
            model=model,
            messages=built.messages,
            sampling=taken_settings(model, payload.sampling)[0],
            tools=payload.tools,
            tool_choice=payload.tool_choice,
            json_schema=payload.json_schema,
            traceparent=self._request.traceparent,
            cache_key=_cache_key(conversation),
            tenant=conversation.tenant,
            estimated_tokens=built.tokens,
            likely_tokens=self._estimator.likely_tokens(
                model,
                text_bytes=built.text_bytes,
                messages=len(built.messages),
                images=built.images,
                extra_tokens=extra_tokens(tools=bool(payload.tools), json_schema=bool(payload.json_schema)),
            ),
            text_bytes=0 if built.images else built.text_bytes,
        )
        return _Turn(prompt, built)

    def _layout(self, sizing: Sizing, *, with_kept: bool) -> Built:
        """The messages, which models of the same sizing share."""
        key = (sizing, with_kept)
        if key not in self._layouts:
            system = self._request.payload.system or self.source.conversation.system
            built = build_messages(self.source, self.new, system=system, sizing=sizing, with_kept=with_kept)
            self._layouts[key] = built
        return self._layouts[key]


def _cache_key(conversation: Conversation) -> str:
    """Shows a provider which prompts begin alike, and nothing else."""
    return hashlib.sha256(f"{conversation.tenant}\0{conversation.id}".encode()).hexdigest()[:32]
