"""The answer that log entries add up to, and whether it is a message."""

from __future__ import annotations

import pytest
from parley_server.core.content import Answer, answer_of, complete
from parley_server.core.events import ReasoningDelta, Snapshot, TextDelta, ToolCallDelta, UsageUpdate
from parley_server.core.model import Message, ReasoningPart, Role, TextPart, ToolCallPart, Usage

from tests.fakes import ended, reply


def test_parts_are_ordered_by_their_first_entry():
    answer = answer_of(
        [
            ReasoningDelta("think "),
            UsageUpdate(Usage(prompt_tokens=1)),
            ReasoningDelta("hard", b"signed"),
            ReasoningDelta("again"),
            TextDelta("I "),
            TextDelta("say"),
            ToolCallDelta(1, "b", "second", '{"x"'),
            ToolCallDelta(0, "a", "first", ""),
            ToolCallDelta(1, arguments=":1}"),
            TextDelta("!"),
            UsageUpdate(Usage(prompt_tokens=2)),
        ]
    )
    assert answer == Answer(
        (
            ReasoningPart(text="think hard", signature=b"signed"),
            ReasoningPart(text="again"),
            TextPart(text="I say"),
            ToolCallPart(id="b", name="second", arguments='{"x":1}'),
            ToolCallPart(id="a", name="first"),
            TextPart(text="!"),
        ),
        Usage(prompt_tokens=2),
    )
    assert answer.text_length == 6
    assert answer.is_message


def test_a_snapshot_replaces_earlier_entries():
    message = Message(role=Role.ASSISTANT, parts=(TextPart(text="stored"),))
    stored = ended(reply(), last_sequence=5, message=message)
    given = [TextDelta("lost"), ToolCallDelta(0, "a", "f", ""), Snapshot(stored), TextDelta("new")]
    assert answer_of(given).parts == (TextPart(text="stored"), TextPart(text="new"))
    assert answer_of([TextDelta("lost"), Snapshot(reply())]) == Answer(())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (ToolCallPart(id="a", name="f", arguments='{"x": [1]}'), True),
        (ToolCallPart(id="a", name="f"), True),
        (ToolCallPart(id="a", name="f", arguments='{"x": [1'), False),
        (ToolCallPart(id="a", name="f", arguments="[" * 5000 + "]" * 5000), False),
        (ToolCallPart(id="", name="f", arguments="{}"), False),
        (ToolCallPart(id="a", name="", arguments="{}"), False),
    ],
)
def test_a_complete_tool_call_has_an_id_a_name_and_valid_json_arguments(call, expected):
    assert complete(call) is expected
    assert Answer((call,)).is_message is expected


def test_reasoning_and_empty_text_alone_make_no_message():
    assert not Answer(()).is_message
    assert not Answer((ReasoningPart(text="why"), TextPart(text=""))).is_message
    assert Answer((ReasoningPart(text="why"), TextPart(text="x"))).is_message
