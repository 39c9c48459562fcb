"""A simple reader of chat-completions streams, based on dictionaries and without optimisation.

It shares no code with the provider, so that the two can be compared. An answer is read whole; nothing here can depend
on how its bytes came.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

WORDS = {
    "STOP": "stop eos end_turn stop_sequence completed",
    "MAX_TOKENS": "length max_tokens model_length max_output_tokens continuation model_context_window_exceeded",
    "TOOL_CALLS": "tool_calls function_call tool_use",
    "CONTENT_FILTER": "content_filter sensitive refusal safety",
    "PROVIDER_UNAVAILABLE": "error network_error insufficient_system_resource",
    "PROVIDER_TRUNCATED": "abort",
}
"""What finish words mean, in lower case: a reason to finish, or a failure."""
COUNT_LIMIT = 10**8


@dataclass
class Call:
    """A tool call; `id` is None where the stream has none that can be used. No recorded call lacks one."""

    id: str | None = None
    name: str = ""
    arguments: str = ""

    @property
    def whole(self) -> bool:
        """Whether it can be made: a name, and a JSON object of arguments or none."""
        return bool(self.name) and (not self.arguments or _is_object(self.arguments))


@dataclass(frozen=True)
class Outcome:
    """What an answer says. `end` is a finish reason, or the reason of a failure; `counts` are the tokens of the prompt,
    cached, of the completion, of reasoning; None where nothing was counted."""

    text: str
    reasoning: str
    calls: tuple[tuple[str | None, str, str], ...]
    end: str
    word: str
    counts: tuple[int, int, int, int] | None


@dataclass
class PlainReading:
    """Takes an answer event by event; `outcome` is what it says if its body ends here."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    word: str = ""
    done: bool = False
    failure: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    by_index: dict[Any, Call] = field(default_factory=dict)
    events: int = 0
    garbage: bool = False

    def add_all(self, part: bytes) -> None:
        """Take whole events as they stand in the body."""
        self.garbage = self.garbage or has_garbage(part)
        for data in events_of(part):
            self.add(data)

    def add(self, data: str) -> None:
        """Take the data of the next event."""
        self.events += 1
        if self.done or self.failure:
            return
        if data.strip() == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
        for usage in (event.get("usage"), (event.get("x_groq") or {}).get("usage")):
            self._count(usage)
        if event.get("error"):
            if not self.word:
                self.failure = _failure_of(event["error"])
            return
        for choice in event.get("choices") or []:
            self._count(choice.get("usage"))
            if not choice.get("index"):
                self._choice(choice)

    def outcome(self) -> Outcome:
        """What the answer says if its body ends here."""
        named = [call for call in self.calls if call.name]
        calls = tuple((call.id, call.name, call.arguments or "{}") for call in named)
        counts = _counts(self.usage)
        end, word = self._end(named, has_counts=counts is not None)
        return Outcome(self.text, self.reasoning, calls, end=end, word=word, counts=counts)

    def _end(self, calls: list[Call], *, has_counts: bool) -> tuple[str, str]:
        if self.failure:
            return self.failure, ""
        word = self.word or ("[DONE]" if self.done and has_counts else "")
        if not word:
            understood = self.events or not self.garbage
            return ("PROVIDER_TRUNCATED" if understood else "PROVIDER_MALFORMED"), ""
        end = next((end for end, words in WORDS.items() if word.lower() in words.split()), "OTHER")
        if word == "[DONE]":
            end = "STOP"
        if end in {"STOP", "OTHER"} and calls:
            end = "TOOL_CALLS"
        if end == "TOOL_CALLS" and not any(call.whole for call in calls):
            return "PROVIDER_MALFORMED", ""
        if end == "OTHER" and not self.text and not self.reasoning:
            return "PROVIDER_MALFORMED", ""
        return end, ("" if end.startswith("PROVIDER_") else word)

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        content = delta.get("content")
        parts = content if isinstance(content, list) else [{"text": content or ""}]
        self.text += "".join(part.get("text") or "" for part in parts) + (delta.get("refusal") or "")
        self.reasoning += _reasoning_of(delta, parts)
        for piece in delta.get("tool_calls") or []:
            self._piece(piece)
        if delta.get("function_call"):
            self._piece({"index": 0, "function": delta["function_call"]})
        self.word = choice.get("finish_reason") or self.word

    def _piece(self, piece: dict[str, Any]) -> None:
        function = piece.get("function") or {}
        call_id, name = str(piece.get("id") or ""), function.get("name") or ""
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        call = self._call_of(piece.get("index"), call_id, name)
        if call is None:
            used = {call.id for call in self.calls}
            call = Call(call_id if call_id and call_id not in used else None)
            self.calls.append(call)
        if piece.get("index") is not None:
            self.by_index[str(piece["index"])] = call
        if name != call.name and not call.arguments:
            call.name += name
        call.arguments += arguments

    def _call_of(self, index: Any, call_id: str, name: str) -> Call | None:
        """The call that a piece goes on with; None: it begins one."""
        newest = self.calls[-1] if self.calls else None
        if index is not None:
            call = self.by_index.get(str(index))
            if call is None or (call_id and call.id and call_id != call.id):
                return None
            begins_next = bool(name and call.name and _is_object(call.arguments)) and not (
                call_id and call_id == call.id
            )
            return None if begins_next else call
        if call_id:
            same = next((call for call in self.calls if call.id == call_id), None)
            return same or (newest if newest and newest.id is None and not name else None)
        if newest is None or (name and newest.name and (name != newest.name or _is_object(newest.arguments))):
            return None
        return newest

    def _count(self, usage: Any) -> None:
        usage = usage or {}
        prompt, completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
        cached = prompt.get("cached_tokens") or usage.get("cached_tokens") or usage.get("prompt_cache_hit_tokens")
        read = {
            "prompt": usage.get("prompt_tokens"),
            "cached": cached,
            "completion": usage.get("completion_tokens"),
            "reasoning": completion.get("reasoning_tokens"),
            "total": usage.get("total_tokens"),
        }
        self.usage |= {name: int(value) for name, value in read.items() if value and 0 < value <= COUNT_LIMIT}


