"""Attributes of spans, written into messages of OTLP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from parley_server.core.model import Prompt, Usage
from parley_server.core.observer import Target
from parley_server.telemetry import genai

Value = str | bool | int | float | tuple[str, ...] | None
Attributes = Iterable[tuple[str, Value]]


def of_request(prompt: Prompt) -> Attributes:
    """The settings that a request has."""
    sampling = prompt.sampling
    return (
        (genai.REQUEST_MAX_TOKENS, sampling.max_output_tokens or prompt.model.output_tokens or None),
        (genai.REQUEST_TEMPERATURE, sampling.temperature),
        (genai.REQUEST_TOP_P, sampling.top_p),
        (genai.REQUEST_SEED, sampling.seed),
        (genai.REQUEST_STOP, sampling.stop or None),
        (genai.REQUEST_REASONING, sampling.reasoning_effort or None),
        (genai.OUTPUT_TYPE, "json" if prompt.json_schema else None),
    )


def of_usage(usage: Usage) -> Attributes:
    """The provider's counts, without parts of them that are 0."""
    return (
        (genai.INPUT_TOKENS, usage.prompt_tokens),
        (genai.OUTPUT_TOKENS, usage.completion_tokens),
        (genai.CACHE_READ_TOKENS, usage.cached_prompt_tokens or None),
        (genai.CACHE_WRITE_TOKENS, usage.cache_write_prompt_tokens or None),
        (genai.REASONING_TOKENS, usage.reasoning_tokens or None),
    )


@lru_cache(maxsize=256)
def of_target(target: Target, provider: str, model: str) -> bytes:
    """What all requests for a model have, serialized, because that is cheapest to add. `model`: the vendor's name."""
    return _serialized(
        (genai.OPERATION, genai.CHAT),
        (genai.PROVIDER, target.system),
        (genai.REQUEST_MODEL, model),
        (genai.REQUEST_STREAM, True),
        (genai.SERVER_ADDRESS, target.host or None),
        (genai.SERVER_PORT, target.port or None),
        ("parley.provider", provider),
    )


@lru_cache(maxsize=256)
def of_method(method: str) -> bytes:
    """What all calls of a method have, serialized. `method`: without the first slash."""
    return _serialized(("rpc.system.name", "grpc"), ("rpc.method", method))


def _serialized(*attributes: tuple[str, Value]) -> bytes:
    message = Span()
    add_attributes(message, attributes)
    return message.SerializeToString()


def add_attributes(message: Span | Resource, attributes: Attributes) -> None:
    """Add those that have a value."""
    add: Callable[..., Any] = message.attributes.add
    for name, value in attributes:
        if value is None:
            continue
        if isinstance(value, str):
            add(key=name).value.string_value = value
        elif isinstance(value, bool):
            add(key=name).value.bool_value = value
        elif isinstance(value, int):
            add(key=name).value.int_value = value
        elif isinstance(value, float):
            add(key=name).value.double_value = value
        else:
            values = add(key=name).value.array_value.values
            for each in value:
                values.add(string_value=each)
