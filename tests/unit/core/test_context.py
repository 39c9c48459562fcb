"""From a branch and new messages to a prompt."""

from __future__ import annotations

import pytest
from parley_server.core.context import build_messages, prompt_bytes, prompt_characters
from parley_server.core.model import (
    ImagePart,
    Message,
    PromptMessage,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.records import StoredImage

IMAGE = StoredImage(id="image-1", mime_type="image/png", data=b"bytes")


def said(role: Role, *given, **flags) -> Message:
    return Message(
        role=role, parts=tuple(TextPart(text=each) if isinstance(each, str) else each for each in given), **flags
    )


def user(*given) -> Message:
    return said(Role.USER, *given)


def assistant(*given, **flags) -> Message:
    return said(Role.ASSISTANT, *given, **flags)


def result(call_id: str) -> Message:
    return said(Role.TOOL, ToolResultPart(tool_call_id=call_id, content="42"))


def call(call_id: str, arguments: str = "{}") -> ToolCallPart:
    return ToolCallPart(id=call_id, name="f", arguments=arguments)


def build(path=(), new=(), *, system=(), post_system="", max_messages=0, images=()):
    return build_messages(
        path, tuple(new), system=system, post_system=post_system, max_messages=max_messages, images=images
    )


def shown(prompt) -> list[tuple[str, str]]:
    return [(message.role, "+".join(_word(part) for part in message.parts)) for message in prompt]


def _word(part) -> str:
    if isinstance(part, TextPart | ReasoningPart):
        return part.text
    return part.id if isinstance(part, ToolCallPart) else f"={part.tool_call_id}"


def test_the_order_is_system_history_post_system_new():
    prompt = build(
        [user("one"), assistant("two")],
        [user("three")],
        system=("be kind", "", "be brief"),
        post_system="answer now",
    )
    assert shown(prompt) == [
        ("system", "be kind\n---\nbe brief"),
        ("user", "one"),
        ("assistant", "two"),
        ("system", "answer now"),
        ("user", "three"),
    ]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([user("a"), user("b")], ["a", "!", "b"]),
        ([user("a"), assistant("b")], ["!", "a", "b"]),
        ([assistant("b")], ["b", "!"]),
    ],
)
def test_post_system_stands_right_before_the_newest_user_message(new, expected):
    assert [text for _, text in shown(build([], new, post_system="!"))] == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [(0, "abcdef"), (6, "abcdef"), (5, "bcdef"), (3, "def"), (2, "ef"), (1, "ef")]
)
def test_the_newest_messages_are_kept_and_new_ones_never_left_out(limit, expected):
    path = [user("a"), assistant("b"), user("c"), assistant("d")]
    prompt = build(path, [user("e"), user("f")], max_messages=limit)
    assert "".join(text for _, text in shown(prompt)) == expected


def test_a_failed_partial_is_left_out_and_a_cancelled_one_kept():
    path = [user("a"), assistant("failed", partial=True, failed=True), user("b"), assistant("cut", partial=True)]
    assert [text for _, text in shown(build(path, [user("c")]))] == ["a", "b", "cut", "c"]
    assert [text for _, text in shown(build(path, [user("c")], max_messages=4))] == ["a", "b", "cut", "c"]


def test_tool_calls_and_results_that_have_lost_each_other_are_left_out():
    path = [
        user("q"),
        assistant("thinking", call("answered"), call("unanswered")),
        result("answered"),
        result("stranger"),
        assistant(ReasoningPart(text="why"), call("never")),
        assistant("cut", call("half", '{"x')),
        result("half"),
    ]
    assert shown(build(path, [user("next")])) == [
        ("user", "q"),
        ("assistant", "thinking+answered"),
        ("tool", "=answered"),
        ("assistant", "cut"),
        ("user", "next"),
    ]


def test_a_result_before_its_call_does_not_count():
    assert shown(build([user("q"), result("a"), assistant(call("a"))], [user("n")])) == [("user", "q"), ("user", "n")]


def test_new_results_answer_calls_of_the_history():
    prompt = build([user("q"), assistant(call("a"), call("b"))], [result("a"), result("b")])
    assert shown(prompt) == [("user", "q"), ("assistant", "a+b"), ("tool", "=a"), ("tool", "=b")]


def test_a_cut_that_orphans_a_result_drops_it():
    path = [user("q"), assistant(call("a")), result("a"), assistant("so")]
    assert shown(build(path, [user("n")], max_messages=3)) == [("assistant", "so"), ("user", "n")]
    assert shown(build(path, [user("n")], max_messages=4)) == [
        ("assistant", "a"),
        ("tool", "=a"),
        ("assistant", "so"),
        ("user", "n"),
    ]


def test_images_are_shown_by_their_bytes():
    stored = ImagePart(image_id="image-1", mime_type="image/png", size_bytes=5)
    url = ImagePart(url="https://example.com/a.png")
    new = ImagePart(mime_type="image/gif", data=b"GIF")
    prompt = build([user("look", stored)], [user(url, new)], images=(IMAGE,))
    assert prompt == (
        PromptMessage(
            role="user",
            parts=(TextPart(text="look"), ImagePart(mime_type="image/png", data=b"bytes", size_bytes=5)),
        ),
        PromptMessage(role="user", parts=(url, new)),
    )
    assert prompt_bytes(prompt) == 4 + 5 + len(url.url) + 3
    assert prompt_characters(prompt) == 4


def test_an_image_that_is_gone_is_left_out_with_the_message_that_held_nothing_else():
    gone = ImagePart(image_id="gone")
    for images in ((), (IMAGE,)):
        assert shown(build([user(gone), user("see", gone)], [user("n")], images=images)) == [
            ("user", "see"),
            ("user", "n"),
        ]


def test_sizes_count_every_kind_of_part():
    prompt = build([user("ab"), assistant(call("a")), result("a")], [user("c")])
    assert prompt_bytes(prompt) == prompt_characters(prompt) == 2 + 3 + 2 + 1
