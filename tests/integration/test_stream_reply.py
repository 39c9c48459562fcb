"""StreamReply from acceptance to the terminal chunk, compared with other calls and the database."""

import asyncio

import grpc
import pytest
from parley.v1 import chat_pb2, resources_pb2

from tests.clock import until
from tests.integration import frames
from tests.integration.served import COMPLETED, FAILED, PENDING, STREAMING, ask, error_reason, reason, refused, text_of
from tests.upstream import Hang, Script, Wait, answer, done, finish, reasoning, refusal, role, text, tool_call, usage

STREAM_REPLY = "/parley.v1.Chat/StreamReply"


COUNTED = resources_pb2.Usage(
    prompt_tokens=11, completion_tokens=3, cost_nano_usd=11 * 2_000 + 3 * 8_000, estimated=False
)


async def test_stream_get_list_and_database_show_the_same_reply(server, upstream):
    upstream.reply_with(answer("Hello", ", ", "world", tokens=(11, 3)))
    request = ask("Say hello", labels={"page": "home"}, new_conversation=resources_pb2.Conversation(title="Greeting"))
    call = server.chat.StreamReply(request)
    chunks = [chunk async for chunk in call]
    assert await call.code() == grpc.StatusCode.OK
    check_chunks(chunks)
    ids, last = chunks[0].accepted, chunks[-1]

    reply = await server.get(chunks[0].reply_id)
    assert reply == expected_reply(chunks, reply, request_id=request.request_id)
    times = [reply.create_time, reply.first_token_time, reply.message.create_time]
    assert [each.ToNanoseconds() for each in times] == sorted(each.ToNanoseconds() for each in times)
    assert reply.end_time.ToNanoseconds() >= reply.first_token_time.ToNanoseconds()

    page = await server.messages(ids.conversation_id)
    assert page.messages[0] == reply.message
    assert (page.messages[1].id, text_of(page.messages[1])) == (ids.input_message_ids[0], "Say hello")
    without_message = resources_pb2.Reply.FromString(reply.SerializeToString())
    without_message.ClearField("message")
    assert list(page.replies) == [without_message]
    row = server.sql("select state, finish_reason, last_sequence, model, provider, request_id from reply")
    assert row == [("COMPLETED", "STOP", last.sequence, "test", "up", request.request_id)]
    assert server.sql("select count(*) from message where reply_id = ?", reply.id) == [(1,)]
    conversation = await server.conversation(ids.conversation_id)
    assert (conversation.title, conversation.head_message_id) == ("Greeting", ids.message_id)
    assert not conversation.active_reply_id


def check_chunks(chunks):
    accepted, last = chunks[0], chunks[-1]
    ids = accepted.accepted
    assert len(ids.input_message_ids) == 1
    assert chunks == [
        chat_pb2.TokenChunk(
            reply_id=accepted.reply_id,
            sequence=0,
            accepted=chat_pb2.Accepted(
                conversation_id=ids.conversation_id,
                input_message_ids=ids.input_message_ids,
                message_id=ids.message_id,
                model="test",
            ),
        ),
        *[chunk for chunk in chunks if chunk.text],
        chat_pb2.TokenChunk(
            sequence=last.sequence - 1, usage=resources_pb2.Usage(prompt_tokens=11, completion_tokens=3)
        ),
        chat_pb2.TokenChunk(
            sequence=last.sequence,
            finished=chat_pb2.Finished(
                reason=reason("STOP"), provider_reason="stop", usage=COUNTED, model="test", provider="up"
            ),
        ),
    ]
    assert "".join(chunk.text for chunk in chunks) == "Hello, world"
    assert [chunk.sequence for chunk in chunks] == sorted({chunk.sequence for chunk in chunks})


def expected_reply(chunks, reply, *, request_id):
    """The reply that the chunks announce; its times are taken from `reply`."""
    ids = chunks[0].accepted
    return resources_pb2.Reply(
        id=chunks[0].reply_id,
        conversation_id=ids.conversation_id,
        request_id=request_id,
        state=COMPLETED,
        message=resources_pb2.Message(
            id=ids.message_id,
            role=resources_pb2.ROLE_ASSISTANT,
            parts=[resources_pb2.Part(text="Hello, world")],
            parent_id=ids.input_message_ids[0],
            reply_id=chunks[0].reply_id,
            create_time=reply.message.create_time,
        ),
        finish_reason=reason("STOP"),
        usage=COUNTED,
        model="test",
        provider="up",
        last_sequence=chunks[-1].sequence,
        create_time=reply.create_time,
        first_token_time=reply.first_token_time,
        end_time=reply.end_time,
        labels={"page": "home"},
        message_id=ids.message_id,
        parent_message_id=ids.input_message_ids[0],
    )


