"""Builds a prompt from the path of a conversation and new messages."""

from __future__ import annotations

import msgspec
import pytest
from parley_server.core.context.build import build_messages
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    ImagePart,
    Message,
    PromptMessage,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.store_types import PromptSource, StoredImage

IMAGE = StoredImage(id="image-1", mime_type="image/png", data=b"bytes")


def message_of(role: Role, *given, **flags) -> Message:
    return Message(
        role=role, parts=tuple(TextPart(text=each) if isinstance(each, str) else each for each in given), **flags
    )


def user(*given) -> Message:
    return message_of(Role.USER, *given)


def assistant(*given, **flags) -> Message:
    return message_of(Role.ASSISTANT, *given, **flags)


def result(call_id: str) -> Message:
    return message_of(Role.TOOL, ToolResultPart(tool_call_id=call_id, content="42"))


def call(call_id: str, arguments: str = "{}") -> ToolCallPart:
    return ToolCallPart(id=call_id, name="f", arguments=arguments)


def build(path=(), new=(), *, system=(), post_system="", max_messages=0, images=(), refused=None):
    return built(
        path,
        new,
        system=system,
        images=images,
        refused=refused or {},
        conversation=Conversation(post_system=post_system, context=ContextPolicy(max_messages=max_messages)),
    ).messages


def built(path=(), new=(), *, system=(), **source):
    identified = [msgspec.structs.replace(each, id=each.id or f"m{at}") for at, each in enumerate([*path, *new])]
    branch = PromptSource(path=tuple(identified[: len(path)]), **({"conversation": Conversation()} | source))
    return build_messages(branch, identified[len(path) :], system=system)


def summary(prompt) -> list[tuple[str, str]]:
    return [(message.role, "+".join(_label(part) for part in message.parts)) for message in prompt]


def _label(part) -> str:
    if isinstance(part, TextPart | ReasoningPart):
        return part.text
    return part.id if isinstance(part, ToolCallPart) else f"={part.tool_call_id}"


def test_messages_are_ordered_system_history_post_system_new():
    prompt = build(
        [user("one"), assistant("two")], [user("three")], system=("be polite", "", "be brief"), post_system="answer now"
    )
    assert summary(prompt) == [
        ("system", "be polite\n---\nbe brief"),
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
def test_post_system_precedes_the_newest_user_message(new, expected):
    assert [text for _, text in summary(build([], new, post_system="!"))] == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [(0, "abcdef"), (6, "abcdef"), (5, "bcdef"), (3, "def"), (2, "ef"), (1, "ef")]
)
def test_max_messages_keeps_the_newest_and_all_new_messages(limit, expected):
    path = [user("a"), assistant("b"), user("c"), assistant("d")]
    prompt = build(path, [user("e"), user("f")], max_messages=limit)
    assert "".join(text for _, text in summary(prompt)) == expected


def test_failed_partial_messages_are_omitted_and_cancelled_ones_kept():
    path = [user("a"), assistant("failed", partial=True, failed=True), user("b"), assistant("cut", partial=True)]
    assert [text for _, text in summary(build(path, [user("c")]))] == ["a", "b", "cut", "c"]
    assert [text for _, text in summary(build(path, [user("c")], max_messages=4))] == ["a", "b", "cut", "c"]


def test_calls_without_a_result_and_messages_emptied_by_that_are_omitted():
    path = [
        user("q"),
        assistant("thinking", call("answered"), call("unanswered")),
        result("answered"),
        assistant(ReasoningPart(text="why"), call("never")),
        assistant("cut", call("half", '{"x')),
    ]
    assert summary(build(path, [user("next")])) == [
        ("user", "q"),
        ("assistant", "thinking+answered"),
        ("tool", "=answered"),
        ("assistant", "cut"),
        ("user", "next"),
    ]


def test_a_result_that_does_not_follow_its_call_becomes_user_text():
    path = [user("q"), assistant(call("a"), call("b")), result("a"), assistant("so")]
    assert summary(build(path, [result("b")])) == [
        ("user", "q"),
        ("assistant", "a"),
        ("tool", "=a"),
        ("assistant", "so"),
        ("user", "[result of f] 42"),
    ]


def test_a_later_result_does_not_change_the_earlier_prompt():
    path = [user("q"), assistant(call("a"), call("b")), result("a"), assistant("so")]
    before = summary(build(path, [user("next")]))
    assert summary(build(path, [result("b")]))[:4] == before[:4]


def test_a_result_without_a_call_becomes_user_text_with_its_id():
    path = [user("q"), assistant("cut", call("half", '{"x')), result("half"), assistant("so"), result("unknown")]
    assert summary(build(path, [user("n")])) == [
        ("user", "q"),
        ("assistant", "cut"),
        ("user", "[result of half] 42"),
        ("assistant", "so"),
        ("user", "[result of unknown] 42"),
        ("user", "n"),
    ]


def test_a_result_before_its_call_becomes_user_text():
    assert summary(build([user("q"), result("a"), assistant(call("a"))], [user("n")])) == [
        ("user", "q"),
        ("user", "[result of a] 42"),
        ("user", "n"),
    ]


def test_a_reused_call_id_belongs_to_its_own_turn():
    path = [user("q"), assistant(call("a")), result("a"), assistant(call("a")), user("next")]
    assert summary(build(path, [user("n")])) == [
        ("user", "q"),
        ("assistant", "a"),
        ("tool", "=a"),
        ("user", "next"),
        ("user", "n"),
    ]


