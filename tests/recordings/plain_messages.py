"""A simple reader of streams of Anthropic's Messages API, based on dictionaries, to compare the provider with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.recordings.plain import WORDS, Outcome, events_of

READ_BLOCKS = {"text", "thinking", "redacted_thinking", "tool_use"}
FIELDS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


@dataclass
class PlainMessage:
    """Takes an answer event by event; `outcome` is what it says if its body ends here."""

    text: str = ""
    reasoning: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    open: dict[int, dict[str, str]] = field(default_factory=dict)
    word: str = ""
    done: bool = False
    usage: dict[str, int] = field(default_factory=dict)

    def add_all(self, part: bytes) -> None:
        """Take whole events as they stand in the body."""
        for data in events_of(part):
            if not self.done:
                self.add(json.loads(data))

    def add(self, event: dict[str, Any]) -> None:
        """Take one event."""
        match event["type"]:
            case "message_start":
                counts = event["message"]["usage"]
                self.usage |= {name: counts[name] for name in FIELDS[:3] if counts.get(name) is not None}
            case "content_block_start":
                self._begin(event["index"], event["content_block"])
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "message_delta":
                counts = event["usage"]
                self.usage |= {name: counts[name] for name in FIELDS if counts.get(name) is not None}
                self.usage["thinking"] = (counts.get("output_tokens_details") or {}).get("thinking_tokens", 0)
                self.word = event["delta"]["stop_reason"] or self.word
            case "message_stop":
                self.done = True

    def outcome(self) -> Outcome:
        """What the answer says if its body ends here."""
        end = next((end for end, words in WORDS.items() if self.word in words.split()), "PROVIDER_TRUNCATED")
        calls = [(call["id"], call["name"], call["arguments"]) for call in self.calls]
        if self.word and end != "MAX_TOKENS":
            calls = [(call_id, name, arguments or "{}") for call_id, name, arguments in calls]
        return Outcome(self.text, self.reasoning, tuple(calls), end=end, word=self.word, counts=self._counts())

    def _begin(self, index: int, block: dict[str, Any]) -> None:
        self.open.pop(index, None)
        if block["type"] in {"text", "thinking"}:
            self.text += block.get("text") or ""
            self.reasoning += block.get("thinking") or ""
        elif block["type"] == "tool_use":
            self.open[index] = {"id": block["id"], "name": block["name"], "arguments": ""}
            self.calls.append(self.open[index])

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        self.text += delta.get("text") or ""
        self.reasoning += delta.get("thinking") or ""
        if index in self.open:
            self.open[index]["arguments"] += delta.get("partial_json") or ""

    def _counts(self) -> tuple[int, int, int, int] | None:
        get = self.usage.get
        prompt = sum(get(name, 0) for name in FIELDS[:3])
        if not prompt and not get("output_tokens"):
            return None
        return prompt, get("cache_read_input_tokens", 0), get("output_tokens", 0), get("thinking", 0)
