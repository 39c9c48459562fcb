"""A simple reader of generateContent streams, based on dictionaries, to compare the provider with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from tests.recordings.plain import Outcome, events_of

ENDS = {
    "STOP": "STOP",
    "MAX_TOKENS": "MAX_TOKENS",
    "SAFETY": "CONTENT_FILTER",
    "RECITATION": "CONTENT_FILTER",
}
FAILURES = {400: "PROVIDER_REJECTED", 401: "PROVIDER_UNAUTHENTICATED", 429: "PROVIDER_RATE_LIMITED"}


MADE_ID = re.compile("call_[0-9a-f]{24}")


def with_plain_calls(outcome: Outcome) -> Outcome:
    """Without ids that the server has made, since recorded calls have none, and with arguments in one form."""
    calls = [
        (None if MADE_ID.fullmatch(call_id) else call_id, name, json.dumps(json.loads(arguments)))
        for call_id, name, arguments in outcome.calls
    ]
    return replace(outcome, calls=tuple(calls))


@dataclass
class PlainGemini:
    """Takes an answer event by event; `outcome` is what it says if its body ends here."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str | None, str, str]] = field(default_factory=list)
    word: str = ""
    failure: str = ""
    blocked: bool = False
    counts: tuple[int, int, int, int] | None = None
    unread: bool = False

    def add_all(self, part: bytes) -> None:
        """Take whole events as they stand in the body. What is no event is an error in JSON, on several lines."""
        for block in re.split(rb"\r?\n\r?\n", part):
            events = events_of(block) or [block]
            for data in events:
                if data.strip() and not self.failure:
                    self.add(json.loads(data))

    def add(self, event: dict[str, Any]) -> None:
        """Take one event."""
        if "error" in event:
            self._fail(event["error"])
        usage = event.get("usageMetadata", {})
        if usage.get("totalTokenCount"):
            self._count(usage)
        for candidate in event.get("candidates", []):
            for part in candidate.get("content", {}).get("parts", []):
                self._part(part)
            if "content" in candidate and not candidate["content"].keys() & {"parts", "role"}:
                self.unread = True
            self.word = candidate.get("finishReason", self.word)
        feedback = event.get("promptFeedback", {})
        if feedback.keys() & {"blockReason", "blockReasonMessage"}:
            self.word, self.blocked = feedback.get("blockReason", "BLOCKED_REASON_UNSPECIFIED"), True
        self.unread = self.unread or not event.keys() & {"candidates", "promptFeedback", "usageMetadata", "error"}

    def outcome(self) -> Outcome:
        """What the answer says if its body ends here."""
        end = self._end()
        word = "" if end.startswith("PROVIDER_") else self.word
        return Outcome(self.text, self.reasoning, tuple(self.calls), end=end, word=word, counts=self.counts)

    def _end(self) -> str:
        said = self.text or self.reasoning or self.calls
        if self.failure:
            return self.failure
        if self.blocked:
            return "CONTENT_FILTER"
        if not self.word:
            return "PROVIDER_MALFORMED" if self.unread and not said else "PROVIDER_TRUNCATED"
        if self.unread and not said:
            return "PROVIDER_MALFORMED"
        end = ENDS.get(self.word, "OTHER")
        if end == "OTHER" and not said:
            return "PROVIDER_MALFORMED"
        return "TOOL_CALLS" if self.calls and end == "STOP" else end

    def _part(self, part: dict[str, Any]) -> None:
        if "functionCall" in part:
            call = part["functionCall"]
            if call.get("willContinue"):
                self.failure = "PROVIDER_MALFORMED"  # arguments in pieces, which Parley does not ask for
            else:
                self.calls.append((call.get("id"), call["name"], json.dumps(call["args"])))
        elif "text" not in part:
            self.unread = True
        elif part.get("thought"):
            self.reasoning += part["text"]
        else:
            self.text += part["text"]

    def _count(self, usage: dict[str, int]) -> None:
        thoughts = usage.get("thoughtsTokenCount", 0)
        self.counts = (
            usage.get("promptTokenCount", 0) + usage.get("toolUsePromptTokenCount", 0),
            usage.get("cachedContentTokenCount", 0),
            usage.get("candidatesTokenCount", 0) + thoughts,
            thoughts,
        )

    def _fail(self, error: dict[str, Any]) -> None:
        reasons = [detail.get("reason") for detail in error.get("details", [])]
        key = "API_KEY_INVALID" in reasons
        self.failure = "PROVIDER_UNAUTHENTICATED" if key else FAILURES.get(error["code"], "PROVIDER_REJECTED")
