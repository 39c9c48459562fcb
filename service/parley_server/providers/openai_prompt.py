"""Turns a prompt into the body of a chat completion request in OpenAI's dialect, in the order in which it was given."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import msgspec

from parley_server.core.model import (
    ImagePart,
    Part,
    Prompt,
    PromptMessage,
    ReasoningPart,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.errors import ProviderRejected

Json = dict[str, Any]
TOOL_CHOICES = ("auto", "none", "required")


def messages_of(prompt: Prompt) -> list[Json]:
    """The `messages` field: one entry for each message, but one for each tool result."""
    return [entry for message in prompt.messages for entry in _entries(message)]


def options_of(prompt: Prompt) -> Json:
    """All fields but `model`, `messages` and those about streaming; what is not set is left out.

    Raises `ProviderRejected` for a schema that is not a JSON object.
    """
    options = _sampling(prompt.sampling)
    if prompt.tools:
        options["tools"] = [_tool(tool) for tool in prompt.tools]
        if prompt.tool_choice:
            options["tool_choice"] = _tool_choice(prompt.tool_choice)
    if prompt.json_schema:
        schema = _object(prompt.json_schema, "json_schema")
        options["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return options


def _sampling(sampling: Sampling) -> Json:
    fields: Json = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_completion_tokens": sampling.max_output_tokens,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "reasoning_effort": sampling.reasoning_effort or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = _object(tool.parameters, f"parameters of the tool {tool.name}")
    return {"type": "function", "function": function}


def _tool_choice(choice: str) -> str | Json:
    return choice if choice in TOOL_CHOICES else {"type": "function", "function": {"name": choice}}


def _entries(message: PromptMessage) -> Iterable[Json]:
    if message.role == "tool":
        return [_result(part) for part in message.parts if isinstance(part, ToolResultPart)]
    if message.role == "assistant":
        return _assistant(message.parts)
    content = _content(message.parts)
    return [{"role": message.role, "content": content}] if content else []


def _assistant(parts: tuple[Part, ...]) -> list[Json]:
    text = "".join([part.text for part in parts if isinstance(part, TextPart)])
    calls = [_call(part) for part in parts if isinstance(part, ToolCallPart)]
    if calls:
        return [{"role": "assistant", "content": text or None, "tool_calls": calls}]
    return [{"role": "assistant", "content": text}] if text else []


def _content(parts: tuple[Part, ...]) -> str | list[Json]:
    shown = [part for part in parts if not isinstance(part, ReasoningPart)]
    if all(isinstance(part, TextPart) for part in shown):
        return "".join([part.text for part in shown if isinstance(part, TextPart)])
    return [_part(part) for part in shown]


def _part(part: Part) -> Json:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": _image_url(part)}}
    return {"type": "text", "text": part.text if isinstance(part, TextPart) else ""}


def _image_url(image: ImagePart) -> str:
    if image.data:
        return f"data:{image.mime_type};base64,{base64.b64encode(image.data).decode('ascii')}"
    return image.url


def _call(call: ToolCallPart) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}


def _result(result: ToolResultPart) -> Json:
    return {"role": "tool", "tool_call_id": result.tool_call_id, "content": result.content}


def _object(text: str, what: str) -> Json:
    try:
        return msgspec.json.decode(text, type=Json)
    except msgspec.DecodeError:
        raise ProviderRejected(f"the {what} is not a JSON object") from None
