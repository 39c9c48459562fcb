"""The id of an answer and the model that has answered, as each vendor's stream names them."""

import json

import pytest
from parley_server.providers.anthropic.reader import MessageReader
from parley_server.providers.gemini.reader import GeminiReader
from parley_server.providers.openai.reader import ChunkReader
from parley_server.providers.openai.responses_reader import ResponsesReader
from parley_server.providers.reading.response_name import MAX_NAME_BYTES

from tests.integration.providers.recording import RecordingSink


def ignore(*_):
    """A callback of a reader."""


def event(kind, **fields):
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def data(**fields):
    return f"data: {json.dumps(fields)}\n\n".encode()


def chat(response_id, model):
    name = {"id": response_id, "model": model}
    return ChunkReader("acme", RecordingSink(), on_finish=ignore, on_done=ignore), [
        data(id="", model="", choices=[], prompt_filter_results=[]),  # Azure begins with an event without a name
        data(**name, choices=[{"index": 0, "delta": {"content": "Hi"}}]),
        data(**name, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        data(id="other", model="other", choices=[], usage={"prompt_tokens": 1, "completion_tokens": 1}),
        b"data: [DONE]\n\n",
    ]


def chat_document(response_id, model):
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    body = json.dumps({"id": response_id, "model": model, "choices": [choice]}).encode()
    return ChunkReader("acme", RecordingSink(), on_finish=ignore, on_done=ignore, document=True), [body]


def responses(response_id, model):
    response = {"id": response_id, "model": model, "status": "completed"}
    return ResponsesReader("acme", RecordingSink(), on_done=ignore), [
        event("response.output_text.delta", delta="Hi"),
        event("response.completed", response=response),
    ]


def messages(response_id, model):
    return MessageReader("acme", RecordingSink(), on_finish=ignore, on_done=ignore), [
        event("message_start", message={"id": response_id, "model": model, "usage": {}}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
        event("message_delta", delta={"stop_reason": "end_turn"}),
        event("message_stop"),
    ]


def message_document(response_id, model):
    block = {"type": "text", "text": "Hi"}
    body = {"type": "message", "id": response_id, "model": model, "content": [block], "stop_reason": "end_turn"}
    reader = MessageReader("acme", RecordingSink(), on_finish=ignore, on_done=ignore, document=True)
    return reader, [json.dumps(body).encode()]


def gemini(response_id, model):
    content = {"parts": [{"text": "Hi"}], "role": "model"}
    name = {"responseId": response_id, "modelVersion": model}
    return GeminiReader("acme", RecordingSink(), on_finish=ignore, on_done=ignore), [
        data(candidates=[{"content": content}], **name),
        data(candidates=[{"content": content, "finishReason": "STOP"}], **name),
    ]


def gemini_refusal(response_id, model):
    return GeminiReader("acme", RecordingSink(), on_finish=ignore, on_done=ignore), [
        data(promptFeedback={"blockReason": "SAFETY"}, responseId=response_id, modelVersion=model)
    ]


VENDORS = [chat, chat_document, responses, messages, message_document, gemini, gemini_refusal]


def named(vendor, response_id, model):
    """How the finish of an answer with this name shows it."""
    reader, reads = vendor(response_id, model)
    for each in reads:
        reader.feed(each)
    finish = reader.end()
    return finish.response_id, finish.response_model


@pytest.mark.parametrize("vendor", VENDORS)
def test_an_answer_has_the_name_that_the_vendor_gives_it(vendor):
    assert named(vendor, "answer-1", "model-2026-11-01") == ("answer-1", "model-2026-11-01")


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("value", [None, 7, {"a": 1}, ["x"], ""])
def test_a_name_of_another_form_is_no_name(vendor, value):
    assert named(vendor, value, value) == ("", "")


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_long_name_is_cut(vendor):
    shown = named(vendor, "é" * MAX_NAME_BYTES, "m" * 10_000)
    assert shown == ("é" * (MAX_NAME_BYTES // 2), "m" * MAX_NAME_BYTES)


def test_lone_surrogates_are_replaced_or_make_it_no_name():
    assert named(messages, "a\ud800", "m") == ("a\ufffd", "m")
    assert named(chat, "a\ud800", "m") == named(gemini, "a\ud800", "m") == ("", "")
