"""`parley chat` as a process in a pseudo-terminal, and with piped input and output."""

import asyncio
import os
import pty
import sys
import termios

import grpc
import pytest
from parley.v1 import catalog_pb2, chat_pb2, conversations_pb2, resources_pb2
from parley_server.cli import main
from parley_server.cli.chat.session import ChatOptions

from tests.scripted_server import Abort, Wait, accepted, failed, finished, refusal, reply_error, running, text

RUN = """
import sys
from parley_server.cli.chat.session import ChatOptions
from parley_server.cli.chat.terminal import chat
sys.exit(chat(ChatOptions(**eval(sys.argv[1]))))
"""
IN_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)  # becomes the controlling terminal of this session
for standard in (0, 1, 2):
    os.dup2(terminal, standard)
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[2:]])
"""


class Terminal:
    """The controlling side of a pseudo-terminal: types keys, and collects the output in `shown`."""

    def __init__(self, screen_fd, process):
        self.fd = screen_fd
        self.process = process
        self.shown = ""
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(screen_fd, self._read)

    def _read(self):
        try:
            block = os.read(self.fd, 65536)
        except OSError:
            block = b""
        if not block:
            asyncio.get_running_loop().remove_reader(self.fd)
        self.shown += block.decode(errors="replace").replace("\r\n", "\n")
        self._changed.set()

    def type(self, keys):
        os.write(self.fd, keys.encode())

    async def expect(self, wanted, *, after=0):
        """Wait until a text is shown; returns the position after it."""
        try:
            async with asyncio.timeout(10):
                while wanted not in self.shown[after:]:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pytest.fail(f"{wanted!r} was not shown after {self.shown[after:]!r}")
        return self.shown.index(wanted, after) + len(wanted)

    async def exited(self):
        async with asyncio.timeout(10):
            return await self.process.wait()


@pytest.fixture
async def server():
    async with running() as scripted:
        scripted.unary["ListModels"] = [
            catalog_pb2.ListModelsResponse(
                models=[resources_pb2.Model(alias="scripted", is_default=True), resources_pb2.Model(alias="fast")]
            )
        ] * 20
        yield scripted


@pytest.fixture
async def terminal(server, request):
    screen_fd, inner_fd = pty.openpty()
    attributes = termios.tcgetattr(inner_fd)
    options = repr({"address": server.address})
    environment = {**os.environ, "TERM": getattr(request, "param", "dumb"), "INPUTRC": "/dev/null"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IN_TERMINAL, os.ttyname(inner_fd), RUN, options, start_new_session=True, env=environment
    )
    terminal = Terminal(screen_fd, process)
    yield terminal
    if process.returncode is None:
        process.kill()
        await process.wait()
    else:
        assert termios.tcgetattr(inner_fd)[3] == attributes[3], "the mode of the terminal was not restored"
    asyncio.get_running_loop().remove_reader(screen_fd)
    os.close(inner_fd)
    os.close(screen_fd)


async def piped(server, *, stdin=b"", **options):
    """Run the chat without a terminal; returns (status, stdout, stderr)."""
    options = repr({"address": server.address, **options})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, options, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(20):
        out, err = await process.communicate(stdin)
    return process.returncode, out.decode(), err.decode()


def cancellable(server, *before):
    """A reply that runs until Cancel is called."""
    cancelled = asyncio.Event()

    def cancel(request):
        cancelled.set()
        return resources_pb2.Reply(id="reply-1", state=resources_pb2.Reply.STATE_CANCELLED)

    server.unary["Cancel"] = cancel
    end = finished(before[-1].sequence + 1, resources_pb2.FINISH_REASON_CANCELLED)
    return [*before, Wait(cancelled), end]


async def test_ctrl_c_stops_the_streaming_reply_but_not_the_program(server, terminal):
    go_on = asyncio.Event()
    server.scripts.append([accepted(), text(1, "Hello "), Wait(go_on), text(2, "world"), finished(3)])
    server.scripts.append(cancellable(server, accepted(), text(1, "One, two, ")))
    listed = resources_pb2.Conversation(id="conversation-1", title="Say hello")
    listed.update_time.GetCurrentTime()
    server.unary["ListConversations"] = [conversations_pb2.ListConversationsResponse(conversations=[listed])]

    await terminal.expect("model scripted")
    await terminal.expect("> ")
    terminal.type("Say hello\n")
    await terminal.expect("Hello ")
    assert "world" not in terminal.shown
    go_on.set()
    at = await terminal.expect("> ", after=await terminal.expect("Hello world\n"))

    terminal.type("Count\n")
    at = await terminal.expect("One, two, ", after=at)
    terminal.type("\x03")
    at = await terminal.expect("stopped", after=at)
    at = await terminal.expect("> ", after=at)

    terminal.type("/list\n")
    at = await terminal.expect("*  1  Say hello  (just now)\n", after=at)
    at = await terminal.expect("> ", after=at)
    terminal.type("/quit\n")
    assert await terminal.exited() == 0

    first, second = (call.request for call in server.calls if call.method == "StreamReply")
    assert first.new_conversation.title == "Say hello"
    assert (second.conversation_id, second.text) == ("conversation-1", "Count")
    cancel = (await server.seen(1, "Cancel")).request
    assert cancel == chat_pb2.CancelRequest(reply_id="reply-1", reason="stopped in the terminal")


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
async def test_ctrl_c_and_ctrl_d_at_the_prompt_exit(terminal, key):
    await terminal.expect("> ")
    # CPython's input() ignores a signal between its prompt and its select(), so the key is pressed again.
    async with asyncio.timeout(10):
        while terminal.process.returncode is None:
            terminal.type(key)
            await asyncio.wait([asyncio.create_task(terminal.process.wait())], timeout=0.5)
    assert terminal.process.returncode == 0


async def test_a_second_ctrl_c_abandons_a_reply_that_cannot_be_stopped(server, terminal):
    server.unary["Cancel"] = [Abort(grpc.StatusCode.UNAVAILABLE)]
    server.scripts.append([accepted(), text(1, "One, two, "), Wait(asyncio.Event())])
    await terminal.expect("> ")
    terminal.type("Count\n")
    await terminal.expect("One, two, ")
    terminal.type("\x03")
    await server.seen(1, "Cancel")
    terminal.type("\x03")
    at = await terminal.expect("left; the reply may still be running")
    await terminal.expect("> ", after=at)
    stream = await server.seen(1, "StreamReply")
    async with asyncio.timeout(1):
        await stream.cancelled.wait()
    terminal.type("\x04")
    assert await terminal.exited() == 0


async def test_a_lost_connection_is_shown_and_the_answer_continues(server, terminal):
    server.scripts.append([accepted(), text(1, "Hel"), Abort(grpc.StatusCode.UNAVAILABLE)])
    server.scripts.append([accepted(sequence=1), text(2, "lo"), finished(3)])
    await terminal.expect("> ")
    terminal.type("Hi\n")
    at = await terminal.expect("Hel")
    at = await terminal.expect("... reconnecting", after=at)
    at = await terminal.expect("lo\n", after=at)
    await terminal.expect("> ", after=at)


async def test_open_shows_the_last_messages_and_the_running_reply(server, terminal):
    server.unary["GetConversation"] = [resources_pb2.Conversation(id="c9", title="Weather", active_reply_id="reply-1")]
    messages = [
        resources_pb2.Message(id="m2", role=resources_pb2.ROLE_USER, parts=[resources_pb2.Part(text="And now?")]),
        resources_pb2.Message(id="m1", role=resources_pb2.ROLE_ASSISTANT, parts=[resources_pb2.Part(text="Rain.")]),
    ]
    server.unary["ListMessages"] = [conversations_pb2.ListMessagesResponse(messages=messages)]
    server.log = [text(1, "Sun\x1b[31m."), finished(2)]
    await terminal.expect("> ")
    terminal.type("/open c9\n")
    at = await terminal.expect("Rain.\n> And now?\nSun[31m.\n")
    at = await terminal.expect("> ", after=at)
    terminal.type("/retry\n")
    await terminal.expect("Sun", after=at)
    request = (await server.seen(1, "StreamReply")).request
    assert (request.conversation_id, request.replace_message_id, request.text) == ("conversation-1", "message-2", "")


async def test_commands_change_the_chat_without_a_message(server, terminal):
    server.log = [text(1, "ok"), finished(2)]
    at = await terminal.expect("> ")
    for typed, shown in [
        ("/models", "* scripted"),
        ("/model slow", "there is no model 'slow'; there are 2: scripted, fast"),
        ("/model fast", "model: fast"),
        ("/script {}", "/script: no such command"),
        ("/retry", "nothing to retry yet"),
        ("/nonsense", "/nonsense: no such command"),
        ("/help", "/open N|ID"),
        ("/open", "/open what?"),
        ("/new", "a new conversation"),
        ("Hi", "ok\n"),
    ]:
        terminal.type(typed + "\n")
        at = await terminal.expect("> ", after=await terminal.expect(shown, after=at + len(typed)))
    assert (await server.seen(1, "StreamReply")).request.model == "fast"


@pytest.mark.parametrize("terminal", ["xterm"], indirect=True)
async def test_pasted_lines_are_one_message(server, terminal):
    server.log = [text(1, "ok"), finished(2)]
    await terminal.expect("> ")
    terminal.type("\x1b[200~one\ntwo\x1b[201~\n")
    await terminal.expect("ok\n")
    assert (await server.seen(1, "StreamReply")).request.text == "one\ntwo"


async def test_an_unknown_model_is_refused_at_start(server):
    refused = "error: there is no model 'slow'; there are 2: scripted, fast\n"
    assert await piped(server, text="Hi", model="slow") == (1, "", refused)


async def test_a_failed_answer_keeps_its_text_and_the_chat(server, terminal):
    error = reply_error(grpc.StatusCode.ABORTED, "PROVIDER_TIMEOUT", message="too slow", retryable=True)
    server.scripts.append([accepted(), text(1, "half"), failed(2, error), Abort(grpc.StatusCode.ABORTED, error)])
    await terminal.expect("> ")
    terminal.type("Hi\n")
    at = await terminal.expect("half\n")
    at = await terminal.expect("error: too slow (PROVIDER_TIMEOUT); /retry tries again", after=at)
    await terminal.expect("> ", after=at)


async def test_a_single_message_is_answered_and_the_program_exits(server):
    server.log = [text(1, "Hello"), finished(2)]
    assert await piped(server, text="Hi", model="fast") == (0, "Hello\n", "")
    assert (await server.seen(1, "StreamReply")).request.model == "fast"


async def test_a_failed_single_answer_exits_with_an_error(server):
    error = reply_error(grpc.StatusCode.ABORTED, "PROVIDER_REJECTED", message="no")
    server.scripts.append([accepted(), text(1, "half"), failed(2, error), Abort(grpc.StatusCode.ABORTED, error)])
    assert await piped(server, text="Hi") == (1, "half\n", "error: no (PROVIDER_REJECTED)\n")


async def test_reasoning_and_notes_stay_out_of_piped_output(server):
    thought = chat_pb2.TokenChunk(sequence=1, reasoning=resources_pb2.Reasoning(text="hm\n"))
    server.scripts.append([accepted(), thought, Abort(grpc.StatusCode.UNAVAILABLE)])
    server.scripts.append([accepted(sequence=1), text(2, "Hello"), finished(3)])
    assert await piped(server, text="Hi", reasoning=True) == (0, "Hello\n", "hm\n... reconnecting\n")


async def test_piped_lines_are_sent_as_messages(server):
    server.log = [text(1, "ok"), finished(2)]
    status, out, _ = await piped(server, stdin=b"one\ntwo\n")
    assert (status, out) == (0, "ok\nok\n")
    assert [call.request.text for call in server.calls if call.method == "StreamReply"] == ["one", "two"]


async def test_a_missing_server_prints_one_line():
    async with running() as stopped:
        pass
    line = f"no Parley server at {stopped.address}; start one with `parley serve`\n"
    assert await piped(stopped, text="Hi") == (1, "", line)
    assert await piped(stopped) == (1, "", line)


async def test_a_rate_limit_is_shown_while_the_client_waits(server):
    full = refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", message="10 of 10", retryable=True, retry_after_s=0.01
    )
    server.scripts += [[full], [accepted(), text(1, "ok"), finished(2)]]
    assert await piped(server, text="Hi") == (0, "ok\n", "... 10 of 10; waiting 1 s\n")


def test_the_api_key_is_not_shown(monkeypatch, capsys):
    monkeypatch.setenv("PARLEY_API_KEY", "of-the-environment")
    with pytest.raises(SystemExit):
        main(["chat", "--help"])
    assert "PARLEY_API_KEY" in capsys.readouterr().out
    assert "of-the-arguments" not in repr(ChatOptions(api_key="of-the-arguments"))
    status = main(["chat", "--address", "127.0.0.1:1", "--api-key", "of-the-arguments", "Hi"])
    shown = capsys.readouterr()
    assert status == 1
    assert "of-the" not in shown.out + shown.err


async def test_a_wrong_api_key_is_reported(server, monkeypatch):
    monkeypatch.setenv("PARLEY_API_KEY", "from-environment")
    server.unary["ListModels"] = [refusal(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", message="wrong key")]
    hint = "; give one with --api-key or PARLEY_API_KEY"
    assert await piped(server, text="Hi") == (1, "", f"error: UNAUTHENTICATED: wrong key{hint}\n")
    assert server.calls[0].metadata["authorization"] == "Bearer from-environment"
