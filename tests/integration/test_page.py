"""The chat page of `--ui` and its routes over real HTTP: who may call them, and as whom."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import parley
from parley_server.app import App
from parley_server.settings import load_settings

from tests.integration.process.watching import script, words
from tests.integration.served import tenant
from tests.tools import tool
from tests.web import Browser, text_of

CONVERSATIONS = "/api/page/conversations"


@asynccontextmanager
async def open_page(folder: Path, *, toml: str = "", **environment: str) -> AsyncIterator[tuple[App, Browser]]:
    """A server with the page, and a browser on it."""
    config = folder / "parley.toml"
    config.write_text(toml)
    given = {
        "PARLEY_CONFIG": str(config),
        "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'parley.db'}",
        "PARLEY_LISTEN": "127.0.0.1:0",
        "PARLEY_METRICS_LISTEN": "",
        "PARLEY_UI_LISTEN": "127.0.0.1:0",
    }
    app = App(load_settings(given | environment))
    await app.start()
    try:
        async with Browser(app.page_url) as browser:
            yield app, browser
    finally:
        await app.stop(grace_s=0.0)


def messages_of(conversation_id: str) -> str:
    return f"{CONVERSATIONS}/{conversation_id}/messages"


def new_conversation() -> str:
    return str(uuid.uuid4())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def conversations(browser: Browser, **headers: str) -> list[dict[str, Any]]:
    answer = await browser.call("GET", CONVERSATIONS, headers=headers)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["conversations"])


async def test_a_message_is_answered_and_shown_after_a_reload(tmp_path) -> None:
    async with open_page(tmp_path) as (_, browser):
        config = (await browser.call("GET", "/api/page/config")).json()
        assert (config["wire"], config["login"], config["images"]) == ("page", "none", True)
        (model,) = (await browser.call("GET", "/api/page/models")).json()["models"]
        assert model["id"] == "scripted"
        conversation_id, question = new_conversation(), script("It is stored.", delay_s=0)
        events = await browser.events("POST", messages_of(conversation_id), {"text": question})
        assert [events[0]["type"], events[-1]["type"]] == ["reply", "finished"]
        assert text_of(events) == "It is stored."
        stored = (await browser.call("GET", messages_of(conversation_id))).json()["messages"]
        assert [(each["role"], each["text"]) for each in stored] == [("user", question), ("assistant", "It is stored.")]


async def test_the_page_shows_what_clients_of_grpc_have_asked(tmp_path) -> None:
    async with open_page(tmp_path) as (app, browser):
        async with parley.Client(f"127.0.0.1:{app.port}") as client:
            reply = await client.create_reply(script("By gRPC.", delay_s=0))
        assert [each["id"] for each in await conversations(browser)] == [reply.conversation_id]


async def test_the_page_is_served_with_its_content_security_policy(tmp_path) -> None:
    async with open_page(tmp_path) as (_, browser):
        for path in ("/", f"/c/{new_conversation()}"):
            answer = await browser.call("GET", path)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "script-src 'self'" in answer.headers["content-security-policy"]


async def test_an_api_key_is_asked_for_and_passed_on(tmp_path) -> None:
    toml = tenant("shop", "key-of-the-shop") + tenant("bank", "key-of-the-bank")
    async with open_page(tmp_path, toml=toml) as (_, browser):
        assert (await browser.call("GET", "/api/page/config")).json()["login"] == "api_key"
        wrong = ({}, bearer("wrong"), {"Authorization": "Basic key-of-the-shop"}, {"Authorization": b"Bearer \x80"})
        for headers in wrong:
            refused = await browser.call("GET", CONVERSATIONS, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
            assert refused.headers["www-authenticate"] == "Bearer"
        body = {"text": script("Hello.", delay_s=0)}
        events = await browser.events("POST", messages_of("of-the-shop"), body, headers=bearer("key-of-the-shop"))
        assert text_of(events) == "Hello."
        assert [each["id"] for each in await conversations(browser, **bearer("key-of-the-shop"))] == ["of-the-shop"]
        assert await conversations(browser, **bearer("key-of-the-bank")) == []


async def test_requests_with_different_keys_at_the_same_time_keep_their_own(tmp_path) -> None:
    names = [f"tenant-{number}" for number in range(8)]
    toml = "".join(tenant(name, f"key-of-{name}") for name in names)
    async with open_page(tmp_path, toml=toml) as (_, browser):

        async def ask(name: str) -> None:
            body = {"text": script(words(name, 5), delay_s=0.01)}
            path = messages_of(f"{name}-{new_conversation()}")
            events = await browser.events("POST", path, body, headers=bearer(f"key-of-{name}"))
            assert text_of(events) == words(name, 5)

        await asyncio.gather(*(ask(name) for name in names for _ in range(2)))
        for name in names:
            listed = await conversations(browser, **bearer(f"key-of-{name}"))
            assert [each["id"].startswith(name) for each in listed] == [True, True]


FOREIGN = {
    "a rebound name": {"Host": "attacker.example"},
    "a rebound name with our port": {"Host": "attacker.example:8080"},
    "another origin": {"Origin": "http://attacker.example"},
    "no origin": {"Origin": "null"},
    "another site": {"Sec-Fetch-Site": "cross-site"},
    "another port of this host": {"Sec-Fetch-Site": "same-site"},
}


async def test_requests_of_other_websites_are_refused(tmp_path) -> None:
    async with open_page(tmp_path) as (_, browser):
        for what, headers in FOREIGN.items():
            sent = await browser.call("POST", messages_of("foreign"), {"text": "Hi"}, headers=headers)
            assert (sent.status_code, sent.json()["code"]) == (403, "FORBIDDEN"), what
            assert (await browser.call("GET", CONVERSATIONS, headers=headers)).status_code == 403, what
        assert (await browser.call("GET", "/", headers={"Host": "attacker.example"})).status_code == 403
        # What a form of another website can send without a preflight request, in a browser without Sec-Fetch-Site.
        form = {"Content-Type": "text/plain"}
        simple = await browser.http.post(messages_of("foreign"), content=b'{"text": "Hi"}', headers=form)
        assert (simple.status_code, simple.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert await conversations(browser) == []
        origin = str(browser.http.base_url).rstrip("/")
        assert await conversations(browser, Origin=origin, **{"Sec-Fetch-Site": "same-origin"}) == []


async def test_another_address_of_loopback_is_served(tmp_path) -> None:
    async with open_page(tmp_path, PARLEY_UI_LISTEN="127.8.9.1:0") as (app, browser):
        assert app.page_url.startswith("http://127.8.9.1:")
        assert await conversations(browser) == []


async def test_a_configured_host_is_served(tmp_path) -> None:
    async with open_page(tmp_path, PARLEY_UI_HOSTS="chat.example, other.example") as (_, browser):
        assert await conversations(browser, Host="Chat.example", Origin="https://chat.example") == []


async def test_the_page_works_beside_tls_with_client_certificates(tmp_path) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "own.key", "-days", "2"]
    make = [tool("openssl"), "req", "-x509", *key, "-out", "own.pem", "-subj", "/CN=parley.internal"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    tls = '[tls]\ncertificate = "own.pem"\nkey = "own.key"\nclient_ca = "own.pem"\n'
    async with open_page(tmp_path, toml=tls + tenant("shop", "key-of-the-shop")) as (_, browser):
        body, headers = {"text": script("Hello.", delay_s=0)}, bearer("key-of-the-shop")
        assert text_of(await browser.events("POST", messages_of(new_conversation()), body, headers=headers)) == "Hello."


async def test_a_body_that_is_too_large_is_refused(tmp_path) -> None:
    async with open_page(tmp_path) as (_, browser):
        for size, code in ((2 * 1024 * 1024 + 1, "INPUT_TOO_LARGE"), (6 * 1024 * 1024, "TOO_LARGE")):
            refused = await browser.call("POST", messages_of("large"), {"text": "x" * size})
            assert (refused.status_code, refused.json()["code"]) == (413, code)
