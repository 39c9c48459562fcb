"""The first estimate of a prompt is at or above what vendors have counted, for each recorded request that says both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parley_server.core.context.branch import Sizing
from parley_server.core.context.build import build_messages
from parley_server.core.context.estimate import extra_tokens
from parley_server.core.model import Conversation, ImagePart, Message, Role, TextPart
from parley_server.core.store_types import PromptSource

from tests.recordings.folder import VARIABLE, recordings

FOLDER = recordings()
if FOLDER is None:
    pytest.skip(f"{VARIABLE} names no folder of recorded answers", allow_module_level=True)

COUNTED = 257
"""Requests with a count of their prompt."""
ON_THE_SERVER = 34
"""Of these, requests with a tool that the vendor runs, whose results it counts as well."""
ADDED_TEXT = {
    "groq/pydanticai-groq--groq_model_web_search_tool_stream.0": "a model that searches the web without any tool",
    "openrouter/pydanticai-openrouter--openrouter_stream_with_native_options.0": "OpenRouter adds text to the prompt",
}
TEXTS = ("system", "instructions", "systemInstruction", "messages", "input", "contents")
SCHEMAS = ("response_format", "text", "output_config")
NO_TEXT = {
    *("type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "mime_type", "media_type", "status", "model"),
    *("signature", "thoughtSignature", "encrypted_content"),
}
FILES = {"image", "image_url", "input_image", "file", "input_file", "document", "input_audio"}


def texts_of(value: Any, key: str = "") -> Iterator[str | None]:
    """All texts of a request; None for an image or another file."""
    if isinstance(value, str) and key not in NO_TEXT:
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from texts_of(each, key)
    elif isinstance(value, dict):
        if value.get("type") in FILES or not value.keys().isdisjoint({"inlineData", "fileData"}):
            yield None
            return
        for name, each in value.items():
            yield from texts_of(each, name)


def counted(body: bytes) -> int:
    """The tokens of the prompt that an answer states last; 0: none."""
    lines = [line[5:].strip() for line in body.decode(errors="replace").splitlines() if line.startswith("data:")]
    found = [count for line in lines if line not in ("", "[DONE]") for count in _counts(json.loads(line))]
    return max(found, default=0)


def _counts(event: Any) -> Iterator[int]:
    if not isinstance(event, dict):
        return
    for holder in (event, event.get("message"), event.get("response"), event.get("x_groq")):
        usage = holder.get("usage") or holder.get("usageMetadata") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            names = ("prompt_tokens", "promptTokenCount", "toolUsePromptTokenCount", "input_tokens")
            cached = ("cache_creation_input_tokens", "cache_read_input_tokens") if "input_tokens" in usage else ()
            yield sum(usage.get(name) or 0 for name in (*names, *cached))


def estimated(request: dict[str, Any]) -> int:
    """By the code that builds prompts, for messages of the same texts."""
    messages = [each for name in TEXTS if name in request for each in _messages(request[name])]
    tools = request.get("tools") or []
    sizing = Sizing(
        extra_bytes=len(json.dumps(tools, separators=(",", ":")).encode()) if tools else 0,
        extra_tokens=extra_tokens(tools=bool(tools), json_schema=any(name in request for name in SCHEMAS)),
    )
    source = PromptSource(conversation=Conversation())
    return build_messages(source, messages, system=(), sizing=sizing).tokens


def _messages(value: Any) -> list[Message]:
    made = []
    for at, each in enumerate(value if isinstance(value, list) else [value]):
        parts = [ImagePart(url="x") if text is None else TextPart(text=text) for text in texts_of(each)]
        made.append(Message(id=f"{at}", role=Role.USER, parts=tuple(parts)))
    return made


def runs_on_the_server(request: dict[str, Any]) -> bool:
    """Whether the vendor runs a tool itself."""
    ours = {"function", "custom"}
    return any(
        "functionDeclarations" not in tool and "input_schema" not in tool and tool.get("type") not in ours
        for tool in request.get("tools") or []
    )


def exchanges() -> dict[str, tuple[dict[str, Any], int]]:
    """The requests and the counts of their prompts, by `vendor/name`."""
    found = {}
    for path in sorted(Path(FOLDER).glob("*/*.sse.meta.json")):
        request = _object(json.loads(path.read_text()).get("request"))
        count = counted(path.with_name(path.name.removesuffix(".meta.json")).read_bytes())
        if count and any(name in request for name in TEXTS):
            found[f"{path.parent.name}/{path.name.removesuffix('.sse.meta.json')}"] = (request, count)
    return found


def _object(request: Any) -> dict[str, Any]:
    """The request; empty where the recording has none, or only its beginning."""
    try:
        return json.loads(request) if isinstance(request, str) else request or {}
    except ValueError:
        return {}


def test_the_first_estimate_is_at_or_above_each_recorded_count():
    all_ = exchanges()
    on_the_server = {name for name, (request, _) in all_.items() if runs_on_the_server(request)}
    assert (len(all_), len(on_the_server)) == (COUNTED, ON_THE_SERVER)
    below = {name for name, (request, count) in all_.items() if estimated(request) < count}
    assert below - on_the_server == set(ADDED_TEXT)
