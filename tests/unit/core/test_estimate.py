"""Estimates of the tokens of a prompt: the defaults, and their correction by the counts of providers."""

from __future__ import annotations

import logging

import pytest
from parley_server.core.context.estimate import Estimator, Rates, content_size, own_ratio
from parley_server.core.model import (
    ImagePart,
    Model,
    Prompt,
    PromptMessage,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

from tests.fakes import RecordingObserver

MODEL = Model(alias="a", provider="p", name="n", context_tokens=1000)
MESSAGES = (PromptMessage(role="user", parts=(TextPart(text="x"),)),)


def prompt(size: int, *, likely: int = 1, **fields) -> Prompt:
    given = {"model": MODEL, "messages": MESSAGES, "text_bytes": size, "estimated_tokens": 1, "likely_tokens": likely}
    return Prompt(**(given | fields))


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def estimator(observer: RecordingObserver) -> Estimator:
    return Estimator(observer)


def test_the_size_of_content_has_the_bytes_of_text_and_tools_and_the_number_of_images():
    parts = (
        TextPart(text="é"),
        ToolCallPart(id="1234", name="f", arguments="{}"),
        ToolResultPart(tool_call_id="1234", content="42"),
        ImagePart(url="https://example.com/a.png"),
        ReasoningPart(text="why"),
    )
    assert content_size(parts) == (2 + 3 + 2, 1)
    assert content_size(parts, with_reasoning=True) == (2 + 3 + 2 + 3, 1)


def test_ten_equal_counts_bring_the_ratio_close_to_the_counted_one(estimator):
    cold = estimator.rates(MODEL)
    for _ in range(10):
        rates = estimator.rates(MODEL)
        assert rates.fixed + rates.per_byte * 8000 >= 96 + 2000
        estimator.counted(prompt(8000), Usage(prompt_tokens=96 + 2000))
    assert cold == Rates(96, 0.4)
    assert estimator.rates(MODEL).per_byte == pytest.approx(0.25 + 3 * 0.015)
    assert estimator.rates(Model(alias="b", provider="p", name="other")) == cold


def test_a_higher_count_raises_the_ratio_at_once(estimator):
    estimator.counted(prompt(10_000), Usage(prompt_tokens=10_000))
    assert estimator.rates(MODEL).per_byte >= 0.99


def test_short_prompts_set_the_fixed_tokens_of_all_prompts(estimator):
    estimator.counted(prompt(100), Usage(prompt_tokens=40 + 8 + 300))
    assert estimator.rates(MODEL) == Rates(300, 0.4)
    estimator.counted(prompt(100, tools=(Tool(name="f"),)), Usage(prompt_tokens=9000))
    assert estimator.rates(MODEL).fixed == 300
    for _ in range(50):
        estimator.counted(prompt(100), Usage(prompt_tokens=10**8))
    assert estimator.rates(MODEL).fixed == 4000


def test_a_count_of_a_prompt_that_the_provider_cut_is_logged_and_not_used(estimator, observer, caplog):
    cut = prompt(40_000, likely=16_000, estimated_tokens=20_480)
    with caplog.at_level(logging.WARNING, "parley.context"):
        assert estimator.counted(cut, Usage(prompt_tokens=4096)).prompt_bytes == 0
    (line,) = caplog.records
    assert (line.message, line.fields) == (
        "prompt_cut_by_provider",
        {"model": "a", "estimated": 16_000, "counted": 4096},
    )
    assert estimator.rates(MODEL) == Rates()
    assert observer.ratios == [pytest.approx(5)]


def test_the_mean_estimate_uses_the_counts_of_earlier_prompts(estimator):
    size = {"text_bytes": 8000, "messages": 2, "images": 1}
    assert estimator.likely_tokens(MODEL, **size, extra_tokens=1000) == 8 + 2000 + 8 + 800 + 300
    estimator.counted(prompt(8000), Usage(prompt_tokens=96 + 4000))
    assert estimator.likely_tokens(MODEL, **size, extra_tokens=0) == 8 + 4000 + 8 + 800


def test_a_count_is_stored_with_the_bytes_of_its_prompt(estimator):
    assert estimator.counted(prompt(5000, likely=2000), Usage(prompt_tokens=1500)).prompt_bytes == 5000
    for unknown, counted in ((prompt(0), 1500), (prompt(5000), 0)):
        assert estimator.counted(unknown, Usage(prompt_tokens=counted)) == Usage(prompt_tokens=counted)


@pytest.mark.parametrize(
    ("limit", "expected"), [(800, 800), (2000, 1000), (0, 1000), (-5, 1000), (3, 1000), (None, 1000)]
)
def test_a_refusal_lowers_the_limit_of_the_context(estimator, limit, expected):
    estimator.refused(prompt(5000), limit_tokens=limit, prompt_tokens=None)
    assert estimator.context_tokens(MODEL) == expected


def test_a_refusal_raises_the_ratio_to_that_of_the_refused_prompt(estimator):
    estimator.refused(prompt(5000), limit_tokens=4000, prompt_tokens=5096)
    assert estimator.rates(MODEL).per_byte >= 1.0


@pytest.mark.parametrize(
    ("last", "ratio"),
    [
        (None, 0.4),
        (Usage(prompt_tokens=1000, prompt_bytes=10_000), 0.11),
        (Usage(prompt_tokens=1000, prompt_bytes=3000), 0.4),
        (Usage(prompt_tokens=10**8, prompt_bytes=4000), 4.0),
        (Usage(prompt_tokens=1, prompt_bytes=10**8), 0.02),
    ],
)
def test_a_conversation_has_a_ratio_of_its_own_within_bounds(last, ratio):
    assert own_ratio(last, Rates()) == pytest.approx(ratio)
