"""Refusals have a reason, a status code and details, and leave no rows in the database."""

import grpc
import pytest
from google.rpc import error_details_pb2
from parley.v1 import chat_pb2, conversations_pb2, resources_pb2
from parley_server.errors import InvalidRequest

from tests.integration.served import ask, duration, new_message, refused
from tests.upstream import Hang, Script, role, text

GIANT = "X" * 300_000
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 64
HANGING = Script([role(), text("on and"), Hang()])


image = resources_pb2.Image


def assert_small(error):
    """The error fits into the headers that gRPC clients and proxies accept."""
    assert error.reason
    assert len(error.raw) < 4096
    assert error.trailer_bytes < 8192 - 256  # the smallest default limit of clients, without what a proxy may add


# All refusals of the protobuf conversion, and examples of the core's (tests/unit/core/test_validation.py has them all).
INVALID = [
    (ask(""), "input"),
    (chat_pb2.ReplyRequest(text="Hi", input=[new_message("user", "Ho")]), "text"),
    (ask("", input=[resources_pb2.Message(parts=[resources_pb2.Part(text="x")])]), "input[0].role"),
    (ask("", input=[resources_pb2.Message(role=1, parts=[resources_pb2.Part()])]), "input[0].parts[0]"),
    (
        ask("", input=[new_message("assistant", tool_call=resources_pb2.ToolCall(id="1", name="f", arguments="{"))]),
        "input[0].parts[0].tool_call.arguments",
    ),
    (ask(request_id="a\x00b"), "request_id"),
    (ask(new_conversation=resources_pb2.Conversation(head_message_id="m")), "new_conversation.head_message_id"),
    (
        ask(new_conversation=resources_pb2.Conversation(context=resources_pb2.ContextPolicy(max_tokens=-1))),
        "new_conversation.context.max_tokens",
    ),
    (ask(after_message_id="m"), "position"),
    (ask(concurrency=9), "concurrency"),
    (ask(on_disconnect=9), "on_disconnect"),
    (ask(sampling=chat_pb2.Sampling(temperature=2.5)), "sampling.temperature"),
    (ask(time_limit=0), "time_limit"),
    (ask(time_limit=601), "time_limit"),
    (ask(heartbeat=0.5), "stream_options.heartbeat"),
    (ask(heartbeat=61), "stream_options.heartbeat"),
]


