"""Invalid requests are refused with the field and the reason."""

from __future__ import annotations

import msgspec
import pytest
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.core.store_types import Position
from parley_server.core.validation import check_request
from parley_server.errors import InvalidRequest, Reason

from tests.fakes import ADA, limits_with

LIMITS = limits_with(max_input_text_bytes=1000, max_images_bytes=100, time_limit_s=60)
HELLO = Message(role=Role.USER, parts=(TextPart(text="hello"),))
PNG = b"\x89PNG\r\n\x1a\n..."
IMAGES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a..",
    "image/webp": b"RIFF....WEBPVP8 ",
}


def user(*parts) -> tuple[Message, ...]:
    return (Message(role=Role.USER, parts=parts),)


def payload(**fields) -> ReplyPayload:
    return ReplyPayload(**({"messages": (HELLO,)} | fields))


def check(body: ReplyPayload, **fields) -> ReplyRequest:
    return check_request(ReplyRequest(**({"identity": ADA, "payload": body} | fields)), LIMITS)


def conversation(**fields) -> dict:
    return {"new_conversation": Conversation(**fields)}


def tool(**fields) -> dict:
    return {"tools": (Tool(**({"name": "f"} | fields)),)}


INVALID = {
    "both conversations": ({"conversation_id": "c", **conversation()}, "new_conversation"),
    "position without conversation": ({"position": Position(after="m")}, "position"),
    "nothing to answer": ({"messages": ()}, "input"),
    "conversation id": (conversation(id="no spaces"), "new_conversation.id"),
    "conversation id length": (conversation(id="x" * 65), "new_conversation.id"),
    "conversation id newline": (conversation(id="x\n"), "new_conversation.id"),
    "NUL in title": (conversation(title="a\0"), "new_conversation.title"),
    "NUL in system": (conversation(system=("a\0",)), "new_conversation.system"),
    "NUL in post_system": (conversation(post_system="\0"), "new_conversation.post_system"),
    "negative history": (conversation(context=ContextPolicy(max_messages=-1)), "new_conversation.context.max_messages"),
    "negative budget": (conversation(context=ContextPolicy(max_tokens=-1)), "new_conversation.context.max_tokens"),
    "negative interval": (
        conversation(context=ContextPolicy(reminder_interval=-1)),
        "new_conversation.context.reminder_interval",
    ),
    "NUL in reminder": (conversation(context=ContextPolicy(reminder="\0")), "new_conversation.context.reminder"),
    "empty label": ({"labels": {"": "x"}}, "labels"),
    "NUL in label": ({"labels": {"a": "\0"}}, "labels"),
    "temperature too low": ({"sampling": Sampling(temperature=-0.1)}, "sampling.temperature"),
    "temperature too high": ({"sampling": Sampling(temperature=2.1)}, "sampling.temperature"),
    "not a temperature": ({"sampling": Sampling(temperature=float("nan"))}, "sampling.temperature"),
    "top_p zero": ({"sampling": Sampling(top_p=0)}, "sampling.top_p"),
    "top_p too high": ({"sampling": Sampling(top_p=1.1)}, "sampling.top_p"),
    "zero max_output_tokens": ({"sampling": Sampling(max_output_tokens=0)}, "sampling.max_output_tokens"),
    "empty stop": ({"sampling": Sampling(stop=("a", ""))}, "sampling.stop"),
    "tool name": (tool(name="no spaces"), "tools[0].name"),
    "tool parameters": (tool(parameters="{"), "tools[0].parameters"),
    "repeated tool name": ({"tools": (Tool(name="f"), Tool(name="f"))}, "tools"),
    "unknown choice": ({**tool(), "tool_choice": "g"}, "tool_choice"),
    "choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "invalid JSON schema": ({"json_schema": "{"}, "json_schema"),
    "JSON schema that is nested too deeply": ({"json_schema": "[" * 5000 + "]" * 5000}, "json_schema"),
    "negative orphan TTL": ({"orphan_ttl_s": -1.0}, "orphan_ttl"),
    "zero time limit": ({"time_limit_s": 0.0}, "time_limit"),
    "time limit too high": ({"time_limit_s": 60.1}, "time_limit"),
    "no parts": ({"messages": (HELLO, Message(role=Role.USER))}, "input[1].parts"),
    "call by a user": ({"messages": user(ToolCallPart(id="a", name="f"))}, "input[0].parts[0]"),
    "text by a tool": ({"messages": (Message(role=Role.TOOL, parts=(TextPart(text="x"),)),)}, "input[0].parts[0]"),
    "NUL in text": ({"messages": user(TextPart(text="a\0"))}, "input[0]"),
    "call without id": (
        {"messages": (Message(role=Role.ASSISTANT, parts=(ToolCallPart(id="", name="f"),)),)},
        "input[0].parts[0].tool_call",
    ),
    "call with broken arguments": (
        {"messages": (Message(role=Role.ASSISTANT, parts=(ToolCallPart(id="a", name="f", arguments="{"),)),)},
        "input[0].parts[0].tool_call.arguments",
    ),
    "result without call id": (
        {"messages": (Message(role=Role.TOOL, parts=(ToolResultPart(tool_call_id=""),)),)},
        "input[0].parts[0].tool_result.tool_call_id",
    ),
    "http image": ({"messages": user(ImagePart(url="http://example.com/a.png"))}, "input[0].parts[0].image.url"),
    "long url": ({"messages": user(ImagePart(url="https://" + "x" * 8192))}, "input[0].parts[0].image.url"),
    "empty image": ({"messages": user(TextPart(text="x"), ImagePart())}, "input[0].parts[1].image"),
    "unknown image format": ({"messages": user(ImagePart(data=b"hello"))}, "input[0].parts[0].image.data"),
    "wrong mime type": (
        {"messages": user(ImagePart(data=PNG, mime_type="image/gif"))},
        "input[0].parts[0].image.mime_type",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_request_is_refused_with_its_field(case):
    fields, path = INVALID[case]
    with pytest.raises(InvalidRequest) as refused:
        check(payload(**fields))
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert [violation[0] for violation in refused.value.violations] == [path]
    assert refused.value.message.startswith(f"{path}: ")


TOO_LARGE = {
    "fallbacks": ({"fallback_models": ("m",) * 8}, "fallback_models", "7 models"),
    "title": (conversation(title="x" * 1025), "new_conversation.title", "1024 characters"),
    "system": (conversation(system=("x" * 600, "é" * 201)), "new_conversation.system", "1000 bytes of text"),
    "system of the request": ({"system": ("x" * 1001,)}, "system", "1000 bytes of text"),
    "labels": ({"labels": {str(i): "" for i in range(17)}}, "labels", "16 labels"),
    "label": ({"labels": {"a": "x" * 65}}, "labels", "64 characters on each side of a label"),
    "text": ({"messages": (HELLO, *user(TextPart(text="é" * 501)))}, "input[1]", "1000 bytes of text"),
    "images": ({"messages": user(*[ImagePart(data=PNG + b"x" * 40)] * 2)}, "input", "100 bytes of images"),
    "messages": ({"messages": (HELLO,) * 10_001}, "input", "10000 messages"),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_input_that_is_too_large_is_refused_with_its_limit(case):
    fields, path, limit = TOO_LARGE[case]
    with pytest.raises(InvalidRequest) as refused:
        check(payload(**fields))
    assert refused.value.reason is Reason.INPUT_TOO_LARGE
    assert refused.value.metadata == {"limit": limit}
    assert refused.value.violations == ((path, f"is over the limit of {limit}"),)


@pytest.mark.parametrize(
    ("fields", "path", "reason"),
    [
        ({"request_id": "x" * 129}, "request_id", Reason.INPUT_TOO_LARGE),
        ({"request_id": "x\0"}, "request_id", Reason.INVALID_REQUEST),
        ({"identity": msgspec.structs.replace(ADA, end_user="x" * 129)}, "x-end-user", Reason.INPUT_TOO_LARGE),
        ({"background": True, "payload": payload(cancel_on_disconnect=True)}, "on_disconnect", Reason.INVALID_REQUEST),
    ],
)
def test_invalid_fields_of_the_call_are_refused(fields, path, reason):
    with pytest.raises(InvalidRequest) as refused:
        check(payload(), **fields)
    assert refused.value.reason is reason
    assert refused.value.violations[0][0] == path


@pytest.mark.parametrize("mime_type", IMAGES)
def test_the_type_of_an_image_is_read_from_its_bytes(mime_type):
    data = IMAGES[mime_type]
    for given in ("", mime_type):
        checked = check(payload(messages=user(ImagePart(data=data, mime_type=given))))
        assert checked.payload.messages[0].parts == (ImagePart(data=data, mime_type=mime_type, size_bytes=len(data)),)


def test_a_valid_request_is_unchanged():
    body = payload(
        conversation_id="c",
        position=Position(replace="m"),
        messages=(
            *user(TextPart(text="x" * 1000), ImagePart(url="https://example.com/a.png"), ImagePart(image_id="i")),
            Message(
                role=Role.ASSISTANT,
                parts=(ReasoningPart(text="why", signature=b"s"), ToolCallPart(id="a", name="f", arguments="{}")),
            ),
            Message(role=Role.TOOL, parts=(ToolResultPart(tool_call_id="a", content="42"),)),
        ),
        system=("be polite",),
        labels={str(i): "x" * 64 for i in range(16)},
        sampling=Sampling(temperature=2, top_p=1, max_output_tokens=1, stop=("end",)),
        tools=(Tool(name="f", parameters="{}"), Tool(name="g")),
        tool_choice="g",
        json_schema="{}",
        orphan_ttl_s=0.0,
        time_limit_s=60.0,
    )
    request = ReplyRequest(identity=ADA, payload=body, request_id="x" * 128)
    assert check_request(request, LIMITS) == request
    again = payload(messages=(), conversation_id="c", position=Position(replace="m"))
    assert check(again).payload == again


def test_equal_payloads_have_equal_hashes():
    base = payload(labels={"a": "1", "b": "2"}, sampling=Sampling(seed=1))
    turned = payload(labels={"b": "2", "a": "1"}, sampling=Sampling(seed=1, temperature=None), model="")
    assert base.payload_hash() == turned.payload_hash()
    assert base.payload_hash().startswith("1:")
    for change in ({"model": "m"}, {"labels": {"a": "2", "b": "1"}}, {"time_limit_s": 1.0}, {"messages": ()}):
        assert msgspec.structs.replace(base, **change).payload_hash() != base.payload_hash()
    signed = [payload(messages=user(ImagePart(data=data))).payload_hash() for data in (b"a", b"b")]
    assert signed[0] != signed[1]
