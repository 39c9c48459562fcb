"""A simple reader of streams of the Responses API, based on dictionaries, to compare the provider with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.recordings.plain import Outcome, events_of, has_garbage

ENDS = {"max_output_tokens": "MAX_TOKENS", "content_filter": "CONTENT_FILTER"}
REASONING = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
READ_ITEMS = {"message", "reasoning", "function_call"}


@dataclass
class PlainResponse:
    """Takes an answer event by event; `outcome` is what it says if its body ends here."""

    text: str = ""
    reasoning: str = ""
    source: str = ""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    word: str = ""
    failure: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    unread: bool = False
    garbage: bool = False
    events: int = 0

    def add_all(self, part: bytes) -> None:
        """Take whole events as they stand in the body."""
        self.garbage = self.garbage or has_garbage(part)
        for data in events_of(part):
            self.events += 1
            if not self.word and not self.failure and data.strip() != "[DONE]":
                self.add(json.loads(data))

    def add(self, event: dict[str, Any]) -> None:
        """Take one event."""
        kind = event["type"]
        if kind in {"response.output_text.delta", "response.refusal.delta"}:
            self.text += event["delta"]
        elif kind in REASONING:
            self._reason(kind, event["delta"])
        elif kind == "response.reasoning_summary_part.added" and event["summary_index"]:
            self._reason(REASONING[0], "\n\n")
        elif kind.startswith("response.output_item."):
            self._item(event["output_index"], event["item"], done=kind.endswith("done"))
        elif kind == "response.function_call_arguments.delta":
            self.calls[event["output_index"]]["arguments"] += event["delta"]
        elif kind == "error":
            self.failure = _failure_of(event["error"])
        elif kind in {"response.completed", "response.incomplete", "response.failed"}:
            self._end(event["response"])

    def outcome(self) -> Outcome:
        """What the answer says if its body ends here."""
        calls = tuple((call["id"], call["name"], call["arguments"]) for call in self.calls.values())
        if self.word:
            calls = tuple((call_id, name, arguments or "{}") for call_id, name, arguments in calls)
        end = self._end_of(calls)
        word = "" if end.startswith("PROVIDER_") else self.word
        return Outcome(self.text, self.reasoning, calls, end=end, word=word, counts=self._counts())

    def _end_of(self, calls: tuple[Any, ...]) -> str:
        if self.failure:
            return self.failure
        if not self.word:
            return "PROVIDER_TRUNCATED" if self.events or not self.garbage else "PROVIDER_MALFORMED"
        if self.unread and not (self.text or self.reasoning or calls):
            return "PROVIDER_MALFORMED"
        end = ENDS.get(self.word, "STOP" if self.word == "completed" else "OTHER")
        return "TOOL_CALLS" if calls and end == "STOP" else end

    def _reason(self, kind: str, text: str) -> None:
        self.source = self.source or (kind if text else "")
        self.reasoning += text if kind == self.source else ""

    def _item(self, index: int, item: dict[str, Any], *, done: bool) -> None:
        if item["type"] == "function_call":
            call = self.calls.setdefault(index, {"id": item["call_id"], "name": item["name"], "arguments": ""})
            if done:
                call["arguments"] = call["arguments"] or item["arguments"]
        elif done and item["type"] not in READ_ITEMS:
            self.unread = True

    def _end(self, response: dict[str, Any]) -> None:
        self.usage = response.get("usage") or {}
        if response.get("error"):
            self.failure = _failure_of(response["error"])
        else:
            self.word = (response.get("incomplete_details") or {}).get("reason") or "completed"

    def _counts(self) -> tuple[int, int, int, int] | None:
        prompt, completion = self.usage.get("input_tokens", 0), self.usage.get("output_tokens", 0)
        if not prompt and not completion:
            return None
        cached = (self.usage.get("input_tokens_details") or {}).get("cached_tokens", 0)
        reasoning = (self.usage.get("output_tokens_details") or {}).get("reasoning_tokens", 0)
        return prompt, cached, completion, reasoning


def _failure_of(error: dict[str, Any]) -> str:
    return "PROVIDER_RATE_LIMITED" if error["code"] == "insufficient_quota" else "PROVIDER_UNAVAILABLE"
