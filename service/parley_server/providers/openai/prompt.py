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
from parley_server.providers.reading.json_values import json_object
from parley_server.providers.reading.tool_ids import ToolIdMap
from parley_server.settings import Switches

Json = dict[str, Any]
TOOL_CHOICES = ("auto", "none", "required")


def chat_body(prompt: Prompt, switches: Switches, *, origin: str) -> Json:
    """The body of a request; see `messages_of` and `options_of`."""
    body = {
        "model": prompt.model.name,
        "messages": messages_of(prompt, switches, origin=origin),
        "stream": True,
        **options_of(prompt, switches),
    }
    if stream_options := stream_options_of(switches):
        body["stream_options"] = stream_options
    return body


def messages_of(prompt: Prompt, switches: Switches, *, origin: str = "") -> list[Json]:
    """The field `messages`: one entry for each message; a TOOL message gives one for each of its results. `origin`:
    that of the endpoint for this model; what was kept of the answers of other origins is not sent."""
    messages = tuple(message for message in prompt.messages if has_content(message))
    if not switches.system_anywhere:
        messages = fold_system(messages)
    if switches.alternate:
        messages = alternate(messages)
    if not switches.prefill:
        messages = ask_at_end(messages)
    writer = _Writer(switches, origin, thinks=switches.replay_reasoning == "content" and _has_tools(prompt))
    return [entry for message in messages for entry in writer.entries(message)]


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
        schema = json_object(prompt.json_schema, "json_schema")
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


def has_content(message: PromptMessage) -> bool:
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
        function["parameters"] = json_object(tool.parameters, f"parameters of the tool {tool.name}")
    return {"type": "function", "function": function}


def _tool_choice(choice: str) -> str | Json:
    return choice if choice in TOOL_CHOICES else {"type": "function", "function": {"name": choice}}


class _Writer:
    """Writes the messages of one prompt, in order. `thinks`: with the reasoning of each assistant message."""

    def __init__(self, switches: Switches, origin: str, *, thinks: bool) -> None:
        self._ids = ToolIdMap(switches.tool_id)
        self._origin = origin
        self._thinks = thinks

    def entries(self, message: PromptMessage) -> Iterable[Json]:
        """The entries of a message."""
        if message.role == "tool":
            return [_result(part, self._ids) for part in message.parts if isinstance(part, ToolResultPart)]
        if message.role == "assistant":
            return [self._assistant(message)]
        return [{"role": message.role, "content": _content(message.parts)}]

    def _assistant(self, message: PromptMessage) -> Json:
        text = text_of(message.parts)
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        # OpenAI's form of an answer that consists only of calls has no text.
        entry: Json = {"role": "assistant", "content": text or (None if calls else "")}
        if self._thinks:
            thoughts = [part.text for part in message.parts if isinstance(part, ReasoningPart)]
            entry["reasoning_content"] = "".join(thoughts)
        if message.kept is not None and message.kept.origin == self._origin:
            for call in calls:
                self._ids.of_kept_call(call.id)
            for item in message.kept.items:
                entry |= msgspec.json.decode(item, type=Json)
        elif calls:
            entry["tool_calls"] = [_call(call, self._ids) for call in calls]
        return entry


def _has_tools(prompt: Prompt) -> bool:
    """Whether the conversation uses tools. Only then do vendors require the reasoning of earlier messages."""
    parts = [part for message in prompt.messages for part in message.parts]
    return bool(prompt.tools) or any(isinstance(part, ToolCallPart) for part in parts)


def text_of(parts: tuple[Part, ...]) -> str:
    """The text of a message."""
    return "".join([part.text for part in parts if isinstance(part, TextPart)])


def _content(parts: tuple[Part, ...]) -> str | list[Json]:
    shown = [part for part in parts if not isinstance(part, ReasoningPart)]
    if all(isinstance(part, TextPart) for part in shown):
        return text_of(parts)
    return [_part(part) for part in shown]


def _part(part: Part) -> Json:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": image_url(part)}}
    return {"type": "text", "text": part.text if isinstance(part, TextPart) else ""}


def image_url(image: ImagePart) -> str:
    """The URL of an image, which holds its bytes if they are known."""
    if image.data:
        return f"data:{image.mime_type};base64,{base64.b64encode(image.data).decode('ascii')}"
    return image.url


def _call(call: ToolCallPart, ids: ToolIdMap) -> Json:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": ids.of_call(call.id), "type": "function", "function": function}


def _result(result: ToolResultPart, ids: ToolIdMap) -> Json:
    return {"role": "tool", "tool_call_id": ids.of_result(result.tool_call_id), "content": result.content}
