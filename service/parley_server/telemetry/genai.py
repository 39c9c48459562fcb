"""Names of the GenAI semantic conventions of OpenTelemetry, and messages in their form.

The conventions have the status "development" and their own repository (semantic-conventions-genai). The names stand
here as constants, because the Python package of the conventions still has former ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from parley_server.core.model import (
    Finish,
    ImagePart,
    Part,
    PromptMessage,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
CONVERSATION = "gen_ai.conversation.id"
OUTPUT_TYPE = "gen_ai.output.type"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STOP = "gen_ai.request.stop_sequences"
REQUEST_REASONING = "gen_ai.request.reasoning.level"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

CHAT = "chat"
ERROR = "error"
"""The finish reason of an answer that has none."""

DURATION = "gen_ai.client.inference.duration"
TIME_TO_FIRST_CHUNK = "gen_ai.client.inference.time_to_first_chunk"
USAGE_INPUT = "gen_ai.client.inference.usage.input_tokens"
USAGE_OUTPUT = "gen_ai.client.inference.usage.output_tokens"
USAGE_CACHE_READ = "gen_ai.client.inference.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE = "gen_ai.client.inference.usage.cache_write.input_tokens"
USAGE_REASONING = "gen_ai.client.inference.usage.reasoning.output_tokens"
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""The buckets of the two histograms, as the conventions recommend them."""

MAX_CONTENT_CHARACTERS = 32_768
"""Limit of all text of one attribute: collectors accept 4 MiB in one request by default."""


def prometheus_name(name: str) -> str:
    """The name of a metric or an attribute in Prometheus, without a unit."""
    return name.replace(".", "_")


def input_messages(messages: Sequence[PromptMessage]) -> str:
    """The newest messages of a prompt as JSON, up to a limit. Images are named but not included."""
    left = MAX_CONTENT_CHARACTERS
    shown: list[dict[str, Any]] = []
    for message in reversed(messages):
        if left <= 0:
            break
        parts, left = _parts(message.parts, left)
        shown.append({"role": message.role, "parts": parts})
    return msgspec.json.encode(shown[::-1]).decode()


def output_messages(answer: Iterable[Part], finish: Finish | None) -> str:
    """An answer as JSON, up to a limit."""
    parts, _ = _parts(answer, MAX_CONTENT_CHARACTERS)
    message = {"role": "assistant", "parts": parts, "finish_reason": finish_word(finish)}
    return msgspec.json.encode([message]).decode()


def finish_word(finish: Finish | None) -> str:
    """The finish reason in the provider's own words, or else Parley's; "error" for an answer that is not complete."""
    if finish is None:
        return ERROR
    return finish.provider_reason or finish.reason.value.lower()


def _parts(parts: Iterable[Part], left: int) -> tuple[list[dict[str, Any]], int]:
    """The parts with at most `left` characters of text, and how many characters are left."""
    shown = []
    for part in parts:
        shown.append(_part(part, max(0, left)))
        left -= _length(part)
    return shown, left


def _length(part: Part) -> int:
    if isinstance(part, TextPart | ReasoningPart):
        return len(part.text)
    if isinstance(part, ToolCallPart):
        return len(part.arguments)
    return len(part.content) if isinstance(part, ToolResultPart) else 0


def _part(part: Part, limit: int) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "content": part.text[:limit]}
    if isinstance(part, ReasoningPart):
        return {"type": "reasoning", "content": part.text[:limit]}
    if isinstance(part, ToolCallPart):
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": _arguments(part.arguments, limit)}
    if isinstance(part, ToolResultPart):
        return {"type": "tool_call_response", "id": part.tool_call_id, "response": part.content[:limit]}
    assert isinstance(part, ImagePart)
    return {"type": "image", "mime_type": part.mime_type, "bytes": part.size_bytes}


def _arguments(text: str, limit: int) -> Any:
    """The arguments of a call as a value, or as text if they are incomplete or too long."""
    if len(text) <= limit:
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(text)
    return text[:limit]
