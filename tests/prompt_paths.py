"""Random paths of a conversation, and the prompts that are built from them: for the tests of each dialect."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from parley_server.core.context.branch import Sizing, sized_branch
from parley_server.core.context.build import build_messages
from parley_server.core.context.cut import within_budget
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    Message,
    Model,
    Prompt,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.store_types import PromptSource

CALL_IDS = st.sampled_from(["a", "b", "call_1", "A1b2C3d4E", "x" * 50])
TEXTS = st.sampled_from(["", "one", "two"])
TWO_OR_NONE = st.sampled_from([0, 2])
ARGUMENTS = st.sampled_from(["{}", "", "{}", '{"cut'])


# Module constants, because Hypothesis inspects the class whenever a strategy is built.
CALLS = st.builds(ToolCallPart, id=CALL_IDS, name=st.just("f"), arguments=ARGUMENTS)
RESULTS = st.builds(ToolResultPart, tool_call_id=CALL_IDS, content=TEXTS)
TEXT_PARTS = st.builds(TextPart, text=TEXTS)


def of_role(role: Role, part: st.SearchStrategy) -> st.SearchStrategy[Message]:
    parts = st.lists(part, min_size=1, max_size=3).map(tuple)
    failed = st.booleans() if role is Role.ASSISTANT else st.just(False)
    return st.builds(Message, role=st.just(role), parts=parts, failed=failed)


MESSAGES = st.one_of(
    of_role(Role.USER, TEXT_PARTS), of_role(Role.ASSISTANT, st.one_of(TEXT_PARTS, CALLS)), of_role(Role.TOOL, RESULTS)
)


@st.composite
def tool_turns(draw) -> list[Message]:
    """Calls and their results. Results may be missing, repeated, reordered, separated, or in one message."""
    asked = draw(st.lists(CALLS, min_size=1, max_size=3))
    ids = draw(st.permutations([call.id for call in asked]))
    given = [ToolResultPart(tool_call_id=each, content="42") for each in ids if draw(st.integers(0, 4))]
    answers = [Message(role=Role.TOOL, parts=(part,)) for part in given]
    if given and draw(st.booleans()):
        answers = [Message(role=Role.TOOL, parts=tuple(given))]
    if draw(st.integers(0, 4)) == 0:
        answers.insert(draw(st.integers(0, len(answers))), draw(MESSAGES))
    return [Message(role=Role.ASSISTANT, parts=tuple(asked)), *answers]


BLOCKS = st.lists(st.one_of(MESSAGES.map(lambda message: [message]), tool_turns()), max_size=6)


@st.composite
def conversations(draw):
    """A path and new messages, with ids; some of them were refused as too large."""
    blocks = draw(BLOCKS)
    drawn = [message for block in blocks for message in block]
    path = [named(message, f"m{i}") for i, message in enumerate(drawn)]
    chosen = draw(st.sets(st.integers(0, 11), max_size=4))
    refused = {f"m{i}": f"m{i}" for i in chosen}
    payload = Message(role=Role.USER, parts=(TextPart(text="question"),), id="new")
    new = draw(st.sampled_from([(payload,), (), (Message(role=Role.TOOL, parts=(draw(RESULTS),), id="new"),)]))
    return path, new, refused


def named(message: Message, message_id: str) -> Message:
    return msgspec.structs.replace(message, id=message_id)


POLICIES = st.builds(
    ContextPolicy, max_messages=st.integers(0, 6), reminder=st.just("r"), reminder_interval=TWO_OR_NONE
)
SIZINGS = st.builds(Sizing, budget=st.one_of(st.none(), st.integers(100, 300)))


@st.composite
def prompts(draw):
    """A prompt of any path, policy and budget, with the new messages."""
    path, new, refused = draw(conversations())
    conversation = Conversation(post_system=draw(st.sampled_from(["", "post"])), context=draw(POLICIES))
    source = PromptSource(conversation=conversation, path=tuple(path), refused=refused)
    sizing = draw(SIZINGS)
    built = build_messages(source, new, system=("s",), sizing=sizing)
    assert sizing.budget is None or built.tokens <= max(sizing.budget, least(source, new, sizing))
    return Prompt(model=Model(alias="a", provider="p", name="n"), messages=built.messages), new


def least(source, new, sizing):
    """The tokens of the newest turn without all but its last calls."""
    items, _ = sized_branch(source, new, sizing)
    kept, _ = within_budget(items, 0)
    alone = build_messages(msgspec.structs.replace(source, path=(), refused={}), (), system=("s",), sizing=sizing)
    return alone.tokens + sum(item.tokens for item in kept) + 1
