"""Counts and finish reasons of vendors are checked when they are read."""

import math

import pytest
from parley_server.core.model import FinishReason, Usage
from parley_server.providers.openai.usage import UsageMeter
from parley_server.providers.reading.events import MAX_WORD_BYTES, count, reason_of, word_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (7, 7), (7.0, 7), (9.5, 9), ("12", 12), (10**8, 10**8), ("100000000", 10**8)],
)
def test_counts_of_several_types_are_read(value, expected):
    assert count(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.5,
        10**8 + 1,
        2**31,
        2**64 - 1,
        1e300,
        math.inf,
        math.nan,
        "",
        "-1",
        "1e3",
        "\N{FULLWIDTH DIGIT NINE}",
        "9" * 5000,
        True,
        None,
        [],
        {},
    ],
)
def test_an_implausible_count_is_ignored(value):
    assert count(value) is None


def test_an_implausible_count_never_replaces_a_plausible_one():
    ignored = []
    meter = UsageMeter(on_ignored=lambda: ignored.append(1))
    meter.add({"prompt_tokens": 5, "completion_tokens": 7})
    meter.add({"prompt_tokens": 2**64 - 1, "completion_tokens": -1})
    assert meter.usage() == Usage(prompt_tokens=5, completion_tokens=7)
    assert len(ignored) == 2


@pytest.mark.parametrize("usage", [None, "", [], 7, {}, {"prompt_tokens": None}, {"prompt_tokens": 0}])
def test_an_empty_usage_is_no_usage(usage):
    meter = UsageMeter(on_ignored=lambda: None)
    meter.add(usage)
    assert (meter.known, meter.changed) == (False, False)


def test_details_of_other_types_are_ignored():
    meter = UsageMeter(on_ignored=lambda: None)
    meter.add({"prompt_tokens": 5, "prompt_tokens_details": [], "completion_tokens_details": "x"})
    assert meter.usage() == Usage(prompt_tokens=5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("stop", "stop"),
        (" STOP ", "STOP"),
        ("", ""),
        ("null", ""),
        ("None", ""),
        (None, ""),
        (False, ""),
        (True, ""),
        (7, "7"),
        ({}, ""),
        ([], ""),
        ("�", "�"),
        ("é" * 100, "é" * (MAX_WORD_BYTES // 2)),
    ],
)
def test_finish_reasons_of_any_type_are_bounded_text(value, expected):
    assert word_of(value) == expected


def test_finish_reasons_are_case_insensitive():
    assert reason_of("Max_Tokens") is FinishReason.MAX_TOKENS
    assert reason_of("FAKE_ENUM") is FinishReason.OTHER
