"""The Python clients in processes of their own: forks, exits, Ctrl-C, and the sample of the page under WSGI."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import sys
import threading
import time
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import pytest_asyncio

from tests.commands import ADDRESS, blocks
from tests.processes import ServerProcess, clean_environment, until
from tests.tools import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROLOGUE = """
import asyncio, contextlib, json, os, sys, threading, traceback
import parley

def script(text, **fields):
    return "/script " + json.dumps({"text": text, **fields})

SILENT = script("Never.", first_token_delay_s=60)
client = parley.SyncClient(sys.argv[1])
"""

FORKS = """
def fork(work, leave=sys.exit):
    pid = os.fork()
    if pid == 0:
        work()
        leave(0)
    return os.waitpid(pid, 0)[1]

def use():
    assert client.create_reply(script("Here.", delay_s=0)).message.parts[0].text == "Here."
    with client.stream_reply(SILENT) as left:
        next(left)

def cannot_use():
    for attempt in (client.models, lambda: next(stream), stream.cancel, parley.SyncClient(sys.argv[1]).models):
        try:
            attempt()
        except RuntimeError as error:
            assert "forked after" in str(error)
        else:
            raise AssertionError("gRPC was used after the fork")
    stream.close()
    client.close()

def use_the_asynchronous_client():
    async def read():
        async with parley.Client(sys.argv[1]) as asynchronous:
            await asynchronous.models()

    asyncio.run(read())
    assert fork(cannot_call, leave=os._exit) == 0

def cannot_call():
    try:
        client.models()
    except RuntimeError as error:
        assert "forked after" in str(error)
    else:
        raise AssertionError("gRPC was used after the fork")

assert [fork(use), fork(use), fork(use_the_asynchronous_client)] == [0, 0, 0]
assert threading.active_count() == 1
stream = client.stream_reply(script("Here.", delay_s=0))
assert len(list(stream)) == 4
status = fork(cannot_use, leave=os._exit)  # gRPC itself sometimes crashes at the exit of such a process
assert status == 0, status
use()
"""

ASYNCHRONOUS_FORKS = """
def fork(work):
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(work())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

async def cannot_open():
    raises(lambda: parley.Client(sys.argv[1]))

async def cannot_use():
    for attempt in (asynchronous.models, stream.__anext__, stream.cancel, asynchronous.polls("nobody").__anext__):
        try:
            await asyncio.wait_for(attempt(), 5)
        except RuntimeError as error:
            assert "forked after" in str(error)
        else:
            raise AssertionError("gRPC was used after the fork")
    raises(lambda: parley.Client(sys.argv[1]))
    await stream.aclose()
    await asynchronous.close()

def raises(function):
    try:
        function()
    except RuntimeError as error:
        assert "forked after" in str(error)
    else:
        raise AssertionError("gRPC was used after the fork")

async def read():
    global asynchronous, stream
    async with parley.Client(sys.argv[1]) as asynchronous:
        stream = asynchronous.stream_reply(script("One two", first_token_delay_s=0.5))
        await anext(stream)
        assert fork(cannot_use) == 0
        assert [event async for event in stream][-1].text == "One two"

asyncio.run(read())
assert fork(cannot_open) == 0
"""

EXITS = """
def until_the_exit(function):
    with contextlib.suppress(parley.Unavailable):
        function()

def wait():
    next(stream)
    reading.set()
    list(stream)

def hang():
    asking.set()
    threading.Event().wait()

reading, asking = threading.Event(), threading.Event()
stream = client.stream_reply(SILENT)
for call in (wait, parley.SyncClient(sys.argv[1], api_key=hang).models):
    threading.Thread(target=until_the_exit, args=(call,), daemon=True).start()
left = client.stream_reply(SILENT)
next(left)
reading.wait()
asking.wait()
"""

INTERRUPTED = """
stream = client.stream_reply(SILENT)
next(stream)
try:
    print("reading", flush=True)
    next(stream)
except KeyboardInterrupt:
    print("interrupted", flush=True)
stream.cancel("enough")
print(list(stream)[-1].cancel_reason, flush=True)
client.create_reply(SILENT)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    async with ServerProcess(tmp_path_factory.mktemp("server"), forked=True) as running:
        yield running


async def started(server, program, **environment):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-c", PROLOGUE + program, server.address, env=clean_environment(**environment),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def ended(process):
    """Wait for the end of a process; returns its exit status, output and errors."""
    try:
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return process.returncode, out.decode(), err.decode()


async def test_a_forked_process_can_use_grpc_only_if_its_parent_has_not(server):
    status, out, err = await ended(await started(server, FORKS))
    assert (status, out) == (0, ""), err


async def test_the_asynchronous_client_refuses_to_work_in_a_fork(server):
    # With its own support of forks, gRPC starts threads in the child, which crash some of these processes.
    status, out, err = await ended(await started(server, ASYNCHRONOUS_FORKS, GRPC_ENABLE_FORK_SUPPORT="0"))
    assert (status, out) == (0, ""), err


async def test_the_interpreter_exits_while_calls_wait(server):
    def cancelled():
        calls = [call for call in server.events("call") if call["method"].endswith("StreamReply")]
        return [call["code"] for call in calls].count("CANCELLED")

    async def both_ended():
        return cancelled() == before + 2

    before = cancelled()
    assert await ended(await started(server, EXITS)) == (0, "", "")
    await until(both_ended, "the server has seen the end of both streams")


async def test_ctrl_c_ends_a_wait_at_once_and_the_stream_can_still_be_read(server):
    process = await started(server, INTERRUPTED)
    assert await process.stdout.readline() == b"reading\n"
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(10):
        assert await process.stdout.readline() == b"interrupted\n"
        assert await process.stdout.readline() == b"enough\n"

    async def second_reply_runs():
        return server.rows("SELECT count(*) FROM reply WHERE state NOT IN ('COMPLETED', 'CANCELLED', 'FAILED')")[0][0]

    await until(second_reply_runs, "the second reply runs")
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    status, out, err = await ended(process)
    assert (status, out) == (-signal.SIGINT, "")
    assert err.endswith("KeyboardInterrupt\n")
    assert time.monotonic() - sent < 10


class SilentHandler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


async def test_the_wsgi_sample_streams_events(server):
    (sample,) = (
        block for block in blocks((ROOT / "clients/python/README.md").read_text(), "python") if "environ" in block
    )
    names = {}
    exec(sample.replace(ADDRESS, server.address), names)
    with make_server("127.0.0.1", 0, names["app"], handler_class=SilentHandler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", web.server_port, timeout=10)
            connection.request("POST", "/", "Hello", {"X-User": "ada"})
            answer = connection.getresponse()
            found = answer.status, answer.headers["Content-Type"], answer.read().decode()
            connection.close()
            return found

        status, kind, body = await asyncio.to_thread(ask)
        await asyncio.to_thread(web.shutdown)
    await asyncio.to_thread(names["client"].close)
    events = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n") if line]
    assert (status, kind) == (200, "text/event-stream")
    assert "Hello" in "".join(events)
    assert len(events) > 1
