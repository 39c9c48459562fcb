"""Estimates the tokens of prompts from their bytes, and learns from what providers count.

Bytes of UTF-8 are a better measure than characters, whose tokens differ four-fold between scripts. What is learnt is
kept in memory only: ten replies teach it, and a wrong estimate costs history, not a failure.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from parley_server.core.events import utf8_size
from parley_server.core.model import (
    ImagePart,
    Model,
    Part,
    Prompt,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCallPart,
    Usage,
)
from parley_server.core.observer import Observer

logger = logging.getLogger("parley.context")

MESSAGE_TOKENS = 8
IMAGE_TOKENS = 1600
TOOLS_TOKENS = 1024
"""What vendors add to a prompt with tools."""
SCHEMA_TOKENS = 256
COLD_FIXED_TOKENS = 96.0
COLD_TOKENS_PER_BYTE = 0.40
MOST_FIXED_TOKENS = 4000.0
LEAST_LEARNT_BYTES = 4000
"""A smaller prompt says more about the tokens that every prompt has than about the tokens of a byte."""
LEAST_LIMIT_TOKENS = 128
"""A provider that names a lower limit does not mean its context."""
READ_BYTES_PER_TOKEN = 8
"""A branch is read up to this many bytes for each token of a budget: more than the tokens of nearly any text have."""
RATIO_RANGE = (0.02, 4.0)
OWN_RATIO_MARGIN = 1.1

ModelKey: TypeAlias = tuple[str, str]


class Rates(msgspec.Struct, frozen=True):
    """The tokens that every prompt of a model has, and those of a byte."""

    fixed: float = COLD_FIXED_TOKENS
    per_byte: float = COLD_TOKENS_PER_BYTE


def content_size(parts: Iterable[Part], *, with_reasoning: bool = False) -> tuple[int, int]:
    """The bytes of text, and the number of images. Reasoning is sent within an unfinished tool turn only."""
    size, images = 0, 0
    for part in parts:
        if isinstance(part, TextPart):
            size += utf8_size(part.text)
        elif isinstance(part, ImagePart):
            images += 1
        elif isinstance(part, ToolCallPart):
            size += utf8_size(part.name) + utf8_size(part.arguments)
        elif isinstance(part, ReasoningPart):
            size += utf8_size(part.text) if with_reasoning else 0
        else:
            size += utf8_size(part.content)
    return size, images


def tools_size(tools: tuple[Tool, ...], json_schema: str) -> int:
    """The bytes of the tools' definitions and of the schema."""
    texts = [text for tool in tools for text in (tool.name, tool.description, tool.parameters)]
    return sum(utf8_size(text) for text in texts) + utf8_size(json_schema)


def extra_tokens(*, tools: bool, json_schema: bool) -> int:
    """What vendors add to a prompt with tools or a schema."""
    return (TOOLS_TOKENS if tools else 0) + (SCHEMA_TOKENS if json_schema else 0)


def most_bytes(models: Iterable[Model]) -> int:
    """The bytes of a branch that are enough for a prompt of any of these models. 0: the context of one is unknown."""
    contexts = [model.context_tokens for model in models]
    return max(contexts, default=0) * READ_BYTES_PER_TOKEN if all(contexts) else 0


def own_ratio(last: Usage | None, rates: Rates) -> float:
    """The tokens of a byte of a conversation's history: by its own last reply of this model, else by the model."""
    if last is None or last.prompt_bytes < LEAST_LEARNT_BYTES or last.prompt_tokens <= 0:
        return rates.per_byte
    return _bounded(OWN_RATIO_MARGIN * last.prompt_tokens / last.prompt_bytes)


