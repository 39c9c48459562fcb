"""A request at each limit is accepted; with one unit more it is refused, with the field and the limit."""

from __future__ import annotations

import msgspec
import pytest
from parley_server.core.field_checks import shortened_call_id
from parley_server.core.message_checks import check_full
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    ImagePart,
    Message,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.page_tokens import cursor_of, page_token_of
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.core.usage_values import UsageQuery
from parley_server.core.validation import check_request
from parley_server.errors import InvalidRequest, Reason

from tests.fakes import ADA, limits_with

MIB = 1024 * 1024
LIMITS = limits_with(max_input_text_bytes=2 * MIB, max_images_bytes=3 * MIB, time_limit_s=600)
PNG = b"\x89PNG\r\n\x1a\n"
CONTROL = ("\x00", "\n", "\x1b", "\x7f", "\x85")


def user(*parts):
    return {"messages": (Message(role=Role.USER, parts=parts),)}


def new(**fields):
    return {"new_conversation": Conversation(**fields)}


def call(**fields):
    part = ToolCallPart(**({"id": "a", "name": "f"} | fields))
    return {"messages": (Message(role=Role.ASSISTANT, parts=(part,)), *user(TextPart(text="x"))["messages"])}


def image(**fields):
    return user(ImagePart(**({"url": "https://example.com/a.png"} | fields)))


def schema(size):
    return '"' + "x" * (size - 2) + '"'


def tools(size):
    """Tools of this size together, each with a schema below its own limit."""
    given = [Tool(name=f"t{i}", parameters=schema(60_000)) for i in range(8)]
    return {"tools": (*given, Tool(name="last", description="x" * (size - 8 * 60_002 - 4)))}


def labels(key, value):
    return {"labels": {"k" * key: "v" * value}}


RESULT = "input[0].parts[0].tool_result.tool_call_id"
ROWS = {
    "messages": (lambda n: {"messages": user(TextPart(text="x"))["messages"] * n}, 10_000, "input"),
    "parts": (lambda n: user(*[TextPart(text="x")] * n), 256, "input[0].parts"),
    "text": (lambda n: user(TextPart(text="x" * n)), 2 * MIB, "input[0]"),
    "images": (lambda n: user(*[ImagePart(data=PNG)] * n), 20, "input"),
    "bytes of images": (lambda n: image(url="", data=PNG + b"x" * (n - 8)), 3 * MIB, "input"),
    "system": (lambda n: {"system": ("x",) * n}, 64, "system"),
    "bytes of system": (lambda n: {"system": ("x" * MIB, "x" * (n - MIB))}, 2 * MIB, "system"),
    "system of a conversation": (lambda n: new(system=("x",) * n), 64, "new_conversation.system"),
    "labels": (lambda n: {"labels": {str(i): "" for i in range(n)}}, 16, "labels"),
    "key of a label": (lambda n: labels(n, 1), 64, "labels"),
    "value of a label": (lambda n: labels(1, n), 64, "labels"),
    "tools": (lambda n: {"tools": tuple(Tool(name=f"t{i}") for i in range(n))}, 128, "tools"),
    "schema of a tool": (
        lambda n: {"tools": (Tool(name="f", parameters=schema(n)),)},
        64 * 1024,
        "tools[0].parameters",
    ),
    "bytes of tools": (tools, 512 * 1024, "tools"),
    "json_schema": (lambda n: {"json_schema": schema(n)}, 64 * 1024, "json_schema"),
    "stop": (lambda n: {"sampling": Sampling(stop=("x",) * n)}, 16, "sampling.stop"),
    "characters of a stop": (lambda n: {"sampling": Sampling(stop=("x" * n,))}, 256, "sampling.stop"),
    "fallback_models": (lambda n: {"fallback_models": ("m",) * n}, 7, "fallback_models"),
    "title": (lambda n: new(title="x" * n), 1024, "new_conversation.title"),
    "model": (lambda n: {"model": "x" * n}, 128, "model"),
    "fallback model": (lambda n: {"fallback_models": ("x" * n,)}, 128, "fallback_models"),
    "model of a conversation": (lambda n: new(model="x" * n), 128, "new_conversation.model"),
    "reminder": (
        lambda n: new(context=ContextPolicy(reminder="x" * n)),
        8192,
        "new_conversation.context.reminder",
    ),
    "id of a tool call": (lambda n: call(id="x" * n), 256, "input[0].parts[0].tool_call.id"),
    "id of a tool result": (
        lambda n: {"messages": (Message(role=Role.TOOL, parts=(ToolResultPart(tool_call_id="x" * n),)),)},
        256,
        RESULT,
    ),
    "mime type": (lambda n: image(mime_type="x" * n), 64, "input[0].parts[0].image.mime_type"),
    "request_id": (lambda n: {"request_id": "x" * n}, 128, "request_id"),
    "end user": (lambda n: {"identity": msgspec.structs.replace(ADA, end_user="x" * n)}, 128, "x-end-user"),
}