async def test_acceptance_is_durable_when_headers_arrive(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([Wait(go), role(), text("late"), finish(), done()]))
    call = server.chat.StreamReply(ask("Wait for it"))
    await call.initial_metadata()
    rows = server.sql("select r.state, m.role, m.parts from reply r join message m on m.id = r.parent_message_id")
    assert [(state, who) for state, who, _ in rows] == [("PENDING", "USER")]
    assert "Wait for it" in rows[0][2]
    accepted = await call.read()
    reply = await server.get(accepted.reply_id)
    assert (reply.state, reply.HasField("message"), reply.HasField("first_token_time")) == (PENDING, False, False)
    assert (await server.conversation(reply.conversation_id)).active_reply_id == reply.id
    go.set()
    assert ((await call.read()).text, (await call.read()).HasField("finished")) == ("late", True)


async def test_a_running_reply_shows_its_text_so_far(server, upstream):
    upstream.reply_with(Script([role(), text("Half an"), Hang()]))
    watch = await server.stream().until_text("Half an")
    reply = await server.get(watch.reply_id)
    assert (reply.state, text_of(reply), reply.message.partial) == (STREAMING, "Half an", True)
    assert reply.last_sequence == watch.sequence
    assert reply.HasField("first_token_time")
    assert not reply.HasField("end_time")


@pytest.mark.parametrize(
    ("script", "state", "code", "why"),
    [
        (answer("cut", reason="length"), COMPLETED, "OK", "MAX_TOKENS"),
        (answer("no", reason="content_filter"), COMPLETED, "OK", "CONTENT_FILTER"),
        (answer("hm", reason="pause_turn"), COMPLETED, "OK", "OTHER"),
        (refusal(500), FAILED, "ABORTED", "PROVIDER_UNAVAILABLE"),
    ],
)
async def test_the_status_matches_the_terminal_chunk_and_the_stored_reply(server, upstream, script, state, code, why):
    upstream.reply_with(script)
    watch = await server.stream().end()
    reply = await server.get(watch.reply_id)
    assert (reply.state, (await watch.code()).name) == (state, code)
    last = watch.terminal
    if state == COMPLETED:
        assert last.finished.reason == reply.finish_reason == reason(why)
        assert last.finished.usage == reply.usage
        assert not reply.HasField("error")
    else:
        assert last.failed.error == reply.error
        assert reply.error.reason == error_reason(why)
        assert reply.finish_reason == reason("UNSPECIFIED")
        assert watch.error.details() == reply.error.message


async def test_reasoning_is_sent_only_if_requested(server, upstream):
    upstream.reply_with(
        Script([role(), reasoning("Let me "), reasoning("think."), text("42"), finish(), usage(), done()])
    )
    plain = await server.stream().end()
    assert (plain.text, "reasoning" in plain.kinds) == ("42", False)
    full = await server.resume(plain.reply_id, reasoning=True).end()
    assert "".join(chunk.reasoning.text for chunk in full.chunks) == "Let me think."
    assert full.terminal == plain.terminal
    reply = await server.get(plain.reply_id)
    assert list(reply.message.parts) == [
        resources_pb2.Part(reasoning=resources_pb2.Reasoning(text="Let me think.")),
        resources_pb2.Part(text="42"),
    ]
    assert plain.terminal.sequence == reply.last_sequence


async def test_tool_calls_are_streamed_in_pieces_and_stored_whole(server, upstream):
    upstream.reply_with(
        Script(
            [
                role(),
                tool_call(0, call_id="c1", name="weather"),
                tool_call(0, '{"city":'),
                tool_call(0, '"Oslo"}'),
                tool_call(1, '{"city":"Rome"}', call_id="c2", name="weather"),
                finish("tool_calls"),
                usage(),
                done(),
            ]
        )
    )
    tools = [chat_pb2.Tool(name="weather", parameters='{"type":"object"}')]
    watch = await server.stream("Weather?", tools=tools).end()
    calls = [chunk.tool_call for chunk in watch.chunks if chunk.HasField("tool_call")]
    assert [call.id for call in calls if call.id] == ["c1", "c2"]
    assert "".join(call.arguments for call in calls if call.index == 0) == '{"city":"Oslo"}'
    assert watch.terminal.finished.reason == reason("TOOL_CALLS")
    reply = await server.get(watch.reply_id)
    assert list(reply.message.parts) == [
        resources_pb2.Part(tool_call=resources_pb2.ToolCall(id="c1", name="weather", arguments='{"city":"Oslo"}')),
        resources_pb2.Part(tool_call=resources_pb2.ToolCall(id="c2", name="weather", arguments='{"city":"Rome"}')),
    ]


