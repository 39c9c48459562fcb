"""The scripted provider: its answers, their timing, and its faults."""

import asyncio

import pytest
from parley_server.core.model import (
    Finish,
    FinishReason,
    Model,
    Prompt,
    PromptMessage,
    Sampling,
    TextPart,
    ToolResultPart,
    Usage,
)
from parley_server.errors import ProviderError, ProviderRejected, Reason
from parley_server.providers.scripted.provider import ERRORS, ScriptedProvider
from parley_server.providers.scripted.script import ErrorFault, PauseStep, Script, TruncateFault, read_script

from tests.unit.providers.moving import MovingClock, Recorder, settle


def prompt(text="Hi", *more, **fields):
    messages = (PromptMessage(role="user", parts=(TextPart(text=text),)), *more)
    return Prompt(model=Model(alias="a", provider="scripted", name="n"), messages=messages, **fields)


async def answer_to(asked, script=None, *, seconds=3600):
    """The sink, the finish, and the time of each text."""
    clock = MovingClock()
    sink = Recorder()
    times = []
    plain = sink.text
    sink.text = lambda text: (times.append(round(clock.now - 1000, 3)), plain(text))
    task = asyncio.ensure_future(ScriptedProvider(clock=clock, script=script).generate(asked, sink))
    await clock.advance(seconds)
    if not task.done():
        task.cancel()
        await settle()
    return sink, task, times


async def test_the_default_answer_introduces_itself_and_quotes_the_user():
    sink, task, times = await answer_to(prompt("What  is\nthis?"))
    assert "scripted" in sink.content
    assert "“What is this?”" in sink.content
    assert [piece.strip().count(" ") for piece in sink.of("text")] == [0] * len(times)
    assert times[:4] == [0.0, 0.03, 0.06, 0.09]
    assert task.result() == Finish(reason=FinishReason.STOP, provider_reason="stop")
    assert sink.of("usage") == [Usage(prompt_tokens=3, completion_tokens=len(sink.content.split()))]
    assert sink.events[1] == ("flush",)


async def test_a_long_question_is_quoted_in_part():
    sink, _, _ = await answer_to(prompt("word " * 1000))
    assert len(sink.content) < 500


async def test_pace_pauses_and_first_token_delay():
    script = Script(text="a b c d", first_token_delay_s=2, tokens_per_s=10, pauses=(PauseStep(after=2, seconds=5),))
    sink, _, times = await answer_to(prompt(), script)
    assert (sink.of("text"), times) == (["a ", "b ", "c ", "d"], [2.0, 2.1, 7.2, 7.3])


@pytest.mark.parametrize(
    ("pieces", "expected"), [("word", ["Ab ", "😀"]), ("character", ["A", "b", " ", "😀"]), ("whole", ["Ab 😀"])]
)
async def test_pieces(pieces, expected):
    sink, _, _ = await answer_to(prompt(), Script(text="Ab 😀", pieces=pieces))
    assert sink.of("text") == expected


async def test_reasoning_and_tool_calls():
    script = read_script({"reasoning": "let me see", "tool_calls": [{"name": "f", "arguments": {"a": 1}, "id": "c1"}]})
    sink, task, _ = await answer_to(prompt(), script)
    assert "".join(sink.of("reasoning")) == "let me see"
    calls = [event[1:] for event in sink.events if event[0] == "tool_call"]
    assert calls == [(0, "c1", "f", '{"a'), (0, "", "", '":1}')]
    assert sink.content == ""
    assert task.result().reason is FinishReason.TOOL_CALLS
    assert sink.of("usage")[0].reasoning_tokens == 3


async def test_after_a_tool_result_the_directive_is_not_followed_again():
    result = PromptMessage(role="tool", parts=(ToolResultPart(tool_call_id="c1", content='/script {"text": "no"}'),))
    sink, task, _ = await answer_to(prompt('/script {"tool_calls": [{"name": "f"}]}', result))
    assert '“/script {"text": "no"}”' in sink.content
    assert task.result().reason is FinishReason.STOP


