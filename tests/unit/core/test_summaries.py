"""Summaries of long conversations: when they are written and from which messages; no reply waits for one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from parley_server.core.context import summary as summaries
from parley_server.core.context.fold import INSTRUCTION
from parley_server.core.conversations.service import Creation
from parley_server.core.model import ContextPolicy, Conversation, Message, Overflow, Role, State, TextPart, Usage
from parley_server.core.store_types import Position
from parley_server.errors import Draining, ProviderUnavailable

from tests.clock import settle, until
from tests.fakes import ADA, FAST, STOP, CoreHarness, say_hello

POLICY = ContextPolicy(max_tokens=1000, overflow=Overflow.SUMMARIZE)


def is_summary(prompt) -> bool:
    return prompt.messages[0].parts[0].text == INSTRUCTION


def text_of(message) -> str:
    return message.parts[0].text


class Writer:
    """Answers replies at once, and summaries when a test allows it."""

    def __init__(self, text: str = "gist", error: Exception | None = None) -> None:
        self.text = text
        self.error = error
        self.allowed = asyncio.Event()
        self.prompts = []
        self.summaries = []

    async def act(self, prompt, sink):
        if not is_summary(prompt):
            self.prompts.append(prompt)
            return await say_hello(prompt, sink)
        self.summaries.append(prompt)
        await self.allowed.wait()
        if self.error is not None:
            raise self.error
        sink.reasoning("hm")
        sink.text(self.text)
        sink.usage(Usage(prompt_tokens=500, completion_tokens=9))
        sink.flush()
        return STOP


async def conversation(
    harness: CoreHarness, name: str = "c", *, turns: int = 10, policy: ContextPolicy = POLICY
) -> str:
    """A conversation of messages with 88 estimated tokens each."""
    roles = (Role.USER, Role.ASSISTANT)
    messages = [
        Message(role=role, parts=(TextPart(text=f"{at}{role} ".ljust(200, "x")),))
        for at in range(turns)
        for role in roles
    ]
    creation = Creation(conversation=Conversation(id=name, context=policy, system=("s",)), messages=tuple(messages))
    await harness.conversations.create(ADA, creation, "")


async def reply(harness: CoreHarness, writer: Writer, name: str = "c") -> list[str]:
    """Complete the next turn; returns the first words of the messages in its prompt."""
    generation = await harness.begin(writer.act, conversation_id=name)
    assert (await harness.stored_end(generation)).state is State.COMPLETED
    return [text_of(message).split(" ")[0] for message in writer.prompts[-1].messages]


async def ended(harness: CoreHarness, *outcomes: str) -> None:
    """Wait until the summaries have ended with these outcomes."""
    await until(lambda: len(harness.observer.summaries) >= len(outcomes))
    assert harness.observer.summaries == list(outcomes)


async def test_a_long_history_is_summarized_and_the_next_prompt_has_the_summary(harness):
    writer = Writer()
    await conversation(harness)
    assert await reply(harness, writer) == [
        "s",
        "6USER",
        "6ASSISTANT",
        "7USER",
        "7ASSISTANT",
        "8USER",
        "8ASSISTANT",
        "9USER",
        "9ASSISTANT",
        "hi",
    ]
    (summary_prompt,) = writer.summaries
    assert text_of(summary_prompt.messages[1]).startswith("User: 0USER ")
    assert "Assistant: 7ASSISTANT" in text_of(summary_prompt.messages[1])
    assert "8USER" not in text_of(summary_prompt.messages[1])
    assert (
        summary_prompt.sampling.max_output_tokens == 100
    )  # the limit of the model, which is lower than that of a summary
    writer.allowed.set()
    await ended(harness, "stored")
    shown = await reply(harness, writer)
    assert shown == ["s", "Summary", "8USER", "8ASSISTANT", "9USER", "9ASSISTANT", "hi", "Hello", "hi"]
    assert text_of(writer.prompts[-1].messages[1]).endswith("\ngist")
    assert len(writer.summaries) == 1  # the remaining history is too short for another summary


async def test_the_next_summary_includes_the_one_before(harness):
    writer = Writer()
    writer.allowed.set()
    await conversation(harness)
    await reply(harness, writer)
    await ended(harness, "stored")
    for _ in range(2):
        generation = await harness.begin(
            writer.act, conversation_id="c", messages=(Message(role=Role.USER, parts=(TextPart(text="y" * 600),)),)
        )
        await harness.stored_end(generation)
    await ended(harness, "stored", "stored")
    assert text_of(writer.summaries[1].messages[1]).startswith("Earlier summary: gist\n\nUser: 8USER")


async def test_a_summary_covers_only_what_the_context_of_its_model_holds(harness):
    writer = Writer()
    writer.allowed.set()
    harness.catalog.only = msgspec.structs.replace(FAST, context_tokens=2 * 1024 + 500)
    await conversation(harness)
    await reply(harness, writer)
    await ended(harness, "stored")
    text = text_of(writer.summaries[0].messages[1])
    assert "Assistant: 1ASSISTANT" in text
    assert "2USER" not in text
    assert writer.summaries[0].estimated_tokens < 1024 + 500
    source = await harness.store.read_turn(ADA, "c", Position(), has_input=True, new_turn=True)
    assert text_of(source.path[0]).startswith("1ASSISTANT")


async def test_a_message_too_long_for_a_summary_is_cut_to_its_beginning(harness):
    writer = Writer()
    writer.allowed.set()
    harness.catalog.only = msgspec.structs.replace(FAST, context_tokens=2 * 1024 + 500)
    creation = Creation(
        conversation=Conversation(id="c", context=POLICY),
        messages=tuple(Message(role=role, parts=(TextPart(text="x" * 5000),)) for role in (Role.USER, Role.ASSISTANT)),
    )
    await harness.conversations.create(ADA, creation, "")
    await harness.stored_end(await harness.begin(writer.act, conversation_id="c"))
    await ended(harness, "stored")
    assert 200 < writer.summaries[0].estimated_tokens < 1024 + 500


async def test_a_slow_summary_delays_neither_a_token_nor_the_end(harness):
    writer = Writer()
    await conversation(harness)
    for _ in range(2):
        await reply(harness, writer)
    assert harness.observer.first_tokens == [0.0, 0.0]
    assert len(writer.summaries) == 1  # a conversation has one running summary at most
    await harness.clock.advance(summaries.TIME_LIMIT_S)
    await ended(harness, "timeout")
    assert harness.provider.open_calls == 0


@pytest.mark.parametrize("policy", [ContextPolicy(max_tokens=1000), ContextPolicy(overflow=Overflow.SUMMARIZE)])
async def test_without_the_policy_or_a_budget_nothing_is_summarized(harness, policy):
    writer = Writer()
    await conversation(harness, policy=policy)
    await reply(harness, writer)
    assert writer.summaries == []


async def test_a_history_of_60_percent_of_the_budget_is_not_summarized(harness):
    writer = Writer()
    await conversation(harness, turns=3)
    await reply(harness, writer)
    assert writer.summaries == []


async def test_at_most_four_summaries_run_at_once(harness):
    writer = Writer()
    for number in range(6):
        await conversation(harness, f"c{number}")
        await reply(harness, writer, f"c{number}")
    assert (len(writer.summaries), harness.observer.summaries) == (4, ["skipped", "skipped"])


@pytest.mark.parametrize("when", ["overloaded", "draining"])
async def test_an_overloaded_or_draining_process_writes_no_summary(harness, when):
    writer = Writer()
    await conversation(harness)

    async def act(prompt, sink):
        if when == "overloaded":
            harness.observer.overloaded = True
        else:
            harness.core.acceptances.draining = Draining("the server is shutting down")
        return await writer.act(prompt, sink)

    await harness.stored_end(await harness.begin(act, conversation_id="c"))
    assert (writer.summaries, harness.observer.summaries) == ([], [])


@pytest.mark.parametrize(
    ("writer", "outcome"),
    [
        (lambda: Writer(error=ProviderUnavailable("no")), "failed"),
        (lambda: Writer(error=ZeroDivisionError()), "failed"),
        (lambda: Writer(text="  "), "failed"),
    ],
)
async def test_a_failed_summary_is_not_part_of_the_next_prompt(harness, writer, outcome):
    made = writer()
    made.allowed.set()
    await conversation(harness)
    before = await reply(harness, made)
    await ended(harness, outcome)
    after = await reply(harness, made)
    assert "Summary" not in after
    assert after[0] == before[0] == "s"


async def test_a_stop_cancels_a_running_summary(harness):
    writer = Writer()
    await conversation(harness)
    await reply(harness, writer)
    harness.core.summaries.stop()
    await settle()
    assert (harness.observer.summaries, harness.provider.open_calls) == (["cancelled"], 0)


async def test_a_summary_of_an_erased_conversation_is_not_stored(harness):
    writer = Writer()
    await conversation(harness)
    await reply(harness, writer)
    await harness.conversations.delete(ADA, "c", "")
    writer.allowed.set()
    await ended(harness, "erased")
