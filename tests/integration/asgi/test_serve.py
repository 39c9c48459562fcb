"""`parley.asgi.serve` as a process: it prints its address, and ends open streams at SIGTERM."""

import asyncio
import signal
import socket
import sys

import httpx2
import pytest
import uvicorn
from parley.asgi._serve import _Server
from starlette.applications import Starlette

from tests import scripted_server, watchdog
from tests.processes import clean_environment
from tests.scripted_server import Wait, accepted, text
from tests.web import LIMIT_S, Browser

PROGRAM = """
import asyncio, sys
import parley, parley.asgi
from starlette.applications import Starlette

async def main():
    async with parley.Client(sys.argv[1]) as client:
        config = parley.asgi.PageConfig(wire="page", title="Test")
        routes = parley.asgi.page_routes(lambda _: client, config, sends=True)
        app = Starlette(routes=routes, exception_handlers=parley.asgi.exception_handlers())
        await parley.asgi.serve(app, port=0, name="test")

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_open_streams_and_the_process_exits_with_0(number):
    async with scripted_server.running() as scripted:
        scripted.unary["CreateConversation"] = [scripted_server.resources_pb2.Conversation(id="c1")]
        scripted.scripts.append([accepted(), text(1, "a"), Wait(asyncio.Event())])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, scripted.address,
            env=clean_environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        watchdog.watch(process.pid)
        try:
            line = (await asyncio.wait_for(process.stdout.readline(), LIMIT_S)).decode()
            words, _, url = line.strip().rpartition(" ")
            assert words == "test listens on"
            async with (
                Browser(url) as browser,
                browser.stream("POST", "/api/page/conversations/c1/messages", {"text": "Hi"}) as sse,
            ):
                await sse.until("text")
                process.send_signal(number)
                assert await sse.rest() == []
                async with asyncio.timeout(LIMIT_S):
                    assert await process.wait() == 0
                assert await process.stderr.read() == b""
            async with Browser(url) as browser:
                with pytest.raises(httpx2.ConnectError):
                    await browser.call("GET", "/")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            watchdog.forget(process.pid)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only on Linux")
async def test_a_connection_whose_data_is_not_acknowledged_for_a_minute_ends():
    server = _Server(uvicorn.Config(Starlette(), port=0, ws="none", log_level="warning"), "test")
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(LIMIT_S):
        while not server.started:
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        while not server.server_state.connections:
            await asyncio.sleep(0.005)
    (connection,) = server.server_state.connections
    accepted_socket = connection.transport.get_extra_info("socket")
    assert accepted_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    writer.close()
    server.should_exit = True
    await serving
