"""The prompts of one turn, by model: budgets, refusals as too long, kept items, cache marks, reminders, summaries."""

from __future__ import annotations

import itertools
import time

import msgspec
import pytest
from parley_server.core.context.estimate import Estimator
from parley_server.core.context.prompts import TurnPrompts
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    ImagePart,
    Kept,
    Message,
    Model,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.core.store_types import PromptSource, Summary
from parley_server.errors import ContextTooLarge, UnsupportedInput

from tests.fakes import ADA, RecordingObserver

SMALL = Model(alias="small", provider="p", name="s", context_tokens=1000)
OPEN = Model(alias="open", provider="p", name="o", images=True)
KEPT = Kept(origin="o", items=("{}",))
WORDS = "x" * 200
"""A message of 88 tokens by the default estimate."""


def message_of(role: Role, message_id: str, *parts) -> Message:
    shown = tuple(TextPart(text=part) if isinstance(part, str) else part for part in parts)
    return Message(id=message_id, role=role, parts=shown, parent_id="before")


def dialogue(count: int, text: str = WORDS) -> tuple[Message, ...]:
    roles = (Role.USER, Role.ASSISTANT)
    return tuple(message_of(roles[at % 2], f"{at + 1}", text) for at in range(count))


def call(call_id: str) -> ToolCallPart:
    return ToolCallPart(id=call_id, name="f", arguments="{}")


def result(message_id: str, call_id: str) -> Message:
    return message_of(Role.TOOL, message_id, ToolResultPart(tool_call_id=call_id, content="42"))


def turn(path=(), *, new=None, estimator=None, policy=None, payload=None, conversation=None, **source) -> TurnPrompts:
    new = (message_of(Role.USER, "new", "question"),) if new is None else new
    conversation = Conversation(id="c", tenant="shop", context=policy or ContextPolicy(), **(conversation or {}))
    branch = PromptSource(conversation=conversation, path=tuple(path), **source)
    request = ReplyRequest(identity=ADA, payload=ReplyPayload(messages=new, **(payload or {})))
    return TurnPrompts(request, branch, new, estimator or Estimator(RecordingObserver()))


def ids(prompts: TurnPrompts, model: Model) -> str:
    return " ".join(row.message_id or row.message.parts[0].text for row in prompts.built(model).rows)


# --- estimate


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 96 + 8 + 40),
        ({"conversation": {"system": ("s" * 100,)}}, 144 + 8 + 40),
        ({"conversation": {"post_system": "s" * 100}}, 144 + 8 + 40),
        ({"new": (message_of(Role.USER, "new", "x" * 100, ImagePart(url="https://example.com/a.png")),)}, 144 + 1600),
        ({"payload": {"tools": (Tool(name="f" * 100),)}}, 144 + 1024 + 40),
        ({"payload": {"json_schema": "s" * 100}}, 144 + 256 + 40),
        ({"policy": ContextPolicy(reminder="r" * 100, reminder_interval=1), "path": dialogue(1, "")}, 144 + 8 + 8 + 40),
        ({"path": dialogue(1, "é" * 50)}, 144 + 8 + 40),
    ],
)
def test_an_estimate_includes_everything_that_is_sent(changes, tokens):
    given = {"new": (message_of(Role.USER, "new", "x" * 100),)} | changes
    prompt = turn(given.pop("path", ()), **given).of(OPEN)
    assert prompt.estimated_tokens == tokens
    assert (prompt.text_bytes == 0) == (tokens == 1744)


# --- budget


@pytest.mark.parametrize(
    ("policy", "model", "sampling", "budget"),
    [
        ({}, {}, {}, None),
        ({"max_tokens": 700}, {}, {}, 700),
        ({}, {"context_tokens": 1000}, {}, 750),
        ({}, {"context_tokens": 1000, "max_output_tokens": 100}, {}, 900),
        ({}, {"context_tokens": 1000, "max_output_tokens": 500}, {}, 750),
        ({}, {"context_tokens": 1000, "max_output_tokens": 500}, {"max_output_tokens": 450}, 550),
        ({}, {"context_tokens": 1000, "output_tokens": 400}, {}, 600),
        ({}, {"context_tokens": 1000}, {"max_output_tokens": 10**9}, 1),
        ({"max_tokens": 700}, {"context_tokens": 1000}, {}, 700),
        ({"max_tokens": 800}, {"context_tokens": 1000}, {}, 750),
    ],
)
def test_the_budget_is_the_lower_of_the_caller_s_limit_and_the_context_without_the_answer(
    policy, model, sampling, budget
):
    prompts = turn(policy=ContextPolicy(**policy), payload={"sampling": Sampling(**sampling)})
    assert prompts.budget(Model(alias="a", provider="p", name="n", **model)) == budget