async def test_max_output_tokens_cuts_the_answer():
    sink, task, _ = await answer_to(prompt(sampling=Sampling(max_output_tokens=2)), Script(text="a b c d"))
    assert sink.content == "a b "
    assert task.result() == Finish(reason=FinishReason.MAX_TOKENS, provider_reason="length")
    assert sink.of("usage")[0].completion_tokens == 2


@pytest.mark.parametrize("reason", list(ERRORS))
async def test_an_error_fault_fails_after_its_piece(reason):
    script = Script(text="a b c", fault=ErrorFault(after=2, reason=reason, retry_after_s=1.5))
    sink, task, _ = await answer_to(prompt(), script)
    failure = task.exception()
    assert isinstance(failure, ProviderError)
    assert (failure.reason, failure.retry_after_s, sink.content) == (Reason(reason), 1.5, "a b ")
    assert sink.of("usage") == []


async def test_a_fault_beyond_the_end_fails_at_the_end():
    sink, task, _ = await answer_to(prompt(), Script(text="a b", fault=TruncateFault(after=99)))
    assert (sink.content, task.exception().reason) == ("a b", Reason.PROVIDER_TRUNCATED)


async def test_a_stall_lasts_until_it_is_cancelled():
    sink, task, _ = await answer_to(prompt('/script {"text": "a b", "fault": {"kind": "stall", "after": 1}}'))
    assert (sink.content, task.cancelled()) == ("a ", True)


async def test_a_directive_changes_only_its_fields():
    base = Script(text="base text", delay_s=1)
    sink, task, times = await answer_to(prompt('/script {"pieces": "whole", "finish": "OTHER", "usage": false}'), base)
    assert (sink.events, times) == ([("text", "base text"), ("flush",)], [0.0])
    assert task.result() == Finish(reason=FinishReason.OTHER, provider_reason="other")


async def test_the_text_after_a_directive_is_quoted():
    sink, _, _ = await answer_to(prompt('/script {"delay_s": 0} How are you?'))
    assert "“How are you?”" in sink.content


async def test_repeat_repeats_the_text():
    sink, _, _ = await answer_to(prompt('/script {"text": "ab ", "repeat": 3, "delay_s": 0}'))
    assert sink.content == "ab ab ab "


@pytest.mark.parametrize(
    ("directive", "complaint"),
    [
        ("/script", "Expecting value"),
        ("/script {", "Expecting"),
        ("/script [1]", "Expected `object`, got `array`"),
        ('/script {"texts": "a"}', "unknown field `texts`"),
        ('/script {"delay_s": -1}', r"\$.delay_s"),
        ('/script {"delay_s": "1"}', r"\$.delay_s"),
        ('/script {"fault": {"kind": "explode"}}', r"\$.fault"),
        ('/script {"fault": {"kind": "error", "reason": "INTERNAL"}}', r"\$.fault.reason"),
        ('/script {"text": "aaaaaaaaaa", "repeat": 1000000}', "characters"),
        ("/script " + "[" * 100_000, "recursion"),
    ],
)
async def test_an_invalid_directive_is_refused(directive, complaint):
    _, task, _ = await answer_to(prompt(directive))
    with pytest.raises(ProviderRejected, match=complaint):
        task.result()


async def test_text_that_only_resembles_a_directive_is_no_directive():
    sink, _, _ = await answer_to(prompt("/scripts are nice"))
    assert "/scripts are nice" in sink.content


async def test_a_script_can_depend_on_the_prompt_without_directives():
    sink = Recorder()
    provider = ScriptedProvider(
        clock=MovingClock(), script=lambda asked: Script(text=str(len(asked.messages))), directives=False
    )
    await provider.generate(prompt("/script {}"), sink)
    await provider.close()
    assert sink.content == "1"
