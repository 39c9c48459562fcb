"""A server logs one line of JSON for each call and each reply, without message text."""

import io
import json
import logging

import pytest
from parley.v1 import chat_pb2, conversations_pb2, resources_pb2
from parley_server.telemetry.logs import configure_logging

from tests.integration.served import KEY, ask, new_message, refused
from tests.upstream import Script, answer, error_event, refusal, role, text, tool_call

PROMPT, ANSWER, SYSTEM, TITLE, VENDOR = "PROMPT-7f3a", "ANSWER-91bc", "SYSTEM-c0de", "TITLE-4d2e", "VENDOR-55aa"
PNG = b"\x89PNG\r\n\x1a\n" + b"IMAGE-e1f0" * 5


@pytest.fixture
def lines():
    """The log output at debug level; restores the configuration of all loggers afterwards."""
    root = logging.getLogger()
    flags = ("logThreads", "logProcesses", "logMultiprocessing")
    before = (root.handlers[:], root.level, [getattr(logging, flag) for flag in flags])
    levels = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    yield stream
    root.handlers[:], root.level = before[0], before[1]
    for flag, value in zip(flags, before[2], strict=True):
        setattr(logging, flag, value)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=False)


async def call_everything(server, upstream):
    """Make one call of every kind; some fail."""
    conversation = resources_pb2.Conversation(title=TITLE, system=[SYSTEM], post_system=SYSTEM, labels={"l": TITLE})
    image = resources_pb2.Image(data=PNG)
    upstream.reply_next(
        answer(ANSWER),
        Script([role(), text(ANSWER), tool_call(0, f'"{ANSWER}', call_id="c", name="f"), error_event(VENDOR)]),
        refusal(400, {"error": {"message": VENDOR + PROMPT, "type": VENDOR, "code": VENDOR}}),
        Script([b"data: {" + VENDOR.encode() + b"\n\n"]),
    )
    first = await server.stream(
        "", input=[new_message("user", PROMPT, image=image)], new_conversation=conversation
    ).end()
    for _ in range(3):
        await server.stream(PROMPT, conversation_id=first.conversation_id).end()
    await server.resume(first.reply_id).end()
    await server.poll(first.reply_id)
    await server.get(first.reply_id)
    await server.cancel(first.reply_id, reason=PROMPT)
    await refused(server.chat.StreamReply(ask(PROMPT, sampling=chat_pb2.Sampling(temperature=9))))
    await refused(
        server.chat.StreamReply(
            ask("", input=[new_message("user", tool_call=resources_pb2.ToolCall(arguments=PROMPT))])
        )
    )
    await server.messages(first.conversation_id)
    await server.new_conversation([new_message("user", PROMPT)], title=TITLE)
    await server.conversations.ListConversations(conversations_pb2.ListConversationsRequest(query=TITLE))

    class Broken:
        async def generate(self, prompts, sink):
            raise RuntimeError("broken")

    server.app._registry.current().route = lambda candidates: Broken()
    await server.stream(PROMPT).end()
    await server.delete(first.conversation_id)


async def test_log_lines_hold_no_message_text(lines, server, upstream):
    await call_everything(server, upstream)
    await server.stop()
    logged = lines.getvalue()
    parsed = [json.loads(line) for line in logged.splitlines()]
    assert len(parsed) > 20
    for sentinel in (PROMPT, ANSWER, SYSTEM, TITLE, VENDOR, KEY, "IMAGE-e1f0", "sk-test"):
        assert sentinel not in logged, [line for line in logged.splitlines() if sentinel in line]


async def test_one_line_for_each_call_and_each_reply(lines, server, upstream):
    ada = server.caller("ada")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call = ada.chat.StreamReply(ask(), metadata=(("traceparent", trace),))
    chunks = [chunk async for chunk in call]
    reply_id = chunks[0].reply_id
    await ada.get(reply_id)
    await refused(ada.chat.GetReply(chat_pb2.GetReplyRequest(reply_id="unknown")))
    await server.stop()
    parsed = [json.loads(line) for line in lines.getvalue().splitlines()]
    calls = [line for line in parsed if line["event"] == "call"]
    shown = [(line["method"], line["code"], line.get("reason"), line["end_user"]) for line in calls]
    assert shown == [
        ("/parley.v1.Chat/StreamReply", "OK", None, "ada"),
        ("/parley.v1.Chat/GetReply", "OK", None, "ada"),
        ("/parley.v1.Chat/GetReply", "NOT_FOUND", "REPLY_NOT_FOUND", "ada"),
    ]
    assert (calls[0]["traceparent"], calls[0]["reply_id"]) == (trace, reply_id)
    assert len({line["call_id"] for line in calls}) == 3
    replies = [line for line in parsed if line["event"] == "reply"]
    assert [(line["reply_id"], line["state"]) for line in replies] == [(reply_id, "COMPLETED")]


async def test_background_work_that_ends_by_a_defect_is_logged(lines, serve, clock, monkeypatch):
    server = await serve(clock=clock)

    async def defect():
        raise ZeroDivisionError

    monkeypatch.setattr(server.app.mode.store, "ping", defect)
    await clock.advance(1.0)
    [line] = [json.loads(each) for each in lines.getvalue().splitlines() if "background_work_ended" in each]
    assert (line["level"], line["work"]) == ("error", "App._watch_database")
    assert "ZeroDivisionError" in line["exception"]
    await server.stop()
    assert lines.getvalue().count("background_work_ended") == 1, "a stop ends background work, too"
