"""The speaker of Anthropic's Messages API."""

from __future__ import annotations

import itertools
from types import MappingProxyType
from typing import Any

from parley_server.core.model import FinishReason
from parley_server.errors import Failure
from parley_server.providers.anthropic.provider import AnthropicProvider
from parley_server.settings import AnthropicSettings, ApiKey

from tests.dialects.speakers import USUAL, Asked, Call, Counts, Part, Reasoning, Speaker, Spoken, Text, event, refused

TOO_LONG = "prompt is too long: 210000 tokens > 200000 maximum, secret"
MISFIT = "messages.1.content.0: Invalid `signature` in `thinking` block, secret"
REFUSALS: dict[Failure, tuple[int, str, str]] = {
    Failure.UNAVAILABLE: (529, "overloaded_error", "secret"),
    Failure.RATE: (429, "rate_limit_error", "secret"),
    Failure.CREDIT: (402, "billing_error", "secret"),
    Failure.KEY: (401, "authentication_error", "secret"),
    Failure.NO_MODEL: (404, "not_found_error", "secret"),
    Failure.REJECTED: (400, "invalid_request_error", "secret"),
    Failure.TOO_LONG: (400, "invalid_request_error", TOO_LONG),
    Failure.KEPT_ITEMS: (400, "invalid_request_error", MISFIT),
}


class MessagesSpeaker(Speaker):
    """The Messages API."""

    name = "messages"
    words = MappingProxyType(
        {
            "end_turn": FinishReason.STOP,
            "stop_sequence": FinishReason.STOP,
            "max_tokens": FinishReason.MAX_TOKENS,
            "model_context_window_exceeded": FinishReason.MAX_TOKENS,
            "refusal": FinishReason.CONTENT_FILTER,
            "pause_turn": FinishReason.OTHER,
        }
    )
    call_word = "tool_use"
    counts = (Counts(), Counts(prompt=50, cached=20, written=10, completion=40, reasoning=30))

    def provider(self, url, **options):
        settings = AnthropicSettings(base_url=url.removesuffix("/v1"), api_key=ApiKey("sk-secret"))
        return AnthropicProvider("acme", settings, **options)

    def speak(self, *parts: Part, word="", counts: Counts | None = USUAL):
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "acme-1", "content": []}
        start = message | {"stop_reason": None, "stop_sequence": None, "usage": _usage(counts, output=1)}
        events = [named("message_start", message=start)]
        calls = itertools.count()
        groups = itertools.groupby(parts, lambda part: next(calls) if isinstance(part, Call) else type(part))
        for index, (_, group) in enumerate(groups):
            events += _block(index, list(group))
        word = word or (self.call_word if any(isinstance(part, Call) for part in parts) else "end_turn")
        delta = {"stop_reason": word, "stop_sequence": None}
        last = named("message_delta", delta=delta, usage=_usage(counts, output=counts.completion if counts else 0))
        return Spoken([*events, last, named("message_stop")], len(events))

    def error(self, failure):
        found = REFUSALS.get(failure)
        return found and named("error", error={"type": found[1], "message": found[2]})

    def refusal(self, failure):
        found = REFUSALS.get(failure)
        return found and refused(found[0], {"type": "error", "error": {"type": found[1], "message": found[2]}})

    def filtered(self):
        return [self.script(word="refusal")]

    def asked(self, body):
        blocks = [(entry["role"], block) for entry in body["messages"] for block in entry["content"]]
        results = {block["tool_use_id"]: block["content"] for _, block in blocks if block["type"] == "tool_result"}
        return Asked(
            system="\n".join(block["text"] for block in body.get("system", ())),
            turns=[turn for role, block in blocks if (turn := _turn(role, block))],
            images=[block["source"].get("data", "") for _, block in blocks if block["type"] == "image"],
            calls={block["id"]: (block["name"], block["input"]) for _, block in blocks if block["type"] == "tool_use"},
            results=results,
            tools=[tool["name"] for tool in body.get("tools", ())],
            schema=body.get("output_config", {}).get("format", {}).get("schema"),
            max_tokens=body["max_tokens"],
        )


def named(kind: str, **fields: Any) -> bytes:
    """An event of this type."""
    return event({"type": kind, **fields}, name=kind)


def _block(index: int, parts: list[Part]) -> list[bytes]:
    """The events of one content block, which has all of these parts."""
    first = parts[0]
    if isinstance(first, Text):
        start: dict[str, Any] = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": part.words} for part in parts]
    elif isinstance(first, Reasoning):
        start = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": part.words} for part in parts]
        deltas.append({"type": "signature_delta", "signature": "c2ln"})
    else:
        start = {"type": "tool_use", "id": first.id, "name": first.name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *first.pieces)]
    return [
        named("content_block_start", index=index, content_block=start),
        *[named("content_block_delta", index=index, delta=delta) for delta in deltas],
        named("content_block_stop", index=index),
    ]


def _usage(counts: Counts | None, *, output: int) -> dict[str, Any]:
    if counts is None:
        return {}
    return {
        "input_tokens": counts.prompt - counts.cached - counts.written,
        "cache_creation_input_tokens": counts.written,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": counts.reasoning},
    }


def _turn(role: str, block: dict[str, Any]) -> tuple[str, str] | None:
    if block["type"] == "tool_result":
        return "tool", block["content"]
    return (role, block["text"]) if block["type"] == "text" else None
