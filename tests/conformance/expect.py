"""Compares the output of a player with the expected events of a case, and with the rules for every stream.

An expected list is exact: kinds, order and number. A case names only the fields of an event that it checks; this module
checks that the event has all other fields of PLAYER.md.
"""

from __future__ import annotations

import re
from typing import Any

from tests.conformance.players import short

Event = dict[str, Any]

EVENT_FIELDS: dict[str, set[str]] = {
    "accepted": {
        "reply_id",
        "conversation_id",
        "message_id",
        "input_message_ids",
        "model",
        "replayed",
        "ignored_settings",
        "quota",
    },
    "text": {"text"},
    "reasoning": {"text"},
    "tool_call": {"index", "call_id", "name", "arguments"},
    "usage": {"usage"},
    "snapshot": {"text", "reply"},
    "reconnecting": {"attempt", "delay_s", "error"},
    "finished": {"reason", "text", "model", "provider", "cancel_reason", "usage"},
}
STREAM_FIELDS = {"request_id", "reply_id", "conversation_id", "message_id", "sequence", "text", "tool_calls"}
ERROR_FIELDS = {"kind", "reason", "code", "message", "retryable", "retry_after_s", "metadata"}
MORE_ERROR_FIELDS: dict[str, set[str]] = {
    "ReplyFailed": {"text", "reply_id", "message_id", "usage", "model", "provider"},
    "ConnectionLost": {"reply_id", "sequence", "text"},
}
EXACT = ("metadata",)
"""Mappings that are compared as a whole; of others only the keys that a case names are compared."""

_NAME = re.compile(r"\$([a-z_]+)")


class Names(dict[str, Any]):
    """The values that a case has bound, by name."""

    def fill(self, value: Any) -> Any:
        """Replace each `$name` by its value. Raises AssertionError if a string is only a name that is not bound."""
        if isinstance(value, str):
            if whole := _NAME.fullmatch(value):
                assert whole[1] in self, f"nothing is called {whole[1]}"
                return self[whole[1]]
            return _NAME.sub(lambda match: str(self.get(match[1], match[0])), value)
        if isinstance(value, list):
            return [self.fill(each) for each in value]
        if isinstance(value, dict):
            return {key: self.fill(each) for key, each in value.items()}
        return value


# --- values


def difference(expected: Any, actual: Any, names: Names, at: str = "") -> str:
    """The first difference, or an empty string. A `$name` that is not bound yet takes the actual value."""
    if isinstance(expected, str) and expected.startswith("$"):
        return _special_difference(expected, actual, names, at)
    if isinstance(expected, dict):
        return _mapping_difference(expected, actual, names, at)
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(expected) != len(actual):
            return f"{at}: {short(expected, 600)} expected, not {short(actual, 600)}"
        problems = (
            difference(a, b, names, f"{at}[{i}]") for i, (a, b) in enumerate(zip(expected, actual, strict=True))
        )
        return next((problem for problem in problems if problem), "")
    if isinstance(expected, str):
        expected = names.fill(expected)
    same = expected == actual and isinstance(expected, bool) == isinstance(actual, bool)
    return "" if same else f"{at}: {short(expected, 600)} expected, not {short(actual, 600)}"


def _special_difference(expected: str, actual: Any, names: Names, at: str) -> str:
    if expected == "$any":
        return "" if actual not in (None, "", [], {}) else f"{at}: anything expected, not {actual!r}"
    if expected == "$positive":
        good = isinstance(actual, int | float) and not isinstance(actual, bool) and actual > 0
        return "" if good else f"{at}: a positive number expected, not {actual!r}"
    if (whole := _NAME.fullmatch(expected)) and whole[1] not in names:
        if actual in (None, ""):
            return f"{at}: something to call {whole[1]} expected, not {actual!r}"
        names[whole[1]] = actual
        return ""
    filled = names.fill(expected)
    return "" if filled == actual else f"{at}: {short(filled, 600)} ({expected}) expected, not {short(actual, 600)}"