def test_results_of_two_requests_answer_their_calls():
    path = [user("q"), assistant(call("a"), call("b")), result("a"), assistant("cut", partial=True, failed=True)]
    assert summary(build(path, [result("b")])) == [("user", "q"), ("assistant", "a+b"), ("tool", "=a"), ("tool", "=b")]


def test_a_repeated_result_replaces_the_earlier_one():
    again = message_of(Role.TOOL, ToolResultPart(tool_call_id="a", content="43"))
    prompt = build([user("q"), assistant(call("a"), call("b")), result("a")], [again, result("b")])
    assert summary(prompt) == [("user", "q"), ("assistant", "a+b"), ("tool", "=a"), ("tool", "=b")]
    assert prompt[2].parts[0].content == "43"


def test_two_calls_with_one_id_need_two_results():
    path = [user("q"), assistant(call("a"), call("a")), result("a"), result("a")]
    assert summary(build(path, [user("n")]))[1:4] == [("assistant", "a+a"), ("tool", "=a"), ("tool", "=a")]
    assert summary(build(path[:3], [user("n")]))[1:3] == [("assistant", "a"), ("tool", "=a")]


def test_a_new_result_whose_call_is_cut_off_becomes_user_text():
    path = [user("q"), assistant(call("a"))]
    assert summary(build(path, [result("a")], max_messages=1)) == [("user", "[result of a] 42")]


def test_new_results_answer_calls_of_the_history():
    prompt = build([user("q"), assistant(call("a"), call("b"))], [result("a"), result("b")])
    assert summary(prompt) == [("user", "q"), ("assistant", "a+b"), ("tool", "=a"), ("tool", "=b")]


def test_a_result_is_omitted_if_max_messages_cuts_off_its_call():
    path = [user("q"), assistant(call("a")), result("a"), assistant("so")]
    assert summary(build(path, [user("n")], max_messages=3)) == [("assistant", "so"), ("user", "n")]
    assert summary(build(path, [user("n")], max_messages=4)) == [
        ("assistant", "a"),
        ("tool", "=a"),
        ("assistant", "so"),
        ("user", "n"),
    ]


def test_stored_images_are_loaded_and_other_images_unchanged():
    stored = ImagePart(image_id="image-1", mime_type="image/png", size_bytes=5)
    url = ImagePart(url="https://example.com/a.png")
    new = ImagePart(mime_type="image/gif", data=b"GIF")
    prompt = built([user("look", stored)], [user(url, new)], images=(IMAGE,))
    assert (prompt.text_bytes, prompt.images, prompt.image_bytes) == (4, 3, 5 + len(url.url) + 3)
    assert [msgspec.structs.replace(each, cache_mark=False) for each in prompt.messages] == [
        PromptMessage(
            role="user", parts=(TextPart(text="look"), ImagePart(mime_type="image/png", data=b"bytes", size_bytes=5))
        ),
        PromptMessage(role="user", parts=(url, new)),
    ]


def test_missing_images_are_omitted_with_messages_emptied_by_that():
    missing = ImagePart(image_id="missing")
    for images in ((), (IMAGE,)):
        assert summary(build([user(missing), user("see", missing)], [user("n")], images=images)) == [
            ("user", "see"),
            ("user", "n"),
        ]


def test_text_bytes_count_every_kind_of_part():
    path = [user("ab"), assistant(ReasoningPart(text="why"), call("a")), result("a")]
    assert built(path, [user("ç")], system=("s",)).text_bytes == 2 + 3 + 2 + 2 + 1


def refusing(*inputs: str) -> dict[str, str]:
    """The ids of one request whose input was refused as too large, each with the id of its last message."""
    return dict.fromkeys(inputs, inputs[-1])


def messages_named(*words: str) -> list[Message]:
    """Messages with their words as ids, of the assistant for words in upper case and of the user otherwise."""
    return [message_of(Role.ASSISTANT if word.isupper() else Role.USER, word, id=word) for word in words]


@pytest.mark.parametrize(
    ("path", "new", "refused", "expected"),
    [
        ("aAb", "c", refusing("b"), "aAc"),
        ("aAbc", "d", refusing("b") | refusing("c"), "aAd"),
        ("aAbc", "d", refusing("b", "c"), "aAd"),
        ("aAbc", "", refusing("b", "c"), "aAbc"),
        ("aAb", "", refusing("b"), "aAb"),
        ("aAbBc", "d", refusing("b"), "aAbBcd"),
        ("abB", "c", refusing("a"), "bBc"),
        ("aAb", "C", refusing("b"), "aAbC"),
        ("aAb", "cd", {}, "aAbcd"),
    ],
)
def test_input_refused_as_too_large_is_omitted_once_other_input_follows(path, new, refused, expected):
    prompt = build(messages_named(*path), messages_named(*new), refused=refused)
    assert "".join(text for _, text in summary(prompt)) == expected


def test_a_tool_result_refused_as_too_large_is_omitted_with_its_call():
    huge = message_of(Role.TOOL, ToolResultPart(tool_call_id="a", content="x" * 9), id="huge")
    prompt = build([user("q"), assistant(call("a")), huge], [user("next")], refused=refusing("huge"))
    assert summary(prompt) == [("user", "q"), ("user", "next")]
