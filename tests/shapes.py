"""Streams of chat completions that deviate from the specification as real servers do, each with its meaning.

`docs/upstreams.md` has a row for each of them. Tests read them whole, cut at many places, and over a socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.upstream import chunk, comment, done, error_event, event, finish, reasoning, role, text, usage

HIGH, LOW = rb"\ud83d", rb"\ude00"


@dataclass(frozen=True)
class Shape:
    """A body and its meaning. end: a finish reason or an error reason. calls: pairs of name and arguments. counts:
    prompt, cached, completion and reasoning tokens, or None without counts."""

    name: str
    body: bytes
    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    ids: tuple[str, ...] | None = None
    end: str = "STOP"
    word: str | None = None
    counts: tuple[int, int, int, int] | None = None
    estimated: bool = False
    notices: frozenset[str] = frozenset()
    done_is_finish: bool = False
    content_type: str = "text/event-stream"


def _usage(**fields: Any) -> bytes:
    return event({"choices": [], "usage": fields})


def _calls(*calls: dict[str, Any]) -> bytes:
    return chunk({"tool_calls": list(calls)})


def _call(name: Any = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return fields | {"function": function}


def _choice(**fields: Any) -> bytes:
    return event({"choices": [fields]})


CALLS = finish("tool_calls") + done()
END = finish() + done()
AFTER = frozenset({"after_finish"})
COUNT = frozenset({"count"})
F, G = ("f", '{"a":1}'), ("g", '{"b":2}')

ENDS = [
    Shape("finish word and [DONE]", text("a") + END, "a"),
    Shape("finish word alone", text("a") + finish(), "a"),
    Shape("last event without its empty line", text("a") + finish().rstrip(), "a"),
    Shape("[DONE] with usage, no finish word", text("a") + usage() + done(), "a", word="[DONE]", counts=(5, 0, 7, 0)),
    Shape("[DONE] without usage and finish word", text("a") + done(), "a", end="PROVIDER_TRUNCATED"),
    Shape("[DONE] alone where done_is_finish", text("a") + done(), "a", word="[DONE]", done_is_finish=True),
    Shape("quoted [DONE]", text("a") + usage() + b'data: "[DONE]"\n\n', "a", word="[DONE]", counts=(5, 0, 7, 0)),
    Shape("no end at all", text("a"), "a", end="PROVIDER_TRUNCATED"),
    Shape("cut within an event", text("a") + text("b")[:25], "a", end="PROVIDER_TRUNCATED"),
    Shape(
        "finish word on each chunk", chunk({"content": "a"}, "stop") + chunk({"content": "b"}, "stop") + done(), "ab"
    ),
    Shape("finish word from the first chunk on", chunk({"role": "x"}, "stop") + text("a") + text("b"), "ab"),
    Shape(
        "error after content that followed a finish word",
        chunk({"content": "a"}, "stop") + text("b") + error_event(),
        "ab",
        end="PROVIDER_UNAVAILABLE",
    ),
    Shape(
        "garbage between a finish word and content",
        chunk({"content": "a"}, "stop") + b"data: {oops\n\n" + text("b") + done(),
        "ab",
        end="PROVIDER_MALFORMED",
        notices=AFTER,
    ),
    Shape(
        "last of several finish words", text("a") + finish("stop") + finish("length") + done(), "a", end="MAX_TOKENS"
    ),
    Shape('finish word "null" on each chunk', chunk({"content": "a"}, "null") + END, "a"),
    Shape("finish word as a number", text("a") + finish(7) + done(), "a", end="OTHER", word="7"),  # type: ignore[arg-type]  # what servers send
    Shape("finish word of a kilobyte", text("a") + finish("x" * 1000) + done(), "a", end="OTHER", word="x" * 64),
    Shape("unknown finish word without content", role() + finish("strange") + done(), end="PROVIDER_MALFORMED"),
    Shape("empty answer", role() + END),
    *[
        Shape(f"finish word {word}", text("a") + finish(word) + done(), "a", end=end)
        for word, end in [
            ("eos", "STOP"),
            ("end_turn", "STOP"),
            ("STOP", "STOP"),
            ("MAX_TOKENS", "MAX_TOKENS"),
            ("model_length", "MAX_TOKENS"),
            ("sensitive", "CONTENT_FILTER"),
            ("SAFETY", "CONTENT_FILTER"),
            ("error", "PROVIDER_UNAVAILABLE"),
            ("network_error", "PROVIDER_UNAVAILABLE"),
            ("insufficient_system_resource", "PROVIDER_UNAVAILABLE"),
            ("abort", "PROVIDER_TRUNCATED"),
            ("MALFORMED_FUNCTION_CALL", "PROVIDER_MALFORMED"),
            ("whatever", "OTHER"),
        ]
    ],
]

AFTER_FINISH = [
    Shape(f"{name} after the finish", text("a") + finish() + odd, "a", notices=AFTER)
    for name, odd in [
        ("[END]", b"data: [END]\n\n"),
        ("null", b"data: null\n\n"),
        ("broken JSON", b"data: {oops\n\n"),
        ("an error event", error_event()),
        ("a line error:", b'error: {"code": 500, "message": "x"}\n\n'),
        ("a list of an error", b'data: [{"error": {"message": "x"}}]\n\n'),
    ]
] + [
    Shape(
        "finish word length, then an error with usage",
        text("a")
        + finish("length")
        + event({"error": {"code": 400, "message": "limit"}, "usage": {"prompt_tokens": 4}}),
        "a",
        end="MAX_TOKENS",
        counts=(4, 0, 0, 0),
        notices=AFTER,
    ),
    Shape(
        "usage of another type after the finish",
        text("a") + finish() + event({"usage": ""}) + event({"usage": []}),
        "a",
    ),
    Shape(
        "counts as floats and digits",
        text("a") + finish() + _usage(prompt_tokens=9.5, completion_tokens="7") + done(),
        "a",
        counts=(9, 0, 7, 0),
    ),
]

TOOLS = [
    Shape(
        "two whole calls with index 0",
        _calls(_call(*F, index=0, id="x")) + _calls(_call(*G, index=0, id="y")) + CALLS,
        calls=(F, G),
        ids=("x", "y"),
        end="TOOL_CALLS",
    ),
    Shape(
        "two whole calls with index 0, no ids",
        _calls(_call(*F, index=0)) + _calls(_call(*G, index=0)) + CALLS,
        calls=(F, G),
        end="TOOL_CALLS",
    ),
    Shape(
        "two calls of one function with index 0, no ids",
        _calls(_call(*F, index=0)) + _calls(_call(*F, index=0)) + CALLS,
        calls=(F, F),
        end="TOOL_CALLS",
    ),
    Shape(
        "two calls in one delta, no index",
        _calls(_call(*F, id="x"), _call(*G, id="y")) + CALLS,
        calls=(F, G),
        ids=("x", "y"),
        end="TOOL_CALLS",
    ),
    Shape("no index, id empty", _calls(_call(*F, id=""), _call(*G, id="")) + CALLS, calls=(F, G), end="TOOL_CALLS"),
    Shape(
        "no index, id empty, arguments in pieces",
        _calls(_call("f", '{"a"', id="")) + _calls(_call("", ":1}", id="")) + _calls(_call(*G, id="")) + CALLS,
        calls=(F, G),
        end="TOOL_CALLS",
    ),
    Shape(
        "no index, the same id on each piece",
        _calls(_call("f", '{"a"', id="x")) + _calls(_call(None, ":1}", id="x")) + _calls(_call(*G, id="y")) + CALLS,
        calls=(F, G),
        ids=("x", "y"),
        end="TOOL_CALLS",
    ),
    Shape(
        "id and name on each piece",
        _calls(_call("f", '{"a"', index=0, id="x")) + _calls(_call("f", ":1}", index=0, id="x")) + CALLS,
        calls=(F,),
        ids=("x",),
        end="TOOL_CALLS",
    ),
    Shape(
        "name null first",
        _calls({"index": 0, "id": "x", "function": {"name": None, "arguments": ""}})
        + _calls(_call("f", '{"a":1}', index=0))
        + CALLS,
        calls=(F,),
        ids=("x",),
        end="TOOL_CALLS",
    ),
    Shape(
        "name after the arguments",
        _calls(_call(None, '{"a":1}', index=0)) + _calls(_call("f", index=0)) + CALLS,
        calls=(F,),
        end="TOOL_CALLS",
    ),
    Shape(
        "name in pieces",
        _calls(_call("get_", "", index=0)) + _calls(_call("weather", '{"a":1}', index=0)) + CALLS,
        calls=(("get_weather", '{"a":1}'),),
        end="TOOL_CALLS",
    ),
    Shape(
        "interleaved calls",
        _calls(_call("f", '{"a"', index=0), _call("g", '{"b"', index=1))
        + _calls(_call(None, ":2}", index=1), _call(None, ":1}", index=0))
        + CALLS,
        calls=(F, G),
        end="TOOL_CALLS",
    ),
    Shape("arguments as an object", _calls(_call("f", {"a": 1}, index=0)) + CALLS, calls=(F,), end="TOOL_CALLS"),
    Shape(
        "index as text and as a float",
        _calls(_call("f", '{"a"', index="0")) + _calls(_call(None, ":1}", index=0.0)) + CALLS,
        calls=(F,),
        end="TOOL_CALLS",
    ),
    Shape("index of 2^31", _calls(_call(*F, index=2**31)) + CALLS, calls=(F,), end="TOOL_CALLS"),
    Shape("numeric id", _calls(_call(*F, index=0, id=42)) + CALLS, calls=(F,), ids=("42",), end="TOOL_CALLS"),
    Shape(
        "one id for two calls",
        _calls(_call(*F, index=0, id="x")) + _calls(_call(*G, index=1, id="x")) + CALLS,
        calls=(F, G),
        end="TOOL_CALLS",
    ),
    Shape(
        "finish word stop with calls",
        text("a") + _calls(_call(*F, index=0)) + END,
        "a",
        calls=(F,),
        end="TOOL_CALLS",
        word="stop",
    ),
    Shape(
        "legacy function_call",
        chunk({"function_call": {"name": "f", "arguments": '{"a"'}})
        + chunk({"function_call": {"arguments": ":1}"}})
        + finish("function_call")
        + done(),
        calls=(F,),
        end="TOOL_CALLS",
    ),
    Shape("call without arguments", _calls(_call("f", index=0)) + CALLS, calls=(("f", "{}"),), end="TOOL_CALLS"),
    Shape(
        "call without a name",
        text("a") + _calls(_call(None, "{}", index=0)) + END,
        "a",
        notices=frozenset({"tool_call"}),
    ),
    Shape(
        "tool calls none of which is whole",
        _calls(_call("f", '{"a"', index=0)) + CALLS,
        calls=(("f", '{"a"'),),
        end="PROVIDER_MALFORMED",
    ),
    Shape(
        "cut by the limit within a call",
        text("a") + _calls(_call("f", '{"a"', index=0)) + finish("length") + done(),
        "a",
        calls=(("f", '{"a"'),),
        end="MAX_TOKENS",
    ),
    Shape(
        "258 tool calls",
        b"".join(_calls(_call("f", "{}", index=number)) for number in range(258)) + CALLS,
        calls=(("f", "{}"),) * 257,
        end="PROVIDER_MALFORMED",
    ),
]

CONTENT = [
    Shape(
        "content as a list of parts",
        chunk(
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "a"},
                ]
            }
        )
        + text("b")
        + END,
        "ab",
        "hm",
    ),
    Shape("reasoning", chunk({"reasoning": "hm"}) + text("a") + END, "a", "hm"),
    Shape("reasoning as an object", chunk({"reasoning": {"text": "hm"}}) + text("a") + END, "a", "hm"),
    Shape("reasoning_content", reasoning("hm") + text("a") + END, "a", "hm"),
    Shape(
        "reasoning_details alone",
        chunk(
            {
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "h"},
                    {"type": "reasoning.summary", "summary": "m"},
                ]
            }
        )
        + text("a")
        + END,
        "a",
        "hm",
    ),
    Shape(
        "reasoning in two fields",
        chunk({"reasoning": "hm", "reasoning_details": [{"text": "hm"}]})
        + chunk({"reasoning_details": [{"text": "hm"}]})
        + text("a")
        + END,
        "a",
        "hm",
    ),
    Shape("message in place of delta", _choice(message={"content": "a"}, finish_reason="stop") + done(), "a"),
    Shape("text in place of delta", _choice(text="a") + _choice(text="b", finish_reason="stop") + done(), "ab"),
    Shape("message that repeats the deltas", text("a") + _choice(message={"content": "a"}, finish_reason="stop"), "a"),
    Shape("refusal", chunk({"refusal": "no"}) + END, "no"),
    Shape("choice index as text", _choice(index="0", delta={"content": "a"}, finish_reason="stop") + done(), "a"),
    Shape(
        "surrogate pair cut between deltas",
        text("x").replace(b'"x"', b'"a' + HIGH + b'"') + text("x").replace(b'"x"', b'"' + LOW + b'"') + END,
        "a😀",
    ),
    Shape(
        "image beside text",
        chunk({"content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "a"}]}) + END,
        "a",
        notices=frozenset({"content"}),
    ),
    Shape(
        "images alone",
        chunk({"content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}) + END,
        end="PROVIDER_MALFORMED",
        notices=frozenset({"content"}),
    ),
    Shape("content in a field that is not read", chunk({"output": "a"}) + END, end="PROVIDER_MALFORMED"),
    Shape(
        "events of another dialect",
        event({"response": "a"}) + event({"response": "b"}) + done(),
        end="PROVIDER_MALFORMED",
    ),
    Shape("HTML", b"<html>\n<body>Bad gateway</body>\n</html>\n", end="PROVIDER_MALFORMED"),
    Shape("events under application/json", text("a") + END, "a", content_type="application/json"),
    Shape(
        "one JSON completion",
        b'{"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}],\n'
        b' "usage": {"prompt_tokens": 5, "completion_tokens": 7}\n}',
        "a",
        counts=(5, 0, 7, 0),
        content_type="application/json",
    ),
    Shape(
        "one JSON completion that is cut",
        b'{"choices": [{"index": 0, "message": {"content": "a"',
        end="PROVIDER_TRUNCATED",
        content_type="application/json",
    ),
    Shape("comments and fields without data", comment() + b"event: x\nid: 1\nretry: 5\n" + text("a") + END, "a"),
    Shape("CR LF", (text("a") + text("b") + END).replace(b"\n", b"\r\n"), "ab"),
]

USAGE = [
    Shape("usage of zeros", text("a") + finish() + _usage(prompt_tokens=0, completion_tokens=0) + done(), "a"),
    Shape("usage of nulls", text("a") + finish() + _usage(prompt_tokens=None, completion_tokens=None) + done(), "a"),
    Shape("usage without fields", text("a") + finish() + event({"choices": [], "usage": {}}) + done(), "a"),
    Shape(
        "usage of zeros after a good one",
        text("a") + usage() + finish() + usage(0, 0) + done(),
        "a",
        counts=(5, 0, 7, 0),
    ),
    Shape(
        "usage in two halves",
        text("a") + _usage(prompt_tokens=5) + finish() + _usage(completion_tokens=7) + done(),
        "a",
        counts=(5, 0, 7, 0),
    ),
    Shape(
        "usage in every chunk",
        chunk({"content": "a"}, usage={"prompt_tokens": 5, "completion_tokens": 1})
        + chunk({"content": "b"}, "stop", usage={"prompt_tokens": 5, "completion_tokens": 2})
        + done(),
        "ab",
        counts=(5, 0, 2, 0),
    ),
    Shape(
        "reasoning left out of completion_tokens",
        text("a")
        + finish()
        + _usage(
            prompt_tokens=12, completion_tokens=2, total_tokens=354, completion_tokens_details={"reasoning_tokens": 340}
        )
        + done(),
        "a",
        counts=(12, 0, 342, 340),
    ),
    Shape(
        "reasoning within completion_tokens",
        text("a") + finish() + usage(12, 342, reasoning_tokens=340) + done(),
        "a",
        counts=(12, 0, 342, 340),
    ),
    Shape(
        "prompt_cache_hit_tokens",
        text("a") + finish() + _usage(prompt_tokens=12, completion_tokens=2, prompt_cache_hit_tokens=8) + done(),
        "a",
        counts=(12, 8, 2, 0),
    ),
    Shape(
        "cached_tokens beside prompt_tokens",
        text("a") + finish() + _usage(prompt_tokens=12, completion_tokens=2, cached_tokens=8) + done(),
        "a",
        counts=(12, 8, 2, 0),
    ),
    Shape(
        "usage in the choice",
        text("a")
        + _choice(index=0, delta={}, finish_reason="stop", usage={"prompt_tokens": 5, "completion_tokens": 7})
        + done(),
        "a",
        counts=(5, 0, 7, 0),
    ),
    Shape(
        "usage in x_groq",
        text("a") + chunk({}, "stop", x_groq={"usage": {"prompt_tokens": 5, "completion_tokens": 7}}) + done(),
        "a",
        counts=(5, 0, 7, 0),
    ),
    Shape("more cached than prompt", text("a") + finish() + usage(5, 7, cached=9) + done(), "a", counts=(5, 5, 7, 0)),
    Shape(
        "count of 2^64-1",
        text("a") + finish() + _usage(prompt_tokens=2**64 - 1, completion_tokens=7) + done(),
        "a",
        counts=(0, 0, 7, 0),
        estimated=True,
        notices=COUNT,
    ),
    Shape(
        "negative count",
        text("a") + finish() + _usage(prompt_tokens=5, completion_tokens=-7) + done(),
        "a",
        counts=(5, 0, 0, 0),
        estimated=True,
        notices=COUNT,
    ),
    Shape(
        "counts that are no numbers",
        text("a") + finish() + _usage(prompt_tokens=True, completion_tokens=[7]) + done(),
        "a",
        notices=COUNT,
    ),
]

ERRORS = [
    Shape(f"error in the stream: {name}", text("a") + odd, "a", end=end)
    for name, odd, end in [
        ("object", error_event(kind="rate_limit_error"), "PROVIDER_RATE_LIMITED"),
        ("text", event({"error": "it broke"}), "PROVIDER_UNAVAILABLE"),
        ("status_code", event({"error": {"message": "x", "status_code": 400}}), "PROVIDER_REJECTED"),
        ("list of one", b'data: [{"error": {"code": 429, "message": "x"}}]\n\n', "PROVIDER_RATE_LIMITED"),
        ("choices[0].error", _choice(index=0, delta={}, error={"code": 502, "message": "x"}), "PROVIDER_UNAVAILABLE"),
        ("detail", event({"detail": "it broke"}), "PROVIDER_UNAVAILABLE"),
        ("object: error", event({"object": "error", "message": "x", "code": 400}), "PROVIDER_REJECTED"),
        (
            "base_resp",
            event({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "x"}}),
            "PROVIDER_UNAVAILABLE",
        ),
        ("line error:", b'error: {"code": 500, "message": "x", "type": "server_error"}\n\n', "PROVIDER_UNAVAILABLE"),
        ("bare JSON", b'{"error": {"code": 429, "message": "x"}}\n', "PROVIDER_RATE_LIMITED"),
        ("bare JSON over lines", b'[{\n  "error": {\n    "code": 429\n  }\n}\n]\n', "PROVIDER_RATE_LIMITED"),
        ("event: error", b"event: error\n" + error_event(kind="overloaded_error"), "PROVIDER_UNAVAILABLE"),
        ("context overflow", error_event(kind="", code="context_length_exceeded"), "PROVIDER_CONTEXT_TOO_LARGE"),
        ("content filter after a token", error_event(code="content_filter"), "PROVIDER_REJECTED"),
    ]
] + [
    Shape(
        "empty error with each chunk",
        chunk({"content": "a"}, error={}) + chunk({"content": "b"}, "stop", error={"code": 0, "message": ""}) + done(),
        "ab",
    ),
    Shape("garbage before the finish", text("a") + b"data: {oops\n\n" + END, "a", end="PROVIDER_MALFORMED"),
]

SHAPES = [*ENDS, *AFTER_FINISH, *TOOLS, *CONTENT, *USAGE, *ERRORS]
