"""Messages in the form of the GenAI conventions, for traces that contain them."""

from __future__ import annotations

import json

from parley_server.core.model import (
    Finish,
    FinishReason,
    ImagePart,
    PromptMessage,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.telemetry.genai import MAX_CONTENT_CHARACTERS, input_messages, output_messages

PNG = b"\x89PNG\r\n\x1a\nIMAGE"


def test_every_kind_of_part_has_a_form_and_images_are_left_out() -> None:
    messages = [
        PromptMessage(role="system", parts=(TextPart(text="Be kind."),)),
        PromptMessage(
            role="user",
            parts=(TextPart(text="Look"), ImagePart(mime_type="image/png", data=PNG, size_bytes=len(PNG))),
        ),
        PromptMessage(role="assistant", parts=(ToolCallPart(id="c1", name="weather", arguments='{"city":"Oslo"}'),)),
        PromptMessage(role="tool", parts=(ToolResultPart(tool_call_id="c1", content="rain"),)),
    ]
    assert json.loads(input_messages(messages)) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be kind."}]},
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "Look"},
                {"type": "image", "mime_type": "image/png", "bytes": len(PNG)},
            ],
        },
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Oslo"}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rain"}]},
    ]
    answer = (ReasoningPart(text="hm"), TextPart(text="42"), ToolCallPart(id="c2", name="f", arguments='{"a'))
    parts = [
        {"type": "reasoning", "content": "hm"},
        {"type": "text", "content": "42"},
        {"type": "tool_call", "id": "c2", "name": "f", "arguments": '{"a'},
    ]
    for finish, word in (
        (Finish(reason=FinishReason.STOP, provider_reason="end_turn"), "end_turn"),
        (Finish(reason=FinishReason.MAX_TOKENS), "max_tokens"),
        (None, "error"),
    ):
        expected = [{"role": "assistant", "parts": parts, "finish_reason": word}]
        assert json.loads(output_messages(answer, finish)) == expected


def test_the_newest_text_is_kept_up_to_the_limit() -> None:
    messages = [
        PromptMessage(role="user", parts=(TextPart(text=letter * (MAX_CONTENT_CHARACTERS // 2)),)) for letter in "abcd"
    ]
    shown = [message["parts"][0]["content"][:1] for message in json.loads(input_messages(messages))]
    assert shown == ["c", "d"]
    (message,) = json.loads(output_messages([TextPart(text="x" * 100_000), TextPart(text="y")], None))
    assert [len(part["content"]) for part in message["parts"]] == [MAX_CONTENT_CHARACTERS, 0]
