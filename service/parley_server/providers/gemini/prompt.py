"""Converts a prompt to the body of a generateContent request."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from parley_server.core.context.repair import Messages, alternate, ask_at_end, fold_system
from parley_server.core.model import (
    ImagePart,
    Part,
    Prompt,
    PromptMessage,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.errors import ProviderRejected
from parley_server.providers.reading.json_values import json_object, json_of
from parley_server.providers.reading.tool_calls import text_of_field
from parley_server.providers.reading.tool_ids import ToolIdMap

Json = dict[str, Any]

SIGNATURE_OF_NO_MODEL = "skip_thought_signature_validator"
"""Stands for the signature of a call that the endpoint's own model has not made, or whose signature is unknown."""
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}


def gemini_body(prompt: Prompt, *, origin: str) -> Json:
    """The body of a request. `origin`: that of the endpoint for this model; parts of other origins are not sent.

    Raises `ProviderRejected` for a schema that is not a JSON object, and for an image by URL."""
    messages = alternate(fold_system([each for each in map(_as_sent, prompt.messages) if each.parts]))
    if not prompt.model.prefill:
        messages = ask_at_end(messages)
    body: Json = {}
    if messages and messages[0].role == "system":
        body["systemInstruction"] = {"parts": [_part(part) for part in messages[0].parts]}
        messages = messages[1:]
    body["contents"] = _contents(messages, origin)
    if prompt.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool) for tool in prompt.tools]}]
        if prompt.tool_choice:
            body["toolConfig"] = {"functionCallingConfig": _calling(prompt.tool_choice)}
    if config := _generation_config(prompt):
        body["generationConfig"] = config
    return body


def _as_sent(message: PromptMessage) -> PromptMessage:
    """The message with those of its parts that are sent. An assistant's images and reasoning are not."""
    kinds = (ToolCallPart,) if message.role == "assistant" else (ImagePart, ToolResultPart)
    parts = tuple(
        part for part in message.parts if isinstance(part, kinds) or (isinstance(part, TextPart) and part.text)
    )
    return message if parts == message.parts else msgspec.structs.replace(message, parts=parts)


def _generation_config(prompt: Prompt) -> Json:
    sampling = prompt.sampling
    fields: Json = {
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "maxOutputTokens": sampling.max_output_tokens,
        "stopSequences": list(sampling.stop) or None,
        "seed": None if sampling.seed is None else _int32(sampling.seed),
        "thinkingConfig": _thinking(prompt, sampling) or None,
    }
    if prompt.json_schema:
        fields["responseMimeType"] = "application/json"
        fields["responseJsonSchema"] = json_object(prompt.json_schema, "json_schema")
    return {name: value for name, value in fields.items() if value is not None}


def _thinking(prompt: Prompt, sampling: Sampling) -> Json:
    config: Json = {"includeThoughts": True} if prompt.model.reasoning else {}
    if sampling.reasoning_effort:
        config["thinkingLevel"] = sampling.reasoning_effort.upper()
    return config


def _int32(seed: int) -> int:
    """The seed in the range that the vendor takes: each seed always becomes the same one."""
    return (seed + 2**31) % 2**32 - 2**31


def _tool(tool: Tool) -> Json:
    declaration: Json = {"name": tool.name}
    if tool.description:
        declaration["description"] = tool.description
    if tool.parameters:
        declaration["parametersJsonSchema"] = json_object(tool.parameters, f"parameters of the tool {tool.name}")
    return declaration


def _calling(choice: str) -> Json:
    mode = _MODES.get(choice)
    return {"mode": mode} if mode else {"mode": "ANY", "allowedFunctionNames": [choice]}


class _OpenCall(NamedTuple):
    """A call of the last model content. `sent_id`: its id in the request, None if the vendor gave it none."""

    id: str
    name: str
    sent_id: str | None


def _contents(messages: Messages, origin: str) -> list[Json]:
    """The field `contents`: the results of one answer are one content, whether they came in one message or several."""
    ids = ToolIdMap("long")
    turn = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    contents: list[Json] = []
    calls: list[_OpenCall] = []
    results: list[ToolResultPart] = []
    for i, message in enumerate(messages):
        if message.role == "tool":
            results += [part for part in message.parts if isinstance(part, ToolResultPart)]
            if i + 1 == len(messages) or messages[i + 1].role != "tool":
                contents.append({"role": "user", "parts": _responses(results, calls)})
                results = []
        elif message.role == "assistant":
            content, calls = _answer(message, ids, origin, in_turn=i > turn)
            contents.append(content)
        else:
            contents.append({"role": "user", "parts": [_part(part) for part in message.parts]})
    return contents


def _answer(message: PromptMessage, ids: ToolIdMap, origin: str, *, in_turn: bool) -> tuple[Json, list[_OpenCall]]:
    """The content of an answer, and its calls."""
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if message.kept is not None and message.kept.origin == origin:
        for call in calls:
            ids.of_kept_call(call.id)
        sent_ids = _ids_of(message.kept.items)
        named = zip(calls, sent_ids, strict=False)
        content = {"role": "model", "parts": [msgspec.Raw(item.encode()) for item in message.kept.items]}
        return content, [_OpenCall(call.id, call.name, sent_id) for call, sent_id in named]
    opened = [_OpenCall(call.id, call.name, ids.of_call(call.id)) for call in calls]
    parts: list[Json] = []
    rest = iter(opened)
    signs = in_turn
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            # Gemini refuses an unfinished tool turn unless the first call of each step has a signature.
            signature = {"thoughtSignature": SIGNATURE_OF_NO_MODEL} if signs else {}
            parts.append(_call(part, next(rest)) | signature)
            signs = False
        else:
            parts.append(_part(part))
    return {"role": "model", "parts": parts}, opened


def _ids_of(items: Iterable[str]) -> list[str | None]:
    """The ids of the calls in kept parts; None for a call without one. A call without a name is no call."""
    parts = [json_of(item.encode()) for item in items]
    calls = [part.get("functionCall") for part in parts if isinstance(part, dict)]
    named = [call for call in calls if isinstance(call, dict) and call.get("name")]
    return [text_of_field(call.get("id")) or None for call in named]


def _call(call: ToolCallPart, opened: _OpenCall) -> Json:
    arguments = call.arguments or "{}"
    args: Any = msgspec.Raw(arguments.encode())
    if not arguments.lstrip().startswith("{"):
        args = {"arguments": args}  # only objects are accepted
    return {"functionCall": {"id": opened.sent_id, "name": call.name, "args": args}}


def _responses(results: Iterable[ToolResultPart], calls: list[_OpenCall]) -> list[Json]:
    """The results in the order of their calls, because the vendor matches results without ids by their order."""
    left = dict(enumerate(calls))
    ordered: list[tuple[int, Json]] = []
    for result in results:
        at = next((i for i, call in left.items() if call.id == result.tool_call_id), len(calls))
        call = left.pop(at, _OpenCall(result.tool_call_id, result.tool_call_id, result.tool_call_id))
        named = {"id": call.sent_id} if call.sent_id else {}
        ordered.append((at, {"functionResponse": {**named, "name": call.name, "response": {"result": result.content}}}))
    return [response for _, response in sorted(ordered, key=lambda each: each[0])]


def _part(part: Part) -> Json:
    if isinstance(part, ImagePart):
        if not part.data:
            raise ProviderRejected("this API takes no images by URL")
        return {"inlineData": {"mimeType": part.mime_type, "data": base64.b64encode(part.data).decode("ascii")}}
    return {"text": part.text if isinstance(part, TextPart) else ""}