def _mapping_difference(expected: dict[str, Any], actual: Any, names: Names, at: str) -> str:
    if len(expected) == 1:
        ((word, operand),) = expected.items()
        if word == "$length":
            return "" if len(actual) == operand else f"{at}: length {operand} expected, not {len(actual)}"
        if word == "$contains":
            return "" if names.fill(operand) in actual else f"{at}: {operand!r} expected within {short(actual, 600)}"
        if word == "$has":
            good = any(not difference(operand, each, Names(names)) for each in actual)
            return "" if good else f"{at}: one like {short(operand, 600)} expected among {short(actual, 600)}"
        if word == "$begins":
            good = str(actual).startswith(names.fill(operand)) and len(actual) > 0
            return "" if good else f"{at}: a start of {operand!r} expected, not {short(actual, 600)}"
        if word == "$starts":
            whole = names.fill(operand)
            good = whole.startswith(actual) and 0 < len(actual) < len(whole)
            return "" if good else f"{at}: a part of {short(whole, 100)} expected, not {short(actual, 600)}"
    if not isinstance(actual, dict):
        return f"{at}: {short(expected, 600)} expected, not {short(actual, 600)}"
    if at.rpartition(".")[2] in EXACT and expected.keys() != actual.keys():
        return f"{at}: exactly {short(expected, 600)} expected, not {short(actual, 600)}"
    for key, value in expected.items():
        if value is None and actual.get(key) is None:
            continue
        if key not in actual:
            return f"{at}.{key}: {short(value, 600)} expected, and it is not there"
        if problem := difference(value, actual[key], names, f"{at}.{key}"):
            return problem
    return ""


# --- lists of events


def joined(events: list[Event]) -> list[Event]:
    """The events as a case writes them: consecutive texts, parts of a tool call and interruptions are joined."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else {"event": ""}
        kind = event["event"]
        if kind == last["event"] and kind in ("text", "reasoning"):
            out[-1] = {**event, "text": last["text"] + event["text"]}
        elif kind == last["event"] == "tool_call" and event["index"] == last["index"]:
            call = {"call_id": last["call_id"] or event["call_id"], "name": last["name"] or event["name"]}
            out[-1] = {**event, **call, "arguments": last["arguments"] + event["arguments"]}
        elif kind == last["event"] == "reconnecting":
            continue
        else:
            out.append(event)
    return out


def check_events(expected: list[Any], events: list[Event], names: Names) -> None:
    """Raise AssertionError unless a command's events are the expected ones."""
    actual = joined(events)
    wanted = [_expected(each) for each in expected]
    problem = _sequence_difference(wanted, actual, names)
    if problem:
        lines = "\n".join(f"    {short({k: v for k, v in event.items() if k != 'id'}, 800)}" for event in actual)
        raise AssertionError(f"{problem}\n  expected: {short(expected)}\n  the events were:\n{lines}")


def _expected(each: Any) -> tuple[str, bool, Any]:
    """The kind of an expected event, whether it may be missing, and its expected fields."""
    kind, fields = (each, {}) if isinstance(each, str) else next(iter(each.items()))
    optional = kind.startswith("maybe ")
    return kind.removeprefix("maybe "), optional, fields


def _sequence_difference(wanted: list[tuple[str, bool, Any]], actual: list[Event], names: Names) -> str:
    if not wanted:
        return f"no further event expected: {short(actual[0], 800)}" if actual else ""
    (kind, optional, fields), *rest = wanted
    if kind.startswith("many "):
        kind = kind.removeprefix("many ")
        count = next((i for i, event in enumerate(actual) if event["event"] != kind), len(actual))
        problems = (_event_difference(kind, fields, event, names) for event in actual[:count])
        none = "" if count else f"at least one {kind} expected"
        return (
            none or next((each for each in problems if each), "") or _sequence_difference(rest, actual[count:], names)
        )
    if actual and actual[0]["event"] == kind:
        bound = Names(names)
        problem = _event_difference(kind, fields, actual[0], bound) or _sequence_difference(rest, actual[1:], bound)
        if not problem:
            names.update(bound)
            return ""
    else:
        problem = f"{kind} expected, not {short(actual[0], 800) if actual else 'the end'}"
    if optional and not _sequence_difference(rest, actual, names):
        return ""
    return problem


