"""`parley serve --ui`: the chat page and its routes, on an HTTP port of the server's process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integration.process.test_start import command, refusal
from tests.integration.process.test_workers import Workers
from tests.integration.process.watching import script, words
from tests.integration.served import tenant
from tests.ports import free_port
from tests.processes import ServerProcess, until
from tests.tools import tool
from tests.web import Browser, text_of

ON = {"PARLEY_UI_LISTEN": "127.0.0.1:0"}
NO_GRACE = "[server]\ndrain_pause_s = 0\ndrain_grace_s = 0\n"


def page_url(server: ServerProcess) -> str:
    """The address that the server has printed last."""
    printed = [line.removeprefix("The chat page is ") for line in server.lines if line.startswith("The chat page is ")]
    return printed[-1].rstrip("/")


@asynccontextmanager
async def open_page(folder: Path, *, toml: str = "", **headers: str) -> AsyncIterator[tuple[ServerProcess, Browser]]:
    """A server with the page, and a browser on it."""
    async with ServerProcess(folder, toml=toml, **ON) as server:
        await server.line("The chat page is ")
        async with Browser(page_url(server), **headers) as browser:
            yield server, browser


def messages_of(conversation_id: str) -> str:
    return f"/api/page/conversations/{conversation_id}/messages"


def new_conversation() -> str:
    return str(uuid.uuid4())


async def shown(browser: Browser, conversation_id: str) -> list[tuple[str, str]]:
    """The messages of a conversation, as a reloaded page shows them."""
    answer = await browser.call("GET", messages_of(conversation_id))
    assert answer.status_code == 200, answer.text
    return [(each["role"], each["text"]) for each in answer.json()["messages"]]


async def test_a_message_is_answered_and_shown_after_a_reload(tmp_path) -> None:
    async with open_page(tmp_path) as (server, browser):
        assert (await browser.call("GET", "/api/page/config")).json()["login"] == "none"
        (model,) = (await browser.call("GET", "/api/page/models")).json()["models"]
        assert model["id"] == "scripted"
        conversation_id, question = new_conversation(), script("It is stored.", delay_s=0)
        events = await browser.events("POST", messages_of(conversation_id), {"text": question})
        assert [events[0]["type"], events[-1]["type"]] == ["reply", "finished"]
        assert text_of(events) == "It is stored."
        assert await shown(browser, conversation_id) == [("user", question), ("assistant", "It is stored.")]
        assert server.rows("SELECT count(*) FROM reply") == [(1,)]


async def test_the_page_is_served_with_its_content_security_policy(tmp_path) -> None:
    async with open_page(tmp_path) as (_, browser):
        for path in ("/", f"/c/{new_conversation()}"):
            answer = await browser.call("GET", path)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "script-src 'self'" in answer.headers["content-security-policy"]


async def test_an_api_key_is_asked_for_and_passed_on(tmp_path) -> None:
    toml = tenant("shop", "key-of-the-shop") + tenant("bank", "key-of-the-bank")
    async with open_page(tmp_path, toml=toml) as (server, browser):
        assert (await browser.call("GET", "/api/page/config")).json()["login"] == "api_key"
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic key-of-the-shop"}):
            refused = await browser.call("GET", "/api/page/conversations", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
            assert refused.headers["www-authenticate"] == "Bearer"
        conversation_id, shop = new_conversation(), {"Authorization": "Bearer key-of-the-shop"}
        body = {"text": script("Hello.", delay_s=0)}
        events = await browser.events("POST", messages_of(conversation_id), body, headers=shop)
        assert text_of(events) == "Hello."
        assert server.rows("SELECT tenant FROM reply") == [("shop",)]
        for key, count in (("key-of-the-shop", 1), ("key-of-the-bank", 0)):
            listed = await browser.call("GET", "/api/page/conversations", headers={"Authorization": f"Bearer {key}"})
            assert len(listed.json()["conversations"]) == count
        assert "key-of-the-shop" not in server.output


async def test_requests_with_different_keys_at_the_same_time_keep_their_own(tmp_path) -> None:
    names = [f"t{number}" for number in range(8)]
    toml = "".join(tenant(name, f"key-of-{name}") for name in names)
    async with open_page(tmp_path, toml=toml) as (server, browser):

        async def ask(name: str) -> None:
            body = {"text": script(words(name, 5), delay_s=0.01)}
            headers = {"Authorization": f"Bearer key-of-{name}"}
            await browser.events("POST", messages_of(name + new_conversation()), body, headers=headers)

        await asyncio.gather(*(ask(name) for name in names for _ in range(2)))
        found = server.rows("SELECT tenant, substr(id, 1, 2) FROM conversation ORDER BY tenant")
        assert found == [(name, name) for name in names for _ in range(2)]


FOREIGN = {
    "a rebound name": {"Host": "attacker.example"},
    "a rebound name with our port": {"Host": "attacker.example:8080"},
    "another origin": {"Origin": "http://attacker.example"},
    "no origin": {"Origin": "null"},
    "another site": {"Sec-Fetch-Site": "cross-site"},
    "another port of this host": {"Sec-Fetch-Site": "same-site"},
}


async def test_requests_of_other_websites_are_refused(tmp_path) -> None:
    async with open_page(tmp_path) as (server, browser):
        conversation_id = new_conversation()
        for what, headers in FOREIGN.items():
            sent = await browser.call("POST", messages_of(conversation_id), {"text": "Hi"}, headers=headers)
            assert (sent.status_code, sent.json()["code"]) == (403, "FORBIDDEN"), what
            read = await browser.call("GET", "/api/page/conversations", headers=headers)
            assert read.status_code == 403, what
        assert (await browser.call("GET", "/", headers={"Host": "attacker.example"})).status_code == 403
        form = {"Content-Type": "text/plain"}
        body = b'{"text": "Hi"}'
        simple = await browser.http.post(messages_of(conversation_id), content=body, headers=form)
        assert (simple.status_code, simple.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert server.rows("SELECT count(*) FROM conversation") == [(0,)]
        own = {"Origin": str(browser.http.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
        assert (await browser.call("GET", "/api/page/conversations", headers=own)).status_code == 200


async def test_a_configured_host_is_served(tmp_path) -> None:
    async with ServerProcess(tmp_path, PARLEY_UI_HOSTS="chat.example, other.example", **ON) as server:
        await server.line("The chat page is ")
        own = {"Host": "Chat.example", "Origin": "https://chat.example"}
        async with Browser(page_url(server)) as browser:
            assert (await browser.call("GET", "/api/page/conversations", headers=own)).status_code == 200


async def test_streams_end_when_the_server_stops(tmp_path) -> None:
    async with open_page(tmp_path, toml=NO_GRACE) as (server, browser):
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
        assert endings == []
        assert "error" not in {event["level"] for event in server.events()}, server.output


async def test_a_browser_that_does_not_read_delays_the_stop_by_a_second(tmp_path) -> None:
    async with open_page(tmp_path, toml=NO_GRACE) as (server, browser):
        host, port = str(browser.http.base_url).removeprefix("http://").strip("/").split(":")
        body = b'{"text": "/script {\\"text\\": \\"' + b"x" * 500_000 + b'\\", \\"delay_s\\": 0}"}'
        head = f"POST {messages_of(new_conversation())} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        with socket.socket() as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.connect((host, int(port)))
            idle.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await until(lambda: asyncio.to_thread(server.rows, "SELECT 1 FROM reply"), "the reply has started")
            stopping_s = time.monotonic()
            assert await server.terminate() == 0
            assert time.monotonic() - stopping_s < 10.0


class TlsServer(ServerProcess):
    """A server whose port only clients with a certificate of its own can call."""

    async def ready(self) -> None:
        await self.line("The chat page is ")


async def test_the_page_works_beside_tls_with_client_certificates(tmp_path) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "own.key", "-days", "2"]
    make = [tool("openssl"), "req", "-x509", *key, "-out", "own.pem", "-subj", "/CN=parley.internal"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    tls = '[tls]\ncertificate = "own.pem"\nkey = "own.key"\nclient_ca = "own.pem"\n'
    async with TlsServer(tmp_path, toml=tls + tenant("shop", "key-of-the-shop"), **ON) as server:
        body, headers = {"text": script("Hello.", delay_s=0)}, {"Authorization": "Bearer key-of-the-shop"}
        async with Browser(page_url(server)) as browser:
            events = await browser.events("POST", messages_of(new_conversation()), body, headers=headers)
    assert text_of(events) == "Hello."


async def test_only_this_user_can_open_the_socket_of_grpc(tmp_path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    async with ServerProcess(tmp_path / "server", TMPDIR=str(folder), **ON) as server:
        (private,) = folder.iterdir()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert [each.name for each in private.iterdir()] == ["grpc"]
        assert await server.terminate() == 0
        assert list(folder.iterdir()) == []


@pytest.mark.timeout(120)
async def test_one_of_several_workers_serves_the_page_again_after_its_death(
    tmp_path, postgres_url, shared_redis
) -> None:
    urls = {"PARLEY_DATABASE_URL": postgres_url, "PARLEY_REDIS_URL": shared_redis.url()}
    listen = f"127.0.0.1:{free_port()}"
    async with Workers(tmp_path, urls, PARLEY_UI_LISTEN=listen) as server:
        await server.line("The chat page is ")
        assert page_url(server) == f"http://{listen}"
        assert [event["page"] for event in server.events("serving") if event.get("worker") == 0] == [
            f"http://{listen}/"
        ]
        assert [event for event in server.events("serving") if event.get("worker") == 1 and "page" in event] == []
        async with Browser(page_url(server)) as browser:
            conversation_id = new_conversation()
            await browser.events("POST", messages_of(conversation_id), {"text": script("Hello.", delay_s=0)})
            os.kill(server.pids()[0], signal.SIGKILL)

            async def is_back() -> bool:
                try:
                    return len(await shown(browser, conversation_id)) == 2
                except httpx2.TransportError:
                    return False

            await until(is_back, "the restarted worker serves the page", limit_s=40)


async def test_a_port_in_use_stops_the_start(tmp_path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        output = refusal(await asyncio.to_thread(command, tmp_path, "serve", "--ui-port", str(port)))
    assert output == f"parley serve: cannot serve the chat page on 127.0.0.1:{port}: the port is in use\n"


async def test_a_missing_extra_is_named(tmp_path) -> None:
    missing = 'raise ModuleNotFoundError("No module named uvicorn", name="uvicorn")\n'
    (tmp_path / "uvicorn.py").write_text(missing)
    output = refusal(await asyncio.to_thread(command, tmp_path, "serve", "--ui", PYTHONPATH=str(tmp_path)))
    assert output == (
        "parley serve: the chat page needs the package uvicorn, which pip install 'parley-server[ui]' adds\n"
    )
