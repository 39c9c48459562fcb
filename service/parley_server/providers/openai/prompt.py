"""Converts a prompt to the body of a chat completion request, according to the endpoint's switches."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import msgspec

from parley_server.core.context.repair import alternate, ask_at_end, fold_system
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
from parley_server.providers.reading.tool_ids import ToolIdMap
from parley_server.settings import Switches

Json = dict[str, Any]
TOOL_CHOICES = ("auto", "none", "required")


def messages_of(prompt: Prompt, switches: Switches) -> list[Json]:
    """The field `messages`: one entry for each message; a TOOL message gives one for each of its results."""
    messages = tuple(message for message in prompt.messages if _has_content(message))
    if not switches.system_anywhere:
        messages = fold_system(messages)
    if switches.alternate:
        messages = alternate(messages)
    if not switches.prefill:
        messages = ask_at_end(messages)
    ids = ToolIdMap(switches.tool_id)
    return [entry for message in messages for entry in _entries(message, ids)]


def options_of(prompt: Prompt, switches: Switches) -> Json:
    """All fields except `model`, `messages` and those for streaming. Unset options are left out.

    Raises `ProviderRejected` for a schema that is not a JSON object.
    """
    options = _sampling(prompt.sampling, switches)
    if prompt.tools:
        options["tools"] = [_tool(tool) for tool in prompt.tools]
        if prompt.tool_choice:
            options["tool_choice"] = _tool_choice(prompt.tool_choice)
    if prompt.json_schema:
        schema = _object(prompt.json_schema, "json_schema")
        options["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if switches.no_store:
        options["store"] = False
    if switches.cache_key and prompt.cache_key:
        options["prompt_cache_key"] = prompt.cache_key
    return options


def stream_options_of(switches: Switches) -> Json:
    """The field `stream_options`; empty if no option is set."""
    options: Json = {}
    if switches.ask_usage:
        options["include_usage"] = True
    if switches.no_obfuscation:
        options["include_obfuscation"] = False
    return options


def _has_content(message: PromptMessage) -> bool:
    """Whether the message has content to send. An assistant's images and reasoning are not sent."""
    kinds = (ToolCallPart,) if message.role == "assistant" else (ImagePart, ToolResultPart)
    return any(isinstance(part, kinds) or (isinstance(part, TextPart) and part.text) for part in message.parts)


def _sampling(sampling: Sampling, switches: Switches) -> Json:
    fields: Json = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        switches.max_tokens_field: sampling.max_output_tokens,
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


def _entries(message: PromptMessage, ids: ToolIdMap) -> Iterable[Json]:
    if message.role == "tool":
        return [_result(part, ids) for part in message.parts if isinstance(part, ToolResultPart)]
    if message.role == "assistant":
        return [_assistant(message.parts, ids)]
    return [{"role": message.role, "content": _content(message.parts)}]


def _assistant(parts: tuple[Part, ...], ids: ToolIdMap) -> Json:
    text = "".join([part.text for part in parts if isinstance(part, TextPart)])
    calls = [_call(part, ids) for part in parts if isinstance(part, ToolCallPart)]
    if calls:
        # OpenAI's form of an answer that consists only of calls.
        return {"role": "assistant", "content": text or None, "tool_calls": calls}
    return {"role": "assistant", "content": text}


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


def _call(call: ToolCallPart, ids: ToolIdMap) -> Json:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": ids.of_call(call.id), "type": "function", "function": function}


def _result(result: ToolResultPart, ids: ToolIdMap) -> Json:
    return {"role": "tool", "tool_call_id": ids.of_result(result.tool_call_id), "content": result.content}


def _object(text: str, what: str) -> Json:
    try:
        return msgspec.json.decode(text, type=Json)
    except msgspec.DecodeError:
        raise ProviderRejected(f"the {what} is not a JSON object") from None
