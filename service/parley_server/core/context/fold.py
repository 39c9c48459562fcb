"""Decides what a summary covers, and builds the prompt that asks a model for it."""

from __future__ import annotations

import msgspec

from parley_server.core.context.abilities import EFFORTS
from parley_server.core.context.branch import sized_branch
from parley_server.core.context.cut import Sized, turn_start
from parley_server.core.context.estimate import MESSAGE_TOKENS, Estimator, Rates
from parley_server.core.context.prompts import TurnPrompts
from parley_server.core.events import utf8_prefix, utf8_size
from parley_server.core.model import (
    Model,
    Overflow,
    Prompt,
    PromptMessage,
    Role,
    Sampling,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

FULL_SHARE = 0.6
"""A history above this part of the budget is summarized."""
LEFT_SHARE = 0.4
"""The part of the budget that the messages after a summary may have."""
MAX_TOKENS = 1024
UNKNOWN_CONTEXT_TOKENS = 8192
LEAST_BYTES = 256
MAX_PART_BYTES = 32 * 1024
"""Of a longer message, only its beginning is summarized."""
INSTRUCTION = (
    "Summarize the conversation below for the model that will continue it. Keep names, facts, figures, decisions, "
    "preferences, promises and open questions. Include what an earlier summary says. Write at most 500 words of plain "
    "text, in the language of the conversation, and nothing else."
)


class Fold(msgspec.Struct, frozen=True):
    """What a summary is made of: the summary before it, and the messages that it will cover, oldest first."""

    tenant: str
    conversation_id: str
    before: str
    messages: tuple[Sized, ...]


def fold_of(prompts: TurnPrompts, model: Model) -> Fold | None:
    """What to summarize after this turn; None if the history leaves enough of the budget free, or is not to be."""
    source, budget = prompts.source, prompts.budget(model)
    conversation = source.conversation
    if conversation.context.overflow is not Overflow.SUMMARIZE or budget is None:
        return None
    items, _ = sized_branch(source, prompts.new, prompts.sizing(model))
    history = items[: turn_start(items)]
    if sum([item.tokens for item in history]) <= FULL_SHARE * budget:
        return None
    left, first = LEFT_SHARE * budget, len(history)
    while first and history[first - 1].tokens <= left:
        first -= 1
        left -= history[first].tokens
    while first < len(history) and history[first].message.role is not Role.USER:
        first += 1
    before = source.summary.text if source.summary is not None else ""
    return Fold(conversation.tenant, conversation.id, before, tuple(history[:first])) if first else None


class SummaryPrompts:
    """Implements `Prompts` for a summary: as many of the messages, from the oldest on, as the model's context holds.

    `covered` is the id of the last of them."""

    def __init__(self, fold: Fold, estimator: Estimator) -> None:
        self._fold = fold
        self._estimator = estimator
        self._share = 1.0
        self.asked: Prompt | None = None
        self.covered = ""

    def of(self, model: Model, *, with_kept: bool = True) -> Prompt:  # noqa: ARG002 - a summary keeps no item
        """See `Prompts.of`."""
        rates = self._estimator.rates(model)
        context = self._estimator.context_tokens(model) or UNKNOWN_CONTEXT_TOKENS
        room = self._share * (context - 2 * MAX_TOKENS) - rates.fixed
        text, count = _transcript(self._fold, rates, room)
        self.covered = self._fold.messages[count - 1].message.id
        size = utf8_size(text) + utf8_size(INSTRUCTION)
        self.asked = Prompt(
            model=model,
            messages=(_said("system", INSTRUCTION), _said("user", text)),
            sampling=Sampling(
                max_output_tokens=min(MAX_TOKENS, model.max_output_tokens or MAX_TOKENS),
                reasoning_effort=next((effort for effort in EFFORTS if effort in model.efforts), ""),
            ),
            tenant=self._fold.tenant,
            estimated_tokens=round(rates.fixed + rates.per_byte * size + 2 * MESSAGE_TOKENS),
            likely_tokens=self._estimator.likely_tokens(model, text_bytes=size, messages=2, images=0, extra_tokens=0),
            text_bytes=size,
        )
        return self.asked

    def refused_as_too_long(
        self,
        model: Model,  # noqa: ARG002 - one model is asked
        *,
        limit_tokens: int | None,
        prompt_tokens: int | None,
    ) -> bool:
        """See `Prompts.refused_as_too_long`."""
        if self.asked is not None:
            self._estimator.refused(self.asked, limit_tokens=limit_tokens, prompt_tokens=prompt_tokens)
        shortened, self._share = self._share < 1, 0.5
        return not shortened


def _transcript(fold: Fold, rates: Rates, room: float) -> tuple[str, int]:
    """The summary before and the oldest messages that fit, at least the beginning of one; and how many these are."""
    lines = [f"Earlier summary: {fold.before}"] if fold.before else []
    left, count = room - rates.per_byte * sum(map(utf8_size, lines)), 0
    for item in fold.messages:
        line = f"{item.message.role.capitalize()}: {_text_of(item)}"
        if not count:
            line = utf8_prefix(line, max(LEAST_BYTES, int(left / rates.per_byte)))
        left -= rates.per_byte * utf8_size(line) + 1
        if left < 0 and count:
            break
        lines.append(line)
        count += 1
    return "\n\n".join(lines), count


def _text_of(item: Sized) -> str:
    texts = []
    for part in item.message.parts:
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, ToolCallPart):
            texts.append(f"[call of {part.name} {part.arguments}]")
        elif isinstance(part, ToolResultPart):
            texts.append(f"[result {part.content}]")
    return "\n".join([utf8_prefix(text, MAX_PART_BYTES) for text in texts])


def _said(role: str, text: str) -> PromptMessage:
    return PromptMessage(role=role, parts=(TextPart(text=text),))