def test_each_model_gets_the_messages_that_fit_its_context():
    prompts = turn(dialogue(20))
    assert ids(prompts, SMALL) == "15 16 17 18 19 20 new"
    assert ids(prompts, OPEN) == " ".join([*map(str, range(1, 21)), "new"])
    assert prompts.of(SMALL).estimated_tokens <= 750
    assert prompts.asked is prompts.of(SMALL)
    assert prompts.built(SMALL).left_out[0].reason == "over the token budget"


def test_a_history_is_estimated_with_the_ratio_of_its_conversation():
    last = {"small": Usage(prompt_tokens=1000, prompt_bytes=10_000)}
    assert turn(dialogue(20), last_usage=last).of(SMALL).estimated_tokens < 750
    assert len(turn(dialogue(20), last_usage=last).of(SMALL).messages) == 21


def test_a_newest_message_above_the_caller_s_limit_is_refused_and_one_above_the_context_is_sent():
    long = (message_of(Role.USER, "new", "x" * 2000),)
    turn(new=long).check(SMALL)
    with pytest.raises(ContextTooLarge) as refused:
        turn(new=long, policy=ContextPolicy(max_tokens=500)).check(SMALL)
    assert refused.value.metadata == {"limit": "500 tokens"}
    assert "904 tokens" in refused.value.message


def test_a_request_with_tools_does_not_fit_a_model_without_tools():
    tools = {"tools": (Tool(name="f"),)}
    without = msgspec.structs.replace(OPEN, tools=False)
    assert turn(payload=tools).takes(OPEN)
    assert not turn(payload=tools).takes(without)
    with pytest.raises(UnsupportedInput):
        turn(payload=tools).check(without)


# --- refused as too long


@pytest.mark.parametrize(("limit", "counted"), [(1000, 3000), (1000, None), (None, 3000), (None, None), (0, 0), (1, 1)])
def test_a_refused_prompt_is_shortened_once(limit, counted):
    prompts = turn(dialogue(20))
    before = prompts.of(OPEN)
    assert prompts.refused_as_too_long(OPEN, limit_tokens=limit, prompt_tokens=counted)
    shorter = prompts.of(OPEN)
    assert len(shorter.messages) < len(before.messages)
    assert shorter.messages[-1] == before.messages[-1]
    assert not prompts.refused_as_too_long(OPEN, limit_tokens=limit, prompt_tokens=counted)
    assert prompts.of(OPEN) == shorter


def test_the_shorter_prompt_fits_the_provider_s_own_count():
    prompts = turn(dialogue(20, "x" * 1000))
    tokens_per_byte = 0.9
    size = prompts.of(OPEN).text_bytes
    prompts.refused_as_too_long(OPEN, limit_tokens=8000, prompt_tokens=int(size * tokens_per_byte))
    assert 2000 < prompts.of(OPEN).text_bytes * tokens_per_byte <= 6000


def test_the_newest_message_alone_is_not_shortened_and_its_refusal_limits_the_next_turn():
    estimator = Estimator(RecordingObserver())
    alone = turn(new=(message_of(Role.USER, "new", "x" * 9000),), estimator=estimator)
    alone.of(OPEN)
    assert not alone.refused_as_too_long(OPEN, limit_tokens=2000, prompt_tokens=3000)
    assert turn(dialogue(60), estimator=estimator).of(OPEN).estimated_tokens <= 1500


# --- kept items


def loop(*calls: str) -> list[Message]:
    parts = [call(each) for each in calls]
    return [
        message_of(Role.USER, "q", "question"),
        message_of(Role.ASSISTANT, "a", "thinking", *parts),
        result("r", "1"),
    ]


def kept_of(prompts: TurnPrompts, **options) -> list[Kept | None]:
    return [message.kept for message in prompts.of(OPEN, **options).messages if message.role == "assistant"]