async def test_a_refusal_is_trailers_only(server):
    for request in (ask(""), ask("Hi", model="no-such"), ask("Hi", conversation_id="unknown")):
        answered = await frames.call(server.app.port, STREAM_REPLY, request.SerializeToString())
        assert [(frame.kind, frame.ends) for frame in answered] == [(frames.HEADERS, True)], request
    resumed = chat_pb2.ResumeReplyRequest(reply_id="unknown").SerializeToString()
    answered = await frames.call(server.app.port, "/parley.v1.Chat/ResumeReply", resumed)
    assert [(frame.kind, frame.ends) for frame in answered] == [(frames.HEADERS, True)]
    assert server.sql("select count(*) from reply") == server.sql("select count(*) from conversation") == [(0,)]


async def test_a_failure_after_acceptance_is_not_trailers_only(server, upstream):
    upstream.reply_with(refusal(401))
    answered = await frames.call(server.app.port, STREAM_REPLY, ask().SerializeToString())
    kinds = [frame.kind for frame in answered]
    assert (kinds[0], kinds[-1], answered[0].ends, answered[-1].ends) == (frames.HEADERS, frames.HEADERS, False, True)
    assert frames.DATA in kinds


async def test_create_reply_sends_headers_at_acceptance(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([Wait(go), *answer("late").steps]))
    answered = frames.response(server.app.port, "/parley.v1.Chat/CreateReply", ask().SerializeToString())
    first = await anext(answered)
    assert (first.kind, first.ends) == (frames.HEADERS, False)
    assert server.sql("select state from reply") == [("PENDING",)]
    go.set()
    kinds = [frame.kind async for frame in answered]
    assert (kinds[0], kinds[-1]) == (frames.DATA, frames.HEADERS)


async def test_an_unknown_exception_of_a_provider_fails_the_reply_as_internal(server, caplog):
    secret = "SECRET-of-a-defect"

    class Broken:
        async def generate(self, prompts, sink):
            sink.text("so far")
            sink.flush()
            raise RuntimeError(secret)

    server.app._registry.current().route = lambda candidates: Broken()
    watch = await server.stream().end()
    error = watch.terminal.failed.error
    assert (error.reason, error.message, error.retryable) == (error_reason("INTERNAL"), "internal error", False)
    assert (await watch.code()) == grpc.StatusCode.INTERNAL
    reply = await server.get(watch.reply_id)
    assert (reply.state, text_of(reply), reply.message.partial) == (FAILED, "so far", True)
    defects = [record for record in caplog.records if record.getMessage() == "reply_task_failed"]
    assert [record.fields["reply_id"] for record in defects] == [error.metadata["call_id"]]
    assert secret not in str(watch.chunks) + str(watch.error)


async def test_an_unknown_exception_of_a_call_reports_only_its_call_id(server, caplog):
    secret = "SECRET-of-a-defect"

    def broken(alias, fallbacks):
        raise RuntimeError(secret)

    server.app._registry.current().candidates = broken
    error = await refused(server.chat.StreamReply(ask()))
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.INTERNAL, "INTERNAL", "internal error")
    assert secret not in repr(vars(error))
    records = [record for record in caplog.records if record.getMessage() == "call_failed"]
    assert [record.fields["call_id"] for record in records] == [error.info.metadata["call_id"]]
    assert server.sql("select count(*) from reply") == [(0,)]


async def test_a_second_turn_continues_the_conversation(server, upstream):
    first = await server.stream("One").end()
    second = await server.stream("Two", conversation_id=first.conversation_id).end()
    page = await server.messages(first.conversation_id)
    assert [text_of(message) for message in page.messages] == ["Hello, world", "Two", "Hello, world", "One"]
    parents = [message.parent_id for message in page.messages]
    assert parents == [*[message.id for message in page.messages[1:]], ""]
    assert [reply.id for reply in page.replies] == [second.reply_id, first.reply_id]
    assert [body["content"] for body in upstream.requests[-1].json["messages"]] == ["One", "Hello, world", "Two"]


async def test_a_reader_of_the_first_reply_receives_nothing_of_the_second(server, upstream):
    hold = asyncio.Event()
    upstream.reply_next(Script([role(), text("first"), Wait(hold), finish(), done()]))
    old = server.stream()
    await old.until_text("first")
    reader = await server.resume(old.reply_id).until_text("first")
    hold.set()
    await old.end()
    second = await server.stream("More", conversation_id=old.conversation_id).end()
    await reader.end()
    assert second.reply_id != old.reply_id
    assert (reader.text, reader.terminal) == ("first", old.terminal)


async def test_a_reply_over_its_size_ends_with_max_tokens(serve, upstream):
    server = await serve(max_reply_bytes=1024)
    piece = "0123456789abcde€"
    upstream.reply_with(Script([role(), *[text(piece) for _ in range(100)], Hang()]))
    watch = await server.stream().end()
    assert watch.terminal.finished.reason == reason("MAX_TOKENS")
    reply = await server.get(watch.reply_id)
    assert text_of(reply) == watch.text == (piece * 100).encode()[:1024].decode(errors="ignore")
    await until(lambda: len(upstream.aborts) == 1)