def events_of(body: bytes) -> list[str]:
    """The data of each event of a body, by the rules of server-sent events; an event without data is left out."""
    events = []
    for block in _with_lf(body).split("\n\n"):
        data = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if data:
            events.append("\n".join(data))
    return events


def has_garbage(body: bytes) -> bool:
    """Whether there are lines that are no comment and no field of an event."""
    known = {"", "data", "event", "id", "retry"}  # a comment begins with a colon
    return any(line.partition(":")[0] not in known for line in _with_lf(body).split("\n"))


def _with_lf(body: bytes) -> str:
    return body.decode().replace("\r\n", "\n").replace("\r", "\n")


def _reasoning_of(delta: dict[str, Any], parts: list[dict[str, Any]]) -> str:
    """One of the places where reasoning stands, since vendors repeat it in several."""
    reasoning = delta.get("reasoning")
    if isinstance(reasoning, dict):
        reasoning = reasoning.get("text")
    details = delta.get("reasoning_details") or []
    thinking = [piece for part in parts for piece in part.get("thinking") or []]
    return (
        delta.get("reasoning_content")
        or reasoning
        or "".join(detail.get("text") or detail.get("summary") or "" for detail in details)
        or "".join(piece.get("text") or "" for piece in thinking)
    )


def _counts(usage: dict[str, int]) -> tuple[int, int, int, int] | None:
    prompt, completion, reasoning = (usage.get(name, 0) for name in ("prompt", "completion", "reasoning"))
    if not prompt and not completion:
        return None
    if usage.get("total") == prompt + completion + reasoning:  # xAI leaves reasoning out of its completion
        completion += reasoning
    return prompt, min(usage.get("cached", 0), prompt), completion, min(reasoning, completion)


def _failure_of(error: dict[str, Any]) -> str:
    status = error.get("status_code") or error.get("code")
    if status in {401, 403}:
        return "PROVIDER_UNAUTHENTICATED"
    if status in {402, 429}:
        return "PROVIDER_RATE_LIMITED"
    if isinstance(status, int) and 400 <= status < 500 and status not in {408, 409, 425}:
        return "PROVIDER_REJECTED"
    return "PROVIDER_UNAVAILABLE"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
