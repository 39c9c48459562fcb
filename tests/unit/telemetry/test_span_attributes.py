"""Attributes of spans that are written as bytes: the library of OpenTelemetry reads the same values from them."""

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from parley_server.core.model import Usage
from parley_server.telemetry.otel.attributes import (
    SHORT,
    CountAttribute,
    SecondsAttribute,
    TextAttribute,
    of_call,
    of_outcome,
    of_usage,
)


def read(data):
    """The attributes in the serialized fields of a span: by name, the kind of the value and the value."""
    span = Span.FromString(data)
    return {each.key: (kind := each.value.WhichOneof("value"), getattr(each.value, kind)) for each in span.attributes}


@pytest.mark.parametrize("length", [*range(1, SHORT + 2), 127, 128, 16_383, 16_384])
def test_a_text_of_any_length(length):
    text = "x" * length
    assert read(TextAttribute("name").of(text)) == {"name": ("string_value", text)}


@pytest.mark.parametrize("name", ["n", "n" * 60, "n" * 130, "n" * 16_400])
@pytest.mark.parametrize("text", ["é" * 20, "日本" * 10, "😀" * 16, "😀" * 40])
def test_a_text_that_is_not_ascii_behind_a_name_of_any_length(name, text):
    assert read(TextAttribute(name).of(text)) == {name: ("string_value", text)}


def test_no_attribute_without_a_value():
    assert TextAttribute("name").of("") == SecondsAttribute("name").of(None) == b""


def test_a_text_that_utf_8_cannot_encode_is_refused():
    with pytest.raises(UnicodeEncodeError):
        TextAttribute("name").of("\ud800")


@pytest.mark.parametrize("seconds", [0.0, 0.001, 1.0, 86_400.5, 1e-300])
def test_seconds(seconds):
    assert read(SecondsAttribute("name").of(seconds)) == {"name": ("double_value", seconds)}


@pytest.mark.parametrize("count", [0, 1, *[(1 << 7 * n) + d for n in range(1, 9) for d in (-1, 0, 1)], (1 << 63) - 1])
def test_counts(count):
    assert read(CountAttribute("name").of(count)) == {"name": ("int_value", count)}


@pytest.mark.parametrize("count", [-1, 1 << 63])
def test_a_count_outside_of_its_range_is_refused(count):
    with pytest.raises((ValueError, IndexError)):
        CountAttribute("name").of(count)


def test_parts_of_the_usage_that_are_0_are_left_out():
    assert read(of_usage(Usage(prompt_tokens=300, completion_tokens=0))) == {
        "gen_ai.usage.input_tokens": ("int_value", 300),
        "gen_ai.usage.output_tokens": ("int_value", 0),
    }
    assert read(
        of_usage(
            Usage(
                prompt_tokens=1,
                completion_tokens=2,
                cached_prompt_tokens=3,
                cache_write_prompt_tokens=4,
                reasoning_tokens=5,
            )
        )
    ) == {
        "gen_ai.usage.input_tokens": ("int_value", 1),
        "gen_ai.usage.output_tokens": ("int_value", 2),
        "gen_ai.usage.cache_read.input_tokens": ("int_value", 3),
        "gen_ai.usage.cache_write.input_tokens": ("int_value", 4),
        "gen_ai.usage.reasoning.output_tokens": ("int_value", 5),
    }


@pytest.mark.parametrize(("code", "is_fault"), [("OK", False), ("NOT_FOUND", False), ("INTERNAL", True)])
def test_a_fault_of_the_server_has_the_status_error(code, is_fault):
    data = of_call("parley.v1.Chat/GetReply", code, "", "shop")
    assert (Span.FromString(data).status.code == Status.STATUS_CODE_ERROR) is is_fault
    assert read(data).get("error.type") == (("string_value", code) if is_fault else None)


@pytest.mark.parametrize(("outcome", "is_error"), [("OK", False), ("CANCELLED", False), ("PROVIDER_TIMEOUT", True)])
def test_a_failed_request_has_the_status_error(outcome, is_error):
    data = of_outcome(2, outcome, "stop", "model-2")
    assert (Span.FromString(data).status.code == Status.STATUS_CODE_ERROR) is is_error
    assert read(data)["parley.attempt.number"] == ("int_value", 2)
    assert read(data)["gen_ai.response.model"] == ("string_value", "model-2")