class _Learnt(msgspec.Struct):
    """What is known of a model: a and b, the mean deviation v of b, and the number of counts behind each."""

    fixed: float = COLD_FIXED_TOKENS
    ratio: float = COLD_TOKENS_PER_BYTE
    deviation: float = 0.0
    fixed_counts: int = 0
    ratio_counts: int = 0
    limit_tokens: int = 0

    def learn_fixed(self, tokens: float) -> None:
        self.fixed_counts += 1
        self.fixed += _weight(self.fixed_counts) * (tokens - self.fixed)
        self.fixed = min(max(self.fixed, 0.0), MOST_FIXED_TOKENS)

    def learn_ratio(self, ratio: float) -> None:
        self.ratio_counts += 1
        weight, off = _weight(self.ratio_counts), ratio - self.ratio
        self.ratio += weight * off
        self.deviation += weight * (abs(off) - self.deviation)


class Estimator:
    """What the process has learnt about the prompts of each model, by provider and the vendor's name of the model."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._models: dict[ModelKey, _Learnt] = {}

    def rates(self, model: Model) -> Rates:
        """The rates for an estimate that is rarely too low: mean and three times the mean deviation."""
        learnt = self._models.get(_key(model))
        if learnt is None:
            return Rates()
        return Rates(learnt.fixed, _bounded(learnt.ratio + 3 * learnt.deviation))

    def mean_rates(self, model: Model) -> Rates:
        """The rates for an estimate that is too low as often as too high."""
        learnt = self._models.get(_key(model))
        return Rates() if learnt is None else Rates(learnt.fixed, learnt.ratio)

    def context_tokens(self, model: Model) -> int:
        """The context of the model: as configured, or less if the provider has named a lower limit. 0: unknown."""
        learnt = self._models.get(_key(model))
        limits = [limit for limit in (model.context_tokens, learnt.limit_tokens if learnt else 0) if limit]
        return min(limits, default=0)

    def counted(self, prompt: Prompt, usage: Usage) -> Usage:
        """Learn from a provider's count of a prompt; returns it with the bytes that were counted, if they are known.

        Prompts with images teach nothing, because the tokens of an image depend on its size. A count below half of the
        estimate is probably that of a part: some servers cut a long prompt silently."""
        tokens, size = usage.prompt_tokens, prompt.text_bytes
        if not size or tokens <= 0:
            return usage
        self._observer.prompt_counted(prompt.estimated_tokens / tokens)
        learnt = self._of(prompt.model)
        if size < LEAST_LEARNT_BYTES:
            if not prompt.tools and not prompt.json_schema:
                learnt.learn_fixed(tokens - learnt.ratio * size - MESSAGE_TOKENS * len(prompt.messages))
        elif 2 * tokens < prompt.estimated_tokens:
            fields = {"model": prompt.model.alias, "estimated": prompt.estimated_tokens, "counted": tokens}
            logger.warning("prompt_cut_by_provider", extra={"fields": fields})
            return usage
        else:
            learnt.learn_ratio(_bounded((tokens - learnt.fixed) / size))
        return msgspec.structs.replace(usage, prompt_bytes=size)

    def refused(self, prompt: Prompt, *, limit_tokens: int | None, prompt_tokens: int | None) -> None:
        """Learn from a refusal of a prompt as too long: the provider's limit, and its count of the prompt."""
        learnt = self._of(prompt.model)
        if limit_tokens is not None and limit_tokens >= LEAST_LIMIT_TOKENS:
            learnt.limit_tokens = limit_tokens
        if prompt_tokens and prompt.text_bytes >= LEAST_LEARNT_BYTES:
            learnt.learn_ratio(_bounded((prompt_tokens - learnt.fixed) / prompt.text_bytes))

    def _of(self, model: Model) -> _Learnt:
        return self._models.setdefault(_key(model), _Learnt())


def _key(model: Model) -> ModelKey:
    return model.provider, model.name


def _weight(counts: int) -> float:
    return max(1 / counts, 0.1)


def _bounded(ratio: float) -> float:
    least, most = RATIO_RANGE
    return min(max(ratio, least), most) if math.isfinite(ratio) else COLD_TOKENS_PER_BYTE
