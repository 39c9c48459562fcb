"""Anthropic's own client: what it sends, what it reads, and which requests its types allow."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Literal, Required, Union, get_args, get_origin

import anthropic
from anthropic.types import Message
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from typing_extensions import get_type_hints, is_typeddict

from tests.recordings.plain import Outcome


@contextlib.asynccontextmanager
async def client_at(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The client for this base URL, without retries."""
    async with anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key="sk-secret", max_retries=0) as client:
        yield client


async def read_by_sdk(url: str) -> Message:
    """The message that the client reads from the server at this URL."""
    async with client_at(url) as client:
        messages: Any = [{"role": "user", "content": "Hi"}]
        async with client.messages.stream(model="acme-1", max_tokens=9, messages=messages) as stream:
            return await stream.get_final_message()


def outcome_of(message: Message, end: str) -> Outcome:
    """What the message says; `end` is the finish reason that its stop reason means."""
    blocks = message.content
    usage = message.usage
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    details = usage.output_tokens_details
    counts = (
        usage.input_tokens + cached + written,
        cached,
        usage.output_tokens,
        details.thinking_tokens if details else 0,
    )
    return Outcome(
        "".join(block.text for block in blocks if block.type == "text"),
        "".join(block.thinking for block in blocks if block.type == "thinking"),
        tuple((block.id, block.name, block.input) for block in blocks if block.type == "tool_use"),  # type: ignore[misc]
        end=end,
        word=message.stop_reason or "",
        counts=counts,
    )


def fault_of(body: Any, hint: Any = MessageCreateParamsStreaming, path: str = "body") -> str:
    """The first place where a request differs from the client's types; empty if there is none."""
    origin, args = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return _fault_of_object(body, get_type_hints(hint, include_extras=True), path)
    if origin is Union or type(hint).__name__ == "UnionType":
        faults = [fault_of(body, each, path) for each in args]
        return "" if "" in faults else max(faults, key=len)
    if origin is Literal:
        return "" if body in args else f"{path}: {body!r} is none of {args}"
    if origin in (Mapping, dict):
        return "" if isinstance(body, dict) else f"{path}: no object"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        faults = (
            [fault_of(each, args[0], f"{path}[{i}]") for i, each in enumerate(body)]
            if isinstance(body, list)
            else [path]
        )
        return next(filter(None, faults), "")
    if args:  # Required, Annotated
        return fault_of(body, args[0], path)
    kind = (int, float) if hint is float else hint
    return "" if hint in (Any, object) or (isinstance(kind, type | tuple) and isinstance(body, kind)) else path


def _fault_of_object(body: Any, hints: dict[str, Any], path: str) -> str:
    if not isinstance(body, dict):
        return f"{path}: no object"
    if unknown := body.keys() - hints.keys():
        return f"{path}: unknown {sorted(unknown)}"
    if missing := [name for name, hint in hints.items() if get_origin(hint) is Required and name not in body]:
        return f"{path}: without {missing}"
    return next(filter(None, (fault_of(value, hints[name], f"{path}.{name}") for name, value in body.items())), "")