def check(fields):
    of_call = {name: value for name, value in fields.items() if name in ("request_id", "identity")}
    payload = user(TextPart(text="hello")) | {name: value for name, value in fields.items() if name not in of_call}
    check_request(ReplyRequest(**({"identity": ADA} | of_call), payload=ReplyPayload(**payload)), LIMITS)


@pytest.mark.parametrize("row", ROWS)
def test_input_at_its_limit_is_accepted_and_one_unit_more_is_refused(row):
    fields_of, limit, path = ROWS[row]
    check(fields_of(limit))
    with pytest.raises(InvalidRequest) as refused:
        check(fields_of(limit + 1))
    assert refused.value.reason is Reason.INPUT_TOO_LARGE
    assert refused.value.metadata["limit"].startswith(f"{limit} ")
    assert [violation[0] for violation in refused.value.violations] == [path]


NAMES = {
    "request_id": (lambda text: {"request_id": text}, "request_id"),
    "end user": (lambda text: {"identity": msgspec.structs.replace(ADA, end_user=text)}, "x-end-user"),
    "key of a label": (lambda text: {"labels": {text: "x"}}, "labels"),
    "value of a label": (lambda text: {"labels": {"x": text}}, "labels"),
    "title": (lambda text: new(title=text), "new_conversation.title"),
    "conversation id": (lambda text: new(id=text), "new_conversation.id"),
    "model": (lambda text: {"model": text}, "model"),
    "tool": (lambda text: {"tools": (Tool(name=text),)}, "tools[0].name"),
    "tool call": (lambda text: call(name=text), "input[0].parts[0].tool_call"),
    "id of a tool call": (lambda text: call(id=text), "input[0].parts[0].tool_call.id"),
    "id of a tool result": (
        lambda text: {"messages": (Message(role=Role.TOOL, parts=(ToolResultPart(tool_call_id=text),)),)},
        RESULT,
    ),
    "mime type": (lambda text: image(mime_type=text), "input[0].parts[0].image.mime_type"),
}


@pytest.mark.parametrize("row", NAMES)
def test_control_characters_are_refused_in_names(row):
    fields_of, path = NAMES[row]
    for character in CONTROL:
        with pytest.raises(InvalidRequest) as refused:
            check(fields_of(f"a{character}"))
        ((found, _),) = refused.value.violations
        assert path.startswith(found)  # a NUL is reported for the whole message


def test_texts_may_hold_control_characters_but_no_nul():
    check(user(TextPart(text="\x1b[1mbold\x1b[0m\r\n\t\x7f")))
    with pytest.raises(InvalidRequest):
        check(user(TextPart(text="\x00")))


def test_a_conversation_accepts_messages_up_to_its_limit():
    check_full(stored=99_989, added=10)
    with pytest.raises(InvalidRequest) as refused:
        check_full(stored=99_990, added=10)
    assert refused.value.reason is Reason.INPUT_TOO_LARGE
    assert refused.value.violations == (("conversation_id", "is over the limit of 100000 messages in a conversation"),)


def test_page_tokens_of_the_longest_names_are_accepted():
    query = UsageQuery(start_us=0, end_us=None, groups=())
    cursor = ("t" * 64, "\U0001f600" * 128, "2026-11-28", "\U0001f600" * 128, "COMPLETED", "MAX_TOKENS", "")
    assert cursor_of(page_token_of(cursor, query), query, tuple[str, ...]) == cursor
    with pytest.raises(InvalidRequest) as refused:
        cursor_of("x" * 2049, query, tuple[str, ...])
    assert refused.value.reason is Reason.INPUT_TOO_LARGE


@pytest.mark.parametrize("call_id", ["x" * 257, "a\nb"])
def test_tool_call_ids_that_callers_could_not_send_back_are_replaced(call_id):
    shortened = shortened_call_id(call_id)
    assert shortened == shortened_call_id(call_id) != shortened_call_id(call_id + "x")
    check(call(id=shortened))
    assert shortened_call_id("x" * 256) == "x" * 256
