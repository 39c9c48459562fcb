"""Summaries of long conversations: when they are written, what they are made of, and that no reply waits for one."""

from __future__ import annotations

import asyncio

import pytest
from parley_server.core.context import summary as summaries
from parley_server.core.context.fold import INSTRUCTION
from parley_server.core.conversations.service import Creation
from parley_server.core.model import ContextPolicy, Conversation, Message, Overflow, Role, State, TextPart, Usage
from parley_server.errors import Draining, ProviderUnavailable

from tests.clock import settle, until
from tests.fakes import ALICE, STOP, World, say_hello

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


async def conversation(world: World, name: str = "c", *, turns: int = 10, policy: ContextPolicy = POLICY) -> str:
    """A conversation of messages with 88 estimated tokens each."""
    roles = (Role.USER, Role.ASSISTANT)
    messages = [
        Message(role=role, parts=(TextPart(text=f"{at}{role} ".ljust(200, "x")),))
        for at in range(turns)
        for role in roles
    ]
    creation = Creation(conversation=Conversation(id=name, context=policy, system=("s",)), messages=tuple(messages))
    await world.conversations.create(ALICE, creation, "")
    return name


async def reply(world: World, writer: Writer, name: str = "c") -> list[str]:
    """The texts that the model is shown in the next turn."""
    generation = await world.begin(writer.act, conversation_id=name)
    assert (await world.settled(generation)).state is State.COMPLETED
    return [text_of(message).split(" ")[0] for message in writer.prompts[-1].messages]


async def ended(world: World, *outcomes: str) -> None:
    """Wait until the summaries have ended in this way."""
    await until(lambda: len(world.notes.summaries) >= len(outcomes))
    assert world.notes.summaries == list(outcomes)


async def test_a_long_history_is_summarized_and_the_next_turn_shows_that(world):
    writer = Writer()
    await conversation(world)
    assert await reply(world, writer) == [
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
    (asked,) = writer.summaries
    assert text_of(asked.messages[1]).startswith("User: 0USER ")
    assert "Assistant: 7ASSISTANT" in text_of(asked.messages[1])
    assert "8USER" not in text_of(asked.messages[1])
    assert asked.sampling.max_output_tokens == 100  # the model's own limit is lower than that of a summary
    writer.allowed.set()
    await ended(world, "stored")
    shown = await reply(world, writer)
    assert shown == ["s", "Summary", "8USER", "8ASSISTANT", "9USER", "9ASSISTANT", "hi", "Hello", "hi"]
    assert text_of(writer.prompts[-1].messages[1]).endswith("\ngist")
    assert len(writer.summaries) == 1  # what is left is short


async def test_the_next_summary_includes_the_one_before(world):
    writer = Writer()
    writer.allowed.set()
    await conversation(world)
    await reply(world, writer)
    await ended(world, "stored")
    for _ in range(2):
        generation = await world.begin(
            writer.act, conversation_id="c", messages=(Message(role=Role.USER, parts=(TextPart(text="y" * 600),)),)
        )
        await world.settled(generation)
    await ended(world, "stored", "stored")
    assert text_of(writer.summaries[1].messages[1]).startswith("Earlier summary: gist\n\nUser: 8USER")


async def test_a_slow_summary_delays_neither_a_token_nor_the_end(world):
    writer = Writer()
    await conversation(world)
    for _ in range(2):
        await reply(world, writer)
    assert world.notes.first_tokens == [0.0, 0.0]
    assert len(writer.summaries) == 1  # one at a time for a conversation
    await world.clock.advance(summaries.TIME_LIMIT_S)
    await ended(world, "timeout")
    assert world.actor.open_calls == 0


@pytest.mark.parametrize("policy", [ContextPolicy(max_tokens=1000), ContextPolicy(overflow=Overflow.SUMMARIZE)])
async def test_without_the_policy_or_a_budget_nothing_is_summarized(world, policy):
    writer = Writer()
    await conversation(world, policy=policy)
    await reply(world, writer)
    assert writer.summaries == []


async def test_a_history_of_60_percent_of_the_budget_is_not_summarized(world):
    writer = Writer()
    await conversation(world, turns=3)
    await reply(world, writer)
    assert writer.summaries == []


async def test_at_most_four_are_written_at_once(world):
    writer = Writer()
    for number in range(6):
        await conversation(world, f"c{number}")
        await reply(world, writer, f"c{number}")
    assert (len(writer.summaries), world.notes.summaries) == (4, ["skipped", "skipped"])


@pytest.mark.parametrize("when", ["overloaded", "draining"])
async def test_a_busy_process_writes_none(world, when):
    writer = Writer()
    await conversation(world)

    async def act(prompt, sink):
        if when == "overloaded":
            world.notes.overloaded = True
        else:
            world.core.acceptances.draining = Draining("the server is shutting down")
        return await writer.act(prompt, sink)

    await world.settled(await world.begin(act, conversation_id="c"))
    assert (writer.summaries, world.notes.summaries) == ([], [])


@pytest.mark.parametrize(
    ("writer", "outcome"),
    [
        (lambda: Writer(error=ProviderUnavailable("no")), "failed"),
        (lambda: Writer(error=ZeroDivisionError()), "failed"),
        (lambda: Writer(text="  "), "failed"),
    ],
)
async def test_a_failed_summary_leaves_the_conversation_as_it_was(world, writer, outcome):
    made = writer()
    made.allowed.set()
    await conversation(world)
    before = await reply(world, made)
    await ended(world, outcome)
    after = await reply(world, made)
    assert "Summary" not in after
    assert after[0] == before[0] == "s"


async def test_a_stop_gives_up_what_is_written(world):
    writer = Writer()
    await conversation(world)
    await reply(world, writer)
    world.core.summaries.stop()
    await settle()
    assert (world.notes.summaries, world.actor.open_calls) == (["cancelled"], 0)


async def test_a_summary_of_an_erased_conversation_is_not_stored(world):
    writer = Writer()
    await conversation(world)
    await reply(world, writer)
    await world.conversations.delete(ALICE, "c", "")
    writer.allowed.set()
    await ended(world, "erased")
