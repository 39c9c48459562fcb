"""The speakers of OpenAI's two APIs."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

from parley_server.core.model import FinishReason
from parley_server.errors import Failure
from parley_server.settings import ApiKey, OpenAISettings

from tests.dialects.speakers import USUAL, Asked, Call, Counts, Part, Reasoning, Speaker, Spoken, Text, event, refused
from tests.integration.providers.recording import provider_at
from tests.upstream import Script

REFUSALS: dict[Failure, tuple[int, dict[str, Any]]] = {
    Failure.UNAVAILABLE: (503, {"type": "server_error"}),
    Failure.RATE: (429, {"code": "rate_limit_exceeded"}),
    Failure.CREDIT: (429, {"code": "insufficient_quota"}),
    Failure.KEY: (401, {"code": "invalid_api_key"}),
    Failure.NO_MODEL: (404, {"code": "model_not_found"}),
    Failure.REJECTED: (400, {"code": "unsupported_parameter"}),
    Failure.TOO_LONG: (400, {"code": "context_length_exceeded"}),
    Failure.KEPT_ITEMS: (400, {"code": "invalid_encrypted_content"}),
}


class OpenAISpeaker(Speaker):
    """What both APIs have in common."""

    counts = (Counts(), Counts(prompt=50, cached=20, written=10, completion=40, reasoning=30))

    def provider(self, url, **options):
        # OpenRouter's profile, since it keeps the most.
        return provider_at(url, OpenAISettings(profile="openrouter", api_key=ApiKey("sk-secret")), **options)

    def refusal(self, failure):
        found = REFUSALS.get(failure)
        return found and refused(found[0], {"error": {"message": "secret", **found[1]}})

    def filtered(self):
        return [
            refused(400, {"error": {"message": "secret", "code": "content_filter"}}),
            refused(403, {"error": {"code": 403, "message": "secret", "metadata": {"reasons": ["secret"]}}}),
        ]


class ChatSpeaker(OpenAISpeaker):
    """Chat completions."""

    name = "chat"
    words = MappingProxyType(
        {
            "stop": FinishReason.STOP,
            "length": FinishReason.MAX_TOKENS,
            "content_filter": FinishReason.CONTENT_FILTER,
            "novel": FinishReason.OTHER,
        }
    )
    call_word = "tool_calls"

    def speak(self, *parts: Part, word="", counts: Counts | None = USUAL):
        calls = [part for part in parts if isinstance(part, Call)]
        events = [_chunk({"role": "assistant", "content": ""})]
        for part in parts:
            events += self._part(part, calls)
        last = len(events)
        events.append(_chunk({}, word or (self.call_word if calls else "stop")))
        if counts:
            events.append(event({"choices": [], "usage": _usage(counts, "prompt", "completion")}))
        return Spoken([*events, b"data: [DONE]\n\n"], last)

    def _part(self, part, calls):
        if isinstance(part, Text):
            return [_chunk({"content": part.words})]
        if isinstance(part, Reasoning):
            detail = {"type": "reasoning.text", "text": part.words, "index": 0, "signature": "c2ln"}
            return [_chunk({"reasoning": part.words, "reasoning_details": [detail]})]
        index = calls.index(part)
        head = {"index": index, "id": part.id, "function": {"name": part.name, "arguments": ""}}
        pieces = [{"index": index, "function": {"arguments": piece}} for piece in part.pieces]
        return [_chunk({"tool_calls": [piece]}) for piece in (head, *pieces)]

    def error(self, failure):
        found = REFUSALS.get(failure)
        return found and event({"error": {"message": "secret", **found[1]}})

    def filtered(self):
        return [*super().filtered(), Script([event({"error": {"message": "secret", "code": "content_filter"}})])]

    def asked(self, body):
        messages = body["messages"]
        texts = [(entry["role"], _text_of(entry.get("content"))) for entry in messages]
        calls = [call for entry in messages for call in entry.get("tool_calls", ())]
        return Asked(
            system="\n".join(text for role, text in texts if role == "system"),
            turns=[(role, text) for role, text in texts if role != "system"],
            images=[part["image_url"]["url"] for part in _parts(messages) if part["type"] == "image_url"],
            calls={c["id"]: (c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls},
            results={entry["tool_call_id"]: entry["content"] for entry in messages if entry["role"] == "tool"},
            tools=[tool["function"]["name"] for tool in body.get("tools", ())],
            schema=body.get("response_format", {}).get("json_schema", {}).get("schema"),
            max_tokens=body.get("max_tokens"),
        )


class ResponsesSpeaker(OpenAISpeaker):
    """The Responses API."""

    name = "responses"
    api = "responses"
    words = MappingProxyType(
        {
            "completed": FinishReason.STOP,
            "max_output_tokens": FinishReason.MAX_TOKENS,
            "content_filter": FinishReason.CONTENT_FILTER,
            "novel": FinishReason.OTHER,
        }
    )
    call_word = "completed"

    def speak(self, *parts: Part, word="", counts: Counts | None = USUAL):
        events = [_named("created", response={"status": "in_progress", "error": None, "usage": None})]
        for index, part in enumerate(parts):
            events += self._part(part, index)
        status = "incomplete" if word not in ("", "completed") else "completed"
        details = {"reason": word} if status == "incomplete" else None
        usage = _usage(counts, "input", "output") if counts else None
        response = {"status": status, "incomplete_details": details, "error": None, "usage": usage}
        return Spoken([*events, _named(status, response=response)], len(events))

    def _part(self, part, index):
        if isinstance(part, Text):
            return [_named("output_text.delta", output_index=index, delta=part.words)]
        if isinstance(part, Reasoning):
            item = {"type": "reasoning", "id": f"rs_{index}", "summary": [], "encrypted_content": "c2VhbGVk"}
            return [
                _named("output_item.added", output_index=index, item=item),
                _named("reasoning_summary_text.delta", output_index=index, delta=part.words),
                _named("output_item.done", output_index=index, item=item),
            ]
        item = {"type": "function_call", "id": f"fc_{index}", "call_id": part.id, "name": part.name, "arguments": ""}
        done = item | {"arguments": "".join(part.pieces)}
        return [
            _named("output_item.added", output_index=index, item=item),
            *[_named("function_call_arguments.delta", output_index=index, delta=piece) for piece in part.pieces],
            _named("output_item.done", output_index=index, item=done),
        ]

    def error(self, failure):
        found = REFUSALS.get(failure)
        error = {"message": "secret", **found[1]} if found else None
        return found and event({"type": "error", "error": error}, name="error")

    def filtered(self):
        failed = _named("failed", response={"status": "failed", "error": {"code": "content_filter"}})
        return [*super().filtered(), Script([failed])]

    def asked(self, body):
        items = body["input"]
        turns = [_turn_of(item) for item in items if item.get("type") != "function_call"]
        calls = [item for item in items if item.get("type") == "function_call"]
        return Asked(
            system="\n".join([body.get("instructions", ""), *[text for role, text in turns if role == "developer"]]),
            turns=[turn for turn in turns if turn[0] not in ("developer", "")],
            images=[part["image_url"] for part in _parts(items) if part["type"] == "input_image"],
            calls={call["call_id"]: (call["name"], json.loads(call["arguments"])) for call in calls},
            results={i["call_id"]: i["output"] for i in items if i.get("type") == "function_call_output"},
            tools=[tool["name"] for tool in body.get("tools", ())],
            schema=body.get("text", {}).get("format", {}).get("schema"),
            max_tokens=body.get("max_output_tokens"),
        )


def _chunk(delta, word=None):
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": word}]})


def _named(kind, **fields):
    return event({"type": f"response.{kind}", **fields}, name=f"response.{kind}")


def _usage(counts: Counts, prompt, completion):
    return {
        f"{prompt}_tokens": counts.prompt,
        f"{prompt}_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.written},
        f"{completion}_tokens": counts.completion,
        f"{completion}_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.prompt + counts.completion,
    }


def _turn_of(item):
    if item.get("type") == "function_call_output":
        return "tool", item["output"]
    return item.get("role", ""), _text_of(item.get("content"))


def _text_of(content):
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return "".join(part.get("text", "") for part in parts)


def _parts(entries):
    return [part for entry in entries if isinstance(entry.get("content"), list) for part in entry["content"]]