def _event_difference(kind: str, fields: Any, event: Event, names: Names) -> str:
    if kind in ("result", "item"):
        return difference(fields, event.get("value"), names, kind) if fields != {} else ""
    if kind in ("text", "reasoning") and not (isinstance(fields, dict) and not next(iter(fields), "$").startswith("$")):
        return difference(fields, event["text"], names, kind) if fields != {} else ""
    return difference(fields, event, names, kind)


# --- rules for every stream


def check_stream(events: list[Event]) -> None:
    """Raise AssertionError if the printed events of a stream contradict one another or PLAYER.md."""
    text, sequence, attempt, kinds = "", -1, 0, []
    for event in events:
        kind = event["event"]
        kinds.append(kind)
        _check_fields(kind, event)
        if kind in ("end", "error"):
            state = event if kind == "end" else event["stream"]
            # An application that left the stream may have received an event that it did not print.
            same = (
                state["text"].startswith(text) if kind == "end" and "finished" not in kinds else state["text"] == text
            )
            assert same, f"{kind}: its text is not that of the events before: {short(event)}"
            if event.get("kind") in MORE_ERROR_FIELDS:
                assert event["text"] == text, f"the error's text is not that of the events before: {short(event)}"
            continue
        at = event["sequence"]
        assert at >= sequence, f"the sequence falls from {sequence}: {short(event)}"
        if kind in ("text", "reasoning", "tool_call"):
            assert at > sequence, f"a sequence came twice: {short(event)}"
        sequence = at
        attempt = _next_attempt(attempt, event) if kind == "reconnecting" else 0
        if kind == "text":
            text += event["text"]
        elif kind == "snapshot":
            text = event["text"]
        elif kind == "finished":
            assert event["text"] == text, f"its text is not that of the events before: {short(event)}"
    assert kinds.count("accepted") <= 1, "accepted came twice"
    assert kinds[-1] in ("end", "error"), f"a stream ends with end or error: {kinds}"
    assert not {"end", "error", "finished"} & set(kinds[:-2]), f"events after the end: {kinds}"


def _next_attempt(before: int, event: Event) -> int:
    attempt: int = event["attempt"]
    assert attempt in (before + 1, 1), f"attempt {before + 1} expected: {short(event)}"
    assert event["delay_s"] >= 0, f"a negative delay: {short(event)}"
    return attempt


def _check_fields(kind: str, event: Event) -> None:
    present = set(event) - {"id", "event"}
    if kind == "error":
        check_error({key: event[key] for key in present - {"stream"}})
        assert set(event.get("stream", {})) == STREAM_FIELDS, (
            f"error: stream has other fields than {STREAM_FIELDS}: {short(event)}"
        )
        return
    expected = STREAM_FIELDS if kind == "end" else EVENT_FIELDS.get(kind, set()) | {"sequence"}
    assert kind == "end" or kind in EVENT_FIELDS, f"no such event: {short(event)}"
    assert present == expected, f"{kind}: other fields than PLAYER.md has: {sorted(present ^ expected)}"
    if kind == "reconnecting":
        check_error(event["error"])


def check_error(error: Event) -> None:
    """Raise AssertionError if an error has other fields than in PLAYER.md."""
    kind = error.get("kind", "")
    expected = {"kind", "message"} if kind == "Usage" else ERROR_FIELDS | MORE_ERROR_FIELDS.get(kind, set())
    assert set(error) == expected, f"{kind}: other fields than PLAYER.md has: {sorted(set(error) ^ expected)}"
    if kind != "Usage":
        assert isinstance(error["retryable"], bool), f"retryable is no boolean: {short(error)}"
        assert error["retry_after_s"] is None or error["retry_after_s"] >= 0, short(error)
