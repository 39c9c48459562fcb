"""`parley serve --ui` as a process: its start, its stop, and several workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import time
from pathlib import Path

import httpx2
import pytest

from tests.integration.process.test_start import command, refusal
from tests.integration.process.test_workers import Workers
from tests.integration.process.watching import script, words
from tests.integration.test_page import messages_of, new_conversation
from tests.ports import free_port
from tests.processes import ServerProcess, until
from tests.web import Browser

ON = {"PARLEY_UI_LISTEN": "127.0.0.1:0"}
NO_GRACE = "[server]\ndrain_pause_s = 0\ndrain_grace_s = 0\n"


async def page_url(server: ServerProcess) -> str:
    """The address that the server prints."""
    return (await server.line("The chat page is ")).removeprefix("The chat page is ").rstrip("/")


async def test_streams_end_when_the_server_stops(tmp_path) -> None:
    async with ServerProcess(tmp_path, toml=NO_GRACE, **ON) as server, Browser(await page_url(server)) as browser:
        body = {"text": script(words("w", 3000), delay_s=0.02)}
        conversation_id = new_conversation()
        async with browser.stream("POST", messages_of(conversation_id), body) as first:
            await first.until("text")
            async with browser.stream("GET", f"/api/page/conversations/{conversation_id}/stream") as second:
                await second.until("text")
                stopping_s = time.monotonic()
                server.send(signal.SIGTERM)
                endings = [(await each.rest())[-1] for each in (first, second)]
        assert await server.exited() == 0
        assert time.monotonic() - stopping_s < 8.0
        assert [(each["type"], each["code"]) for each in endings] == [("failed", "OWNER_LOST")] * 2
        assert [event for event in server.events() if event["level"] == "error"] == [], server.output


async def test_a_browser_that_does_not_read_does_not_block_the_stop(tmp_path) -> None:
    async with ServerProcess(tmp_path, toml=NO_GRACE, **ON) as server:
        url = await page_url(server)
        async with Browser(url) as browser:
            page = (await browser.call("GET", "/")).text
        (path,) = re.findall(r'src="(/assets/[^"]+\.js)"', page)
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as idle:
            # With small segments and windows, the kernel buffers much less than the 200 KB of the file.
            idle.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.connect((host, int(port)))
            idle.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (await asyncio.to_thread(idle.recv, 12)).endswith(b"200")
            stopping_s = time.monotonic()
            assert await server.terminate() == 0
            assert time.monotonic() - stopping_s < 10.0
        assert [event for event in server.events() if event["level"] == "error"] == [], server.output


async def test_only_the_user_of_the_server_can_open_the_grpc_socket(tmp_path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    async with ServerProcess(tmp_path / "server", TMPDIR=str(folder), **ON) as server:
        (private,) = folder.iterdir()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert [each.name for each in private.iterdir()] == ["grpc"]
        assert await server.terminate() == 0
        assert list(folder.iterdir()) == []


async def test_the_folder_of_a_killed_server_is_removed_by_the_next_one(tmp_path) -> None:
    """That of a server that runs stays, and so does one without a socket."""
    folder = tmp_path / "temporary"
    (folder / "parley-ui-starting").mkdir(parents=True)
    on = {"TMPDIR": str(folder), **ON}
    async with ServerProcess(tmp_path / "first", **on) as first:
        (running,) = set(folder.iterdir()) - {folder / "parley-ui-starting"}
        async with ServerProcess(tmp_path / "second", **on) as second:
            (killed,) = set(folder.iterdir()) - {folder / "parley-ui-starting", running}
            second.send(signal.SIGKILL)
            await second.exited()
        assert killed.exists()
        async with ServerProcess(tmp_path / "third", **on) as third:
            left = set(folder.iterdir())
            assert killed not in left
            assert left >= {folder / "parley-ui-starting", running}
            assert len(left) == 3
            assert await third.terminate() == 0
        async with Browser(await page_url(first)) as browser:
            assert (await browser.call("GET", "/api/page/models")).status_code == 200


@pytest.mark.timeout(120)
async def test_the_restarted_worker_serves_the_page_again(tmp_path, postgres_url, shared_redis) -> None:
    urls = {"PARLEY_DATABASE_URL": postgres_url, "PARLEY_REDIS_URL": shared_redis.url()}
    url = f"http://127.0.0.1:{free_port()}"
    async with Workers(tmp_path, urls, PARLEY_UI_LISTEN=url.removeprefix("http://")) as server:
        assert await page_url(server) == url
        served = [
            event.get("page") for event in sorted(server.events("serving"), key=lambda each: each.get("worker", 9))
        ]
        assert served == [f"{url}/", None, f"{url}/"], "worker 0, worker 1, the supervisor"
        async with Browser(url) as browser:
            path = messages_of(new_conversation())
            await browser.events("POST", path, {"text": script("Hello.", delay_s=0)})
            os.kill(server.pids()[0], signal.SIGKILL)

            async def has_messages() -> bool:
                try:
                    return len((await browser.call("GET", path)).json()["messages"]) == 2
                except httpx2.TransportError:
                    return False

            await until(has_messages, "the restarted worker serves the page", limit_s=40)


async def test_a_port_in_use_prevents_the_start(tmp_path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        output = refusal(await asyncio.to_thread(command, tmp_path, "serve", "--ui-port", str(port)))
    assert output == f"parley serve: cannot serve the chat page on 127.0.0.1:{port}: the port is in use\n"


async def test_a_missing_extra_is_reported_by_name(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text('raise ModuleNotFoundError("No module named uvicorn", name="uvicorn")\n')
    output = refusal(await asyncio.to_thread(command, tmp_path, "serve", "--ui", PYTHONPATH=str(tmp_path)))
    assert output == (
        "parley serve: the chat page needs the package uvicorn, which pip install 'parley-server[ui]' adds\n"
    )