@pytest.mark.parametrize(("request_", "field"), INVALID, ids=[field for _, field in INVALID])
async def test_an_invalid_request_names_its_field(server, request_, field):
    error = await refused(server.chat.StreamReply(request_))
    assert (error.code, error.reason, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", [field])
    assert (error.initial_metadata, error.plain.retryable, error.retry_after_s) == ((), False, None)


TOO_LARGE = [
    (ask(request_id="x" * 129), "request_id", "128 characters"),
    (ask(labels={str(i): "" for i in range(17)}), "labels", "16 labels"),
    (ask(labels={"a" * 65: ""}), "labels", "64 characters on each side of a label"),
    (ask(labels={"a": "b" * 65}), "labels", "64 characters on each side of a label"),
    (ask("é" * (1024 * 1024 + 1)), "input[0]", "2097152 bytes of text"),
    (
        ask("", input=[new_message("user", image=image(data=PNG + b"\x00" * 3 * 1024 * 1024))]),
        "input",
        "3145728 bytes of images",
    ),
    (ask(new_conversation=resources_pb2.Conversation(title="t" * 1025)), "new_conversation.title", "1024 characters"),
]


@pytest.mark.parametrize(("request_", "field", "limit"), TOO_LARGE, ids=[limit for _, _, limit in TOO_LARGE])
async def test_input_over_a_limit_names_the_limit(server, request_, field, limit):
    error = await refused(server.chat.StreamReply(request_))
    assert (error.code, error.reason, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LARGE", [field])
    assert dict(error.info.metadata) == {"limit": limit}


async def test_the_largest_allowed_input_is_accepted(server):
    labels = {str(i).rjust(64, "0"): "b" * 64 for i in range(16)}
    watch = await server.stream("é" * (1024 * 1024), request_id="x" * 128, labels=labels).end()
    assert await watch.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("request_", "reason", "code"),
    [
        (ask(conversation_id="unknown"), "CONVERSATION_NOT_FOUND", "NOT_FOUND"),
        (ask(model="no-such"), "MODEL_NOT_FOUND", "NOT_FOUND"),
        (ask(new_conversation=resources_pb2.Conversation(model="no-such")), "MODEL_NOT_FOUND", "NOT_FOUND"),
        (ask("", input=[new_message("user", image=image(image_id="unknown"))]), "IMAGE_NOT_FOUND", "NOT_FOUND"),
        (
            ask("", model="plain", input=[new_message("user", image=image(data=PNG))]),
            "UNSUPPORTED_INPUT",
            "INVALID_ARGUMENT",
        ),
        (ask(model="plain", tools=[chat_pb2.Tool(name="f")]), "UNSUPPORTED_INPUT", "INVALID_ARGUMENT"),
        (ask("word " * 500, model="plain"), "CONTEXT_TOO_LARGE", "INVALID_ARGUMENT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_refusal_has_its_reason_and_code(server, request_, reason, code):
    error = await refused(server.chat.StreamReply(request_))
    assert (error.reason, error.code.name, error.initial_metadata) == (reason, code, ())
    unary = await refused(server.chat.CreateReply(request_))
    assert (unary.reason, unary.code.name, unary.message) == (reason, code, error.message)


async def test_refusals_leave_no_trace(server):
    for request in (ask(""), ask(model="no-such"), ask(conversation_id="unknown"), ask("word " * 500, model="plain")):
        await refused(server.chat.StreamReply(request))
    for table in ("reply", "message", "conversation", "idempotency_key", "usage"):
        assert server.sql(f"select count(*) from {table}") == [(0,)], table
    assert not server.upstream.requests
    assert not server.running


async def test_unknown_replies_are_not_found(server):
    calls = [
        server.chat.ResumeReply(chat_pb2.ResumeReplyRequest(reply_id="unknown")),
        server.chat.PollReply(chat_pb2.PollReplyRequest(reply_id="unknown")),
        server.chat.GetReply(chat_pb2.GetReplyRequest(reply_id="unknown")),
        server.chat.Cancel(chat_pb2.CancelRequest(reply_id="unknown")),
        server.chat.Cancel(chat_pb2.CancelRequest(request_id="unknown")),
        server.chat.GetReply(chat_pb2.GetReplyRequest()),
    ]
    for call in calls:
        error = await refused(call)
        assert (error.reason, error.code) == ("REPLY_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    error = await refused(server.chat.Cancel(chat_pb2.CancelRequest(conversation_id="unknown")))
    assert error.reason == "CONVERSATION_NOT_FOUND"


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ResumeReply", chat_pb2.ResumeReplyRequest(after_sequence=-1), "after_sequence"),
        ("PollReply", chat_pb2.PollReplyRequest(after_sequence=-1), "after_sequence"),
        ("PollReply", chat_pb2.PollReplyRequest(wait=duration(61)), "wait"),
        ("PollReply", chat_pb2.PollReplyRequest(gather=duration(61)), "gather"),
        ("CreateReply", ask(wait=-1), "wait"),
        ("CreateReply", ask(wait=0, on_disconnect=chat_pb2.DISCONNECT_POLICY_CANCEL), "on_disconnect"),
        ("Cancel", chat_pb2.CancelRequest(), "target"),
    ],
)
async def test_other_calls_are_validated_too(server, method, request_, field):
    error = await refused(getattr(server.chat, method)(request_))
    assert (error.code, error.reason, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", [field])


async def test_the_refusal_contains_the_id_of_the_reply_in_progress(server, upstream):
    upstream.reply_with(HANGING)
    first = await server.stream().until_text("on and")
    error = await refused(server.chat.StreamReply(ask(conversation_id=first.conversation_id)))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "REPLY_IN_PROGRESS")
    assert (dict(error.info.metadata), error.plain.retryable) == ({"reply_id": first.reply_id}, True)
    assert error.retry_after_s == 1.0


@pytest.mark.parametrize(
    "request_",
    [
        ask(model=GIANT),
        ask(request_id=GIANT),
        ask(conversation_id=GIANT),
        ask(labels={GIANT: GIANT}),
        ask(tools=[chat_pb2.Tool(name=GIANT)]),
        ask(tool_choice=GIANT),
        ask(new_conversation=resources_pb2.Conversation(id=GIANT)),
        ask("", input=[new_message("user", image=image(image_id=GIANT))]),
        ask("", input=[new_message("user", image=image(data=PNG, mime_type=GIANT))]),
        ask(fallback_models=[GIANT]),
        ask("😀" * 600_000, model="plain"),
    ],
    ids=range(11),
)
async def test_error_details_stay_small_for_any_input(server, request_):
    assert_small(await refused(server.chat.StreamReply(request_)))


@pytest.mark.parametrize("letter", ["x", "€", "😀"])
async def test_error_details_stay_small_for_any_error(server, letter):
    """The transport also shortens errors of the core."""
    giant = letter * 100_000

    def refuse(alias, fallbacks):
        raise InvalidRequest(
            giant,
            retry_after_s=1.0,
            metadata={f"{n}{giant}": giant for n in range(50)},
            violations=tuple((giant, giant) for _ in range(50)),
        )

    server.app._registry.current().candidates = refuse
    error = await refused(server.chat.StreamReply(ask()))
    assert (error.reason, error.retry_after_s, len(error.fields)) == ("INVALID_REQUEST", 1.0, 4)
    assert_small(error)


async def test_error_details_stay_small_for_giant_ids_in_other_calls(server):
    calls = [
        server.chat.GetReply(chat_pb2.GetReplyRequest(reply_id=GIANT)),
        server.chat.Cancel(chat_pb2.CancelRequest(reply_id=GIANT)),
        server.chat.Cancel(chat_pb2.CancelRequest(request_id=GIANT)),
        server.chat.ResumeReply(chat_pb2.ResumeReplyRequest(reply_id=GIANT)),
        server.conversations.GetConversation(conversations_pb2.GetConversationRequest(conversation_id=GIANT)),
        server.conversations.ListConversations(conversations_pb2.ListConversationsRequest(page_token=GIANT)),
        server.conversations.UpdateConversation(
            conversations_pb2.UpdateConversationRequest(
                conversation=resources_pb2.Conversation(id="x"), update_mask={"paths": [GIANT]}
            )
        ),
    ]
    for call in calls:
        assert_small(await refused(call))


async def test_an_end_user_that_is_too_long_is_refused(server):
    call = server.chat.StreamReply(ask(), metadata=(("x-end-user", "u" * 129),))
    error = await refused(call)
    assert (error.reason, error.fields) == ("INPUT_TOO_LARGE", ["x-end-user"])
    (violation,) = error.detail(error_details_pb2.BadRequest).field_violations
    assert violation.description == "is over the limit of 128 characters"


async def test_prompts_over_the_total_size_limit_are_refused_as_overload(serve, upstream):
    server = await serve(max_prompt_bytes=1024 * 1024)
    upstream.reply_with(HANGING)
    first = await server.stream("x" * 900_000).until_text("on and")
    error = await refused(server.chat.StreamReply(ask("y" * 200_000)))
    assert error.reason == "OVERLOADED"
    await server.cancel(first.reply_id)
    await server.stream("y" * 200_000).until_text("on and")
