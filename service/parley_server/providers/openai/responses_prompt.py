"""Converts a prompt to the body of a request to the Responses API, according to the endpoint's switches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from parley_server.core.context.repair import alternate, ask_at_end
from parley_server.core.model import (
    ImagePart,
    Part,
    Prompt,
    PromptMessage,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.providers.openai.prompt import TOOL_CHOICES, has_content, image_url, text_of
from parley_server.providers.reading.json_values import json_object
from parley_server.providers.reading.tool_ids import ToolIdMap
from parley_server.settings import Switches

Json = dict[str, Any]

NO_PARAMETERS: Json = {"type": "object", "properties": {}}
SECTION_BREAK = "\n\n"


def responses_body(prompt: Prompt, switches: Switches, *, origin: str) -> Json:
    """The body of a request. `origin`: that of the endpoint for this model; items of other origins are not sent.

    Nothing is stored at the vendor, so that the prompt must hold everything, also the reasoning of the tool turn in
    encrypted form. Raises `ProviderRejected` for a schema that is not a JSON object."""
    messages = tuple(message for message in prompt.messages if has_content(message))
    at = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    instructions = SECTION_BREAK.join([text_of(message.parts) for message in messages[:at]])
    body: Json = {"model": prompt.model.name, "input": _input(messages[at:], switches, origin)}
    if instructions:
        body["instructions"] = instructions
    body |= {"stream": True, "store": False} | _options(prompt)
    if switches.no_obfuscation:
        body["stream_options"] = {"include_obfuscation": False}
    if switches.cache_key and prompt.cache_key:
        body["prompt_cache_key"] = prompt.cache_key
    return body


def _options(prompt: Prompt) -> Json:
    sampling = prompt.sampling
    effort = {"effort": sampling.reasoning_effort} if sampling.reasoning_effort else {}
    summary = {"summary": "auto"} if prompt.model.reasoning_summary else {}
    fields: Json = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_output_tokens": sampling.max_output_tokens,
        "reasoning": effort | summary or None,
        # Models that do not reason refuse it.
        "include": ["reasoning.encrypted_content"] if prompt.model.reasoning or effort or summary else None,
        "tools": [_tool(tool) for tool in prompt.tools] or None,
        "tool_choice": _tool_choice(prompt.tool_choice) if prompt.tools and prompt.tool_choice else None,
    }
    if prompt.json_schema:
        schema = json_object(prompt.json_schema, "json_schema")
        fields["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}
    return {name: value for name, value in fields.items() if value is not None}


def _tool(tool: Tool) -> Json:
    parameters = json_object(tool.parameters, f"parameters of the tool {tool.name}") if tool.parameters else None
    described = {"description": tool.description} if tool.description else {}
    # Without `strict`, this API checks the schema by the rules of strict mode, which refuse most schemas.
    return {
        "type": "function",
        "name": tool.name,
        **described,
        "parameters": parameters or NO_PARAMETERS,
        "strict": False,
    }


def _tool_choice(choice: str) -> str | Json:
    return choice if choice in TOOL_CHOICES else {"type": "function", "name": choice}


def _input(messages: tuple[PromptMessage, ...], switches: Switches, origin: str) -> list[Any]:
    if switches.alternate:
        messages = alternate(messages)
    if not switches.prefill:
        messages = ask_at_end(messages)
    ids = ToolIdMap(switches.tool_id)
    return [item for message in messages for item in _items(message, ids, origin)]


def _items(message: PromptMessage, ids: ToolIdMap, origin: str) -> Iterable[Any]:
    if message.role == "tool":
        return [_result(part, ids) for part in message.parts if isinstance(part, ToolResultPart)]
    if message.role == "assistant":
        return _assistant(message, ids, origin)
    role = "developer" if message.role == "system" else message.role
    return [{"role": role, "content": _content(message.parts)}]


def _assistant(message: PromptMessage, ids: ToolIdMap, origin: str) -> list[Any]:
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if message.kept is not None and message.kept.origin == origin:
        for call in calls:
            ids.of_kept_call(call.id)
        return [msgspec.Raw(item.encode()) for item in message.kept.items]
    text = text_of(message.parts)
    # llama.cpp refuses an answer without `type`, which OpenAI takes as well.
    said: list[Any] = [{"type": "message", "role": "assistant", "content": text}] if text else []
    return said + [_call(call, ids) for call in calls]


def _content(parts: tuple[Part, ...]) -> str | list[Json]:
    shown = [part for part in parts if not isinstance(part, ReasoningPart)]
    if any(isinstance(part, ImagePart) for part in shown):
        return [_part(part) for part in shown]
    return text_of(parts)


def _part(part: Part) -> Json:
    if isinstance(part, ImagePart):
        return {"type": "input_image", "detail": "auto", "image_url": image_url(part)}
    return {"type": "input_text", "text": part.text if isinstance(part, TextPart) else ""}


def _call(call: ToolCallPart, ids: ToolIdMap) -> Json:
    return {
        "type": "function_call",
        "call_id": ids.of_call(call.id),
        "name": call.name,
        "arguments": call.arguments or "{}",
    }


def _result(result: ToolResultPart, ids: ToolIdMap) -> Json:
    return {"type": "function_call_output", "call_id": ids.of_result(result.tool_call_id), "output": result.content}
