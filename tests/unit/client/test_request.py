"""Arguments of the client become the fields of the request."""

import pytest
from parley._request import build_request, duration
from parley.v1 import chat_pb2, resources_pb2

PNG = b"\x89PNG\r\n\x1a\n...."


def test_every_argument_sets_its_field():
    made = build_request(
        "Hello",
        {
            "request_id": "r1",
            "conversation_id": "c1",
            "replace_message_id": "m1",
            "model": "fast",
            "fallback_models": ["cheap"],
            "system": ["be brief"],
            "sampling": chat_pb2.Sampling(temperature=0.0),
            "tools": [chat_pb2.Tool(name="f")],
            "tool_choice": "auto",
            "json_schema": "{}",
            "concurrency": "interrupt",
            "on_disconnect": "cancel",
            "orphan_ttl_s": 0.5,
            "time_limit_s": 30,
            "heartbeat_s": 2,
            "reasoning": True,
            "labels": {"a": "b"},
        },
    )
    assert made == chat_pb2.ReplyRequest(
        request_id="r1",
        conversation_id="c1",
        text="Hello",
        replace_message_id="m1",
        model="fast",
        fallback_models=["cheap"],
        system=["be brief"],
        sampling=chat_pb2.Sampling(temperature=0.0),
        tools=[chat_pb2.Tool(name="f")],
        tool_choice="auto",
        json_schema="{}",
        concurrency=chat_pb2.CONCURRENCY_POLICY_INTERRUPT,
        on_disconnect=chat_pb2.DISCONNECT_POLICY_CANCEL,
        orphan_ttl=duration(0.5),
        time_limit=duration(30),
        stream_options=chat_pb2.StreamOptions(heartbeat=duration(2), reasoning=True),
        labels={"a": "b"},
    )


def test_text_and_images_are_sent_as_one_message():
    made = build_request("What is it?", {"request_id": "r", "images": [PNG, "https://x.test/a.png"]})
    parts = [
        resources_pb2.Part(text="What is it?"),
        resources_pb2.Part(image=resources_pb2.Image(data=PNG, mime_type="image/png")),
        resources_pb2.Part(image=resources_pb2.Image(url="https://x.test/a.png")),
    ]
    message = resources_pb2.Message(role=resources_pb2.ROLE_USER, parts=parts)
    assert made == chat_pb2.ReplyRequest(request_id="r", input=[message])


def test_a_given_request_is_copied_with_its_request_id():
    given = chat_pb2.ReplyRequest(request_id="mine", text="a")
    made = build_request(given, {"model": "fast"})
    assert (made.request_id, made.text, made.model, given.model) == ("mine", "a", "fast", "")


def test_each_request_without_an_id_gets_its_own():
    keys = {build_request("a", {}).request_id for _ in range(3)}
    assert len(keys) == 3
    assert "" not in keys


@pytest.mark.parametrize(
    "fields",
    [
        {"images": [b"not an image"]},
        {"images": PNG},
        {"system": "one string"},
        {"after_message_id": "a", "replace_message_id": "b"},
    ],
)
def test_contradictory_arguments_raise_value_error(fields):
    with pytest.raises(ValueError, match=r"images|system|exclude"):
        build_request("a", fields)