def test_wire_items_are_sent_only_in_an_unfinished_tool_turn_that_has_all_its_calls():
    assert kept_of(turn(loop("1"), new=(), kept={"a": KEPT})) == [KEPT]
    assert kept_of(turn(loop("1"), new=(), kept={"a": KEPT}), with_kept=False) == [None]
    assert kept_of(turn(loop("1", "2"), new=(), kept={"a": KEPT})) == [None]
    assert kept_of(turn(loop("1", "2"), new=(result("s", "2"),), kept={"a": KEPT})) == [KEPT]
    assert kept_of(turn(loop("1"), kept={"a": KEPT})) == [None]


# --- order, marks, reminders, summaries


def marks(prompts: TurnPrompts, model: Model = OPEN) -> str:
    rows = prompts.built(model).rows
    return " ".join(row.message_id or row.message.parts[0].text for row in rows if row.message.cache_mark)


@pytest.mark.parametrize(
    ("path", "new", "expected"),
    [
        ((), None, "s"),
        (dialogue(2), None, "s 2"),
        (loop("1"), (), "s r"),
        ([*dialogue(2), *loop("1")], (), "s 2 r"),
    ],
)
def test_cache_marks_are_at_the_ends_of_prefixes_that_later_requests_share(path, new, expected):
    conversation = {"system": ("s",), "post_system": "post"}
    prompts = turn(path, new=new, conversation=conversation, policy=ContextPolicy(reminder="r", reminder_interval=2))
    assert marks(prompts) == expected


def test_a_prefix_too_small_to_be_cached_has_no_mark():
    def marked(cache_min: int) -> str:
        prompts = turn(dialogue(4), conversation={"system": ("s" * 100,)})
        return marks(prompts, msgspec.structs.replace(OPEN, cache_min=cache_min))

    assert [marked(tokens) for tokens in (48, 49, 400, 500)] == ["s" * 100 + " 4", "4", "4", ""]


def test_a_reminder_precedes_the_first_user_message_after_each_interval():
    policy = ContextPolicy(reminder="R", reminder_interval=3)
    assert ids(turn(dialogue(8), policy=policy), OPEN) == "1 2 3 4 R 5 6 R 7 8 new"
    assert ids(turn(dialogue(8)[4:], positions=(5, 6, 7, 8), policy=policy), OPEN) == "5 6 R 7 8 new"
    assert ids(turn(loop("1"), positions=(5, 6, 7), new=(), policy=policy), OPEN) == "q a r"
    for off in ({"reminder": "R"}, {"reminder_interval": 3}):
        assert "R" not in ids(turn(dialogue(8), policy=ContextPolicy(**off)), OPEN)


def test_a_summary_replaces_the_messages_that_it_covers():
    summary = Summary(tenant="shop", conversation_id="c", message_id="2", text="gist", model="open", create_time_us=1)
    prompts = turn(dialogue(6)[1:], positions=(2, 3, 4, 5, 6), summary=summary, conversation={"system": ("s",)})
    rows = prompts.built(OPEN).rows
    assert [row.message.role for row in rows[:2]] == ["system", "system"]
    assert rows[1].message.parts[0].text.endswith(":\ngist")
    assert [row.message_id for row in rows[2:]] == ["3", "4", "5", "6", "new"]


def test_prompts_of_successive_turns_share_their_prefix():
    """A prompt without its newest message is a prefix of the next one, byte for byte, unless the cut moves."""
    policy = ContextPolicy(max_tokens=4000, reminder="R", reminder_interval=5)
    shown, moved = [], 0
    for turns in range(20, 60):
        prompts = turn(dialogue(2 * turns), policy=policy, conversation={"system": ("s",), "post_system": "post"})
        shown.append([message for message in prompts.of(OPEN).messages if message.parts[0].text != "post"])
    for before, after in itertools.pairwise(shown):
        same = msgspec.json.encode([_plain(each) for each in before[:-1]])
        moved += not msgspec.json.encode([_plain(each) for each in after]).startswith(same[:-1])
    assert 0 < moved <= 10


def _plain(message):
    return msgspec.structs.replace(message, cache_mark=False)


def test_a_prompt_of_ten_thousand_messages_and_a_million_tokens_needs_at_most_250_ms_of_cpu():
    """An idle machine needs about 30 ms; the bound holds on a busy machine, too."""
    path = dialogue(10_000, "The quick brown fox jumps over the lazy dog. " * 10)
    spent = []
    for _ in range(5):
        began = time.process_time()
        prompt = turn(path).of(OPEN)
        spent.append(time.process_time() - began)
    assert (len(prompt.messages), prompt.estimated_tokens > 10**6) == (10_001, True)
    assert min(spent) < 0.25
