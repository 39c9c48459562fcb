"""Unsupported settings are left out and reported as ignored; unsupported input is refused."""

from __future__ import annotations

import pytest
from parley_server.core.context.abilities import check_request_fits, check_shown, taken_settings
from parley_server.core.model import (
    ImagePart,
    Message,
    Model,
    PromptMessage,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
)
from parley_server.core.requests import ReplyPayload
from parley_server.errors import InvalidRequest, Reason

URL = ImagePart(url="https://example.com/a.png")
IMAGE = ImagePart(mime_type="image/png", data=b"bytes")
ALL = Model(alias="all", provider="p", name="n", images=True, context_tokens=10_000)


def model(**abilities) -> Model:
    return Model(alias="a", provider="p", name="n", **({"images": True} | abilities))


def request_with(*parts, **fields) -> ReplyPayload:
    return ReplyPayload(messages=(Message(role=Role.USER, parts=parts or (TextPart(text="x"),)),), **fields)


@pytest.mark.parametrize(
    ("abilities", "requested", "taken", "ignored"),
    [
        ({}, {"temperature": 1.0, "seed": 1}, {"temperature": 1.0, "seed": 1}, ()),
        ({"sampling": False}, {"temperature": 1.0, "top_p": 0.5, "seed": 1}, {}, ("temperature", "top_p", "seed")),
        ({"sampling": False}, {}, {}, ()),
        ({"seed": False}, {"temperature": 0.0, "seed": 0}, {"temperature": 0.0}, ("seed",)),
        ({}, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}, ()),
        ({"efforts": ("low", "high")}, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}, ()),
        (
            {"efforts": ("low", "high")},
            {"reasoning_effort": "max"},
            {"reasoning_effort": "high"},
            ("reasoning_effort",),
        ),
        (
            {"efforts": ("low", "high")},
            {"reasoning_effort": "medium"},
            {"reasoning_effort": "low"},
            ("reasoning_effort",),
        ),
        ({"efforts": ("low", "high")}, {"reasoning_effort": "odd"}, {}, ("reasoning_effort",)),
        ({"efforts": ("odd",)}, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}, ()),
        ({"max_output_tokens": 10}, {"max_output_tokens": 20}, {"max_output_tokens": 10}, ()),
        ({"max_output_tokens": 10}, {}, {}, ()),
        ({"output_tokens": 10}, {}, {"max_output_tokens": 10}, ()),
        ({"output_tokens": 10}, {"max_output_tokens": 20}, {"max_output_tokens": 20}, ()),
    ],
)
def test_unsupported_settings_are_left_out_and_reported_as_ignored(abilities, requested, taken, ignored):
    assert taken_settings(model(**abilities), Sampling(**requested)) == (Sampling(**taken), ignored)


@pytest.mark.parametrize(
    ("abilities", "payload", "field"),
    [
        ({"images": False}, request_with(ImagePart(image_id="i")), "input"),
        ({"image_urls": False}, request_with(URL), "input"),
        ({"tools": False}, request_with(tools=(Tool(name="f"),)), "tools"),
        ({"dotted_names": False}, request_with(tools=(Tool(name="a.b"),)), "tools"),
        ({"json_schema": False}, request_with(json_schema="{}"), "json_schema"),
        ({"max_stop": 0}, request_with(sampling=Sampling(stop=("a",))), "sampling.stop"),
        ({"max_stop": 4}, request_with(sampling=Sampling(stop=tuple("abcde"))), "sampling.stop"),
    ],
)
def test_unsupported_input_is_refused_with_its_field(abilities, payload, field):
    with pytest.raises(InvalidRequest) as refused:
        check_request_fits(model(**abilities), payload)
    assert refused.value.reason is Reason.UNSUPPORTED_INPUT
    assert [violation[0] for violation in refused.value.violations] == [field]
    check_request_fits(ALL, payload)


def test_text_above_16_bytes_per_token_of_the_context_is_refused():
    small = model(context_tokens=10)
    check_request_fits(small, request_with(TextPart(text="x" * 160)))
    with pytest.raises(InvalidRequest) as refused:
        check_request_fits(small, request_with(TextPart(text="é" * 81)))
    assert (refused.value.reason, refused.value.metadata) == (Reason.CONTEXT_TOO_LARGE, {"limit": "10 tokens"})


@pytest.mark.parametrize(
    ("abilities", "part"),
    [
        ({"images": False}, IMAGE),
        ({"image_urls": False}, URL),
        ({"dotted_names": False}, ToolCallPart(id="1", name="a.b")),
    ],
)
def test_a_history_with_unsupported_parts_is_refused(abilities, part):
    shown = (PromptMessage(role="user", parts=(TextPart(text="x"), part)),)
    with pytest.raises(InvalidRequest) as refused:
        check_shown(model(**abilities), shown)
    assert refused.value.violations[0][0] == "model"
    check_shown(ALL, shown)
    check_shown(model(**abilities), shown[:0])
