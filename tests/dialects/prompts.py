"""Forty prompts: eight conversations, each with five sets of settings."""

from __future__ import annotations

from typing import Any

from parley_server.core.model import (
    ImagePart,
    PromptMessage,
    ReasoningPart,
    Sampling,
    Tool,
    ToolCallPart,
    ToolResultPart,
)

from tests.dialects.speakers import said

PNG = b"\x89PNG\r\n\x1a\n\xfb\xff\xbf"
SCHEMA = '{"type": "object", "properties": {"größe": {"type": "integer"}}, "required": ["größe"]}'
TOOLS = (Tool(name="weather", description="Weather of a city", parameters=SCHEMA), Tool(name="time"))

_ASKED = said("user", "Hi 👩‍👩‍👧")
_CALLED = said("assistant", "Let me see.", ToolCallPart(id="call_1", name="weather", arguments='{"größe": 1}'))
_RESULT = said("tool", ToolResultPart(tool_call_id="call_1", content='{"rain": true}'))
_BOTH_CALLED = said("assistant", *_CALLED.parts[1:], ToolCallPart(id="call_2", name="time"))
_BOTH_RESULTS = said("tool", *_RESULT.parts, ToolResultPart(tool_call_id="call_2", content="noon"))

CONVERSATIONS: dict[str, tuple[PromptMessage, ...]] = {
    "a question": (_ASKED,),
    "system and history": (said("system", "Be brief."), _ASKED, said("assistant", "Hello"), said("user", "Why?")),
    "a system message within": (_ASKED, said("assistant", "Hello"), said("system", "In French."), said("user", "Why?")),
    "an image": (said("user", "Look", ImagePart(mime_type="image/png", data=PNG), "and tell"),),
    "an image by URL": (said("user", ImagePart(url="https://a.example/b.png"), "Look"),),
    "a tool turn": (_ASKED, _CALLED, _RESULT),
    "two calls": (_ASKED, _BOTH_CALLED, _BOTH_RESULTS, said("assistant", "Rain at noon."), said("user", "Sure?")),
    "reasoning": (_ASKED, said("assistant", ReasoningPart(text="hm"), "Hello"), said("user", "Go on")),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "no settings": {},
    "sampling": {"sampling": Sampling(temperature=0.5, top_p=0.25, max_output_tokens=99)},
    "tools": {"tools": TOOLS, "tool_choice": "required"},
    "one tool": {"tools": TOOLS, "tool_choice": "weather", "cache_key": "key"},
    "schema and effort": {"json_schema": SCHEMA, "sampling": Sampling(reasoning_effort="low")},
}
PROMPTS = [(name, settings) for name in CONVERSATIONS for settings in SETTINGS]
