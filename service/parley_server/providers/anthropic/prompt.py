"""Converts a prompt to the body of a request to the Messages API."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from parley_server.core.context.repair import alternate, ask_at_end, fold_system
from parley_server.core.model import (
    ImagePart,
    Model,
    Part,
    Prompt,
    PromptMessage,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.providers.reading.json_values import is_object, json_object
from parley_server.providers.reading.tool_ids import ToolIdMap

Json = dict[str, Any]
Messages = tuple[PromptMessage, ...]

USUAL_MAX_TOKENS = 4096
"""Output limit of a model whose own is not known: every model accepts it, and the API requires one."""
LEAST_MAX_TOKENS = 1024
"""Output tokens that are requested even where the estimate of the prompt leaves less room, because it may be wrong."""
MAX_MARKS = 4
MAX_TEMPERATURE = 1.0
CACHED: Json = {"type": "ephemeral"}
NO_PARAMETERS: Json = {"properties": {}}

_TOOL_CHOICES: dict[str, Json] = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}


def message_body(prompt: Prompt, *, origin: str) -> Json:
    """The body of a request. `origin`: that of the endpoint for this model; what was kept of the answers of other
    origins is not sent. Raises `ProviderRejected` for a schema that is not a JSON object."""
    messages = _with_marks([message for message in prompt.messages if _has_content(message)], prompt.model)
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    writer = _Writer(origin)
    body: Json = {
        "model": prompt.model.name,
        "max_tokens": _max_tokens(prompt),
        "messages": writer.entries(_strict(messages[first:], prompt.model)),
        "stream": True,
    }
    if system := [block for message in messages[:first] for block in writer.blocks(message)]:
        body["system"] = system
    return body | _options(prompt)


def _max_tokens(prompt: Prompt) -> int:
    """The request's limit, else the model's, lowered to what the prompt leaves of the model's context."""
    model = prompt.model
    wanted = prompt.sampling.max_output_tokens or model.max_output_tokens or USUAL_MAX_TOKENS
    if not model.context_tokens or not prompt.estimated_tokens:
        return wanted
    return min(wanted, max(model.context_tokens - prompt.estimated_tokens, LEAST_MAX_TOKENS))


def _options(prompt: Prompt) -> Json:
    tool_choice = _tool_choice(prompt)
    fields: Json = {
        **_sampling(prompt.sampling),
        "tools": [_tool(tool) for tool in prompt.tools] or None,
        "tool_choice": tool_choice,
        "output_config": _output_config(prompt) or None,
        "thinking": _thinking(prompt.model, tool_choice),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _sampling(sampling: Sampling) -> Json:
    temperature = sampling.temperature
    return {
        "temperature": None if temperature is None else min(temperature, MAX_TEMPERATURE),
        "top_p": sampling.top_p,
        "stop_sequences": list(sampling.stop) or None,
    }


def _output_config(prompt: Prompt) -> Json:
    config: Json = {}
    if prompt.sampling.reasoning_effort:
        config["effort"] = prompt.sampling.reasoning_effort
    if prompt.json_schema:
        config["format"] = {"type": "json_schema", "schema": json_object(prompt.json_schema, "json_schema")}
    return config


def _thinking(model: Model, tool_choice: Json | None) -> Json | None:
    # The vendor refuses thinking together with a choice that forces a tool call.
    forced = tool_choice is not None and tool_choice["type"] in ("any", "tool")
    return {"type": "adaptive", "display": "summarized"} if model.thinking == "adaptive" and not forced else None


def _tool(tool: Tool) -> Json:
    described = {"description": tool.description} if tool.description else {}
    schema = json_object(tool.parameters, f"parameters of the tool {tool.name}") if tool.parameters else NO_PARAMETERS
    return {"name": tool.name, **described, "input_schema": {"type": "object"} | schema}


def _tool_choice(prompt: Prompt) -> Json | None:
    choice = prompt.tool_choice
    if not prompt.tools or not choice:
        return None
    return _TOOL_CHOICES.get(choice) or {"type": "tool", "name": choice}


def _has_content(message: PromptMessage) -> bool:
    """Whether the message has content to send. Blank texts are refused, and an assistant's images and reasoning are
    not sent."""
    kinds = (ToolCallPart,) if message.role == "assistant" else (ImagePart, ToolResultPart)
    return any(isinstance(part, kinds) or _is_text(part) for part in message.parts)


def _is_text(part: Part) -> bool:
    return isinstance(part, TextPart) and bool(part.text.strip())


def _strict(messages: Messages, model: Model) -> Messages:
    messages = alternate(fold_system(messages))
    return messages if model.prefill else ask_at_end(messages)


def _with_marks(messages: list[PromptMessage], model: Model) -> Messages:
    """The messages with the newest marks alone, as many as the vendor takes; none for a model without a cache."""
    most = MAX_MARKS if model.cache_min else 0
    marked = [i for i, message in enumerate(messages) if message.cache_mark]
    for i in marked[: max(len(marked) - most, 0)]:
        messages[i] = msgspec.structs.replace(messages[i], cache_mark=False)
    return tuple(messages)


class _Writer:
    """Writes the messages of one prompt, in order."""

    def __init__(self, origin: str) -> None:
        self._ids = ToolIdMap("long")
        self._origin = origin

    def entries(self, messages: Messages) -> list[Json]:
        """The field `messages`. The results of one tool turn are one entry, as the vendor requires."""
        entries: list[Json] = []
        for message in messages:
            role = "assistant" if message.role == "assistant" else "user"
            if not entries or entries[-1]["role"] != role:
                entries.append({"role": role, "content": []})
            entries[-1]["content"] += self.blocks(message)
        return entries

    def blocks(self, message: PromptMessage) -> list[Any]:
        """The content blocks of a message."""
        if message.role == "assistant" and message.kept is not None and message.kept.origin == self._origin:
            for part in message.parts:
                if isinstance(part, ToolCallPart):
                    self._ids.of_kept_call(part.id)
            return [msgspec.Raw(item.encode()) for item in message.kept.items]
        blocks = [block for part in message.parts if (block := self._block(part, message.role)) is not None]
        if message.cache_mark and blocks:
            blocks[-1]["cache_control"] = CACHED
        return blocks

    def _block(self, part: Part, role: str) -> Json | None:
        if isinstance(part, TextPart):
            return {"type": "text", "text": part.text} if part.text.strip() else None
        if isinstance(part, ToolCallPart):
            return {"type": "tool_use", "id": self._ids.of_call(part.id), "name": part.name, "input": _input(part)}
        if isinstance(part, ToolResultPart):
            return {
                "type": "tool_result",
                "tool_use_id": self._ids.of_result(part.tool_call_id),
                "content": part.content,
            }
        if isinstance(part, ImagePart) and role != "assistant":
            return {"type": "image", "source": _source(part)}
        return None


def _input(call: ToolCallPart) -> msgspec.Raw:
    """The arguments of a call as they are, so that numbers keep their form; an empty object if they are no object."""
    return msgspec.Raw(call.arguments.encode() if is_object(call.arguments) else b"{}")


def _source(image: ImagePart) -> Json:
    if not image.data:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.mime_type, "data": base64.b64encode(image.data).decode("ascii")}
