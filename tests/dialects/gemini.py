"""The speaker of Google's generateContent API."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

from parley_server.core.model import FinishReason
from parley_server.errors import Failure
from parley_server.providers.gemini.provider import GeminiProvider
from parley_server.settings import ApiKey, GeminiSettings

from tests.dialects.speakers import USUAL, Asked, Call, Counts, Part, Reasoning, Speaker, Spoken, event, refused

SIGNATURE = "c2lnbmVk+/+/"
QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
REFUSALS: dict[Failure, tuple[int, str, dict[str, Any]]] = {
    Failure.UNAVAILABLE: (503, "UNAVAILABLE", {}),
    Failure.RATE: (429, "RESOURCE_EXHAUSTED", {}),
    Failure.CREDIT: (
        429,
        "RESOURCE_EXHAUSTED",
        {"details": [{"@type": QUOTA, "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]}]},
    ),
    Failure.KEY: (400, "INVALID_ARGUMENT", {"details": [{"reason": "API_KEY_INVALID"}]}),
    Failure.NO_MODEL: (404, "NOT_FOUND", {}),
    Failure.REJECTED: (400, "INVALID_ARGUMENT", {}),
    Failure.TOO_LONG: (
        400,
        "INVALID_ARGUMENT",
        {"message": "secret: the input token count (9) exceeds the maximum number of tokens allowed (8)."},
    ),
    Failure.KEPT_ITEMS: (
        400,
        "INVALID_ARGUMENT",
        {"message": "secret: Function call is missing a thought_signature in functionCall parts."},
    ),
}


class GeminiSpeaker(Speaker):
    """The Gemini API. Calls arrive whole, and the end of the body completes an answer."""

    name = "gemini"
    words = MappingProxyType(
        {
            "STOP": FinishReason.STOP,
            "MAX_TOKENS": FinishReason.MAX_TOKENS,
            "CONTINUATION": FinishReason.MAX_TOKENS,
            "SAFETY": FinishReason.CONTENT_FILTER,
            "RECITATION": FinishReason.CONTENT_FILTER,
            "FAKE_NEW_FINISH_REASON": FinishReason.OTHER,
        }
    )
    call_word = "STOP"
    counts = (Counts(), Counts(prompt=50, cached=20, completion=40, reasoning=30))

    def provider(self, url, **options):
        return GeminiProvider("acme", GeminiSettings(base_url=url, api_key=ApiKey("sk-secret")), **options)

    def speak(self, *parts: Part, word="", counts: Counts | None = USUAL):
        signatures = iter([{"thoughtSignature": SIGNATURE}])  # only the first call of an answer has one
        events = [_chunk(_part(part, signatures)) for part in parts]
        usage = {"usageMetadata": _usage(counts)} if counts else {}
        return Spoken([*events, _chunk({"text": ""}, word or "STOP", **usage)], len(events))

    def error(self, failure):
        found = REFUSALS.get(failure)
        return found and event({"error": _error(*found)}, end="\r\n")

    def refusal(self, failure):
        found = REFUSALS.get(failure)
        return found and refused(found[0], [{"error": _error(*found)}])

    def filtered(self):
        blocked = {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"totalTokenCount": 5}}
        return [self.scripted([event(blocked, end="\r\n")])]

    def asked(self, body):
        contents = body["contents"]
        calls = [part["functionCall"] for part in _parts(contents, "functionCall")]
        results = [part["functionResponse"] for part in _parts(contents, "functionResponse")]
        config = body.get("generationConfig", {})
        return Asked(
            system="\n".join(part["text"] for part in body.get("systemInstruction", {}).get("parts", ())),
            turns=[_turn_of(content) for content in contents],
            images=[part["inlineData"]["data"] for part in _parts(contents, "inlineData")],
            calls={call["id"]: (call["name"], call["args"]) for call in calls},
            results={result["id"]: result["response"]["result"] for result in results},
            tools=[each["name"] for tool in body.get("tools", ()) for each in tool["functionDeclarations"]],
            schema=config.get("responseJsonSchema"),
            max_tokens=config.get("maxOutputTokens"),
        )


def _part(part, signatures):
    if isinstance(part, Reasoning):
        return {"text": part.words, "thought": True}
    if isinstance(part, Call):
        call = {"id": part.id, "name": part.name, "args": json.loads(part.arguments)}
        return {"functionCall": call, **next(signatures, {})}
    return {"text": part.words}


def _chunk(part, word=None, **fields):
    reason = {"finishReason": word} if word else {}
    candidate = {"content": {"parts": [part], "role": "model"}, "index": 0, **reason}
    return event({"candidates": [candidate], **fields, "modelVersion": "acme-1"}, end="\r\n")


def _usage(counts: Counts):
    return {
        "promptTokenCount": counts.prompt,
        "cachedContentTokenCount": counts.cached,
        "candidatesTokenCount": counts.completion - counts.reasoning,
        "thoughtsTokenCount": counts.reasoning,
        "totalTokenCount": counts.prompt + counts.completion,
    }


def _error(code, status, fields):
    return {"code": code, "message": "secret", "status": status, **fields}


def _parts(contents, kind):
    return [part for content in contents for part in content["parts"] if kind in part]


def _turn_of(content):
    results = [part["functionResponse"]["response"]["result"] for part in _parts([content], "functionResponse")]
    if results:
        return "tool", "".join(results)
    role = "assistant" if content["role"] == "model" else "user"
    return role, "".join(part.get("text", "") for part in content["parts"])
