"""`examples/roleplay`: what `tests/products/test_s1.py` does not show of rows S1.1 to S1.12."""

import asyncio
import subprocess
import sys

import grpc
import pytest
from parley.v1 import admin_pb2, resources_pb2

from tests import scripted_server
from tests.processes import PARLEY, clean_environment, until
from tests.products.backends import EXAMPLES, Backend, Product
from tests.products.browsing import Browser
from tests.scripted_server import Cut, accepted, failed, finished, reply_error, text, texts
from tests.upstream import Hang, Script, answer, refusal, role
from tests.upstream import text as chunk_text

SETTINGS = "/api/settings/openrouter-key"
ANALYTICS = "/api/analytics/cancellations"
SEND = "/api/chat-sessions/7/send-message"
MODEL = """
[providers.openrouter]
kind = "openai"
profile = "openrouter"
base_url = "{url}"
api_key = "stored"
retries = 0
[models.chat]
provider = "openrouter"
name = "vendor/chat"
context_tokens = 8000
[models.other]
provider = "openrouter"
name = "vendor/other"
context_tokens = 8000
[server]
default_model = "chat"
max_readers_per_reply = 2
"""
ENCRYPTION_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
STORED = "sk-or-of-the-tests-1a2b"


@pytest.fixture
def roleplay(start, upstream):
    """The application beside a real Parley, whose OpenRouter is `upstream`. No key is stored."""
    return start("roleplay", MODEL.format(url=upstream.url), parley={"PARLEY_ENCRYPTION_KEYS": ENCRYPTION_KEY})


@pytest.fixture
async def scripted(tmp_path):
    """A scripted Parley, and a browser of the application in front of it."""
    async with scripted_server.running(with_proxy=True) as server:
        server.unary["CreateConversation"] = [resources_pb2.Conversation(id="7")]
        backend = Backend("roleplay", tmp_path / "roleplay", server.address)
        await asyncio.to_thread(backend.start)
        try:
            product = Product("roleplay", backend.url, backend, None)
            async with Browser(product, "ada") as browser:
                yield server, browser
        finally:
            await asyncio.to_thread(backend.kill)


async def is_stored(folder, content):
    """Whether a file of Parley's database has the text."""
    return any(content in file.read_bytes() for file in folder.glob("parley.db*"))


async def sent(browser):
    async with browser.events("POST", SEND, json={"content": "Hi"}) as events:
        return await events.rest()


async def test_s1_1_and_s1_2_without_a_key_the_error_says_so_and_a_stored_key_is_used_at_once(roleplay, upstream):
    upstream.reply_with(lambda request: refusal(200, {"data": {}}) if request.method == "GET" else answer("Aye"))
    async with roleplay.browser("ada") as ada, roleplay.browser("eve", operator=True) as operator:
        assert await operator.get(SETTINGS) == {"hint": None}
        (failure,) = await sent(ada)
        assert (failure["type"], failure["code"]) == ("error", "PROVIDER_UNAUTHENTICATED")
        stored = await operator.call("PUT", SETTINGS, json={"api_key": STORED})
        assert (stored.status_code, stored.json()) == (200, {"hint": "1a2b"})
        assert (await sent(ada))[-1] == {"type": "done"}
        assert upstream.requests[-1].headers["authorization"] == f"Bearer {STORED}"

        for path, body in ((SETTINGS, {"api_key": STORED}), (SETTINGS, None), (ANALYTICS, None)):
            refused = await ada.call("PUT" if body else "GET", path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")

        session = {"ai_model": {"label": "other"}, "character": {"description": "A cat."}, "title": "Cat"}
        made = await ada.call("POST", "/api/chat-sessions", json=session)
        assert made.status_code == 201
        path = f"/api/chat-sessions/{made.json()['id']}/send-message"
        whole = await ada.call("POST", path, json={"content": "Meow?", "stream": False})
        assert whole.json()["ai_message"]["content"] == "Aye"
        asked = upstream.requests[-1].json
        assert asked["model"] == "vendor/other"
        sections = asked["messages"][0]["content"].split("\n---\n")
        assert (len(sections), sections[2]) == (4, "A cat.")
        assert (await ada.get("/api/page/conversations"))["conversations"][0]["title"] == "Cat"


async def test_s1_6_the_session_of_another_user_is_404_and_ids_are_integers(roleplay):
    async with roleplay.browser("ada") as ada, roleplay.browser("ben") as ben:
        await sent(ada)
        for method, action in (("POST", "send-message"), ("GET", "stream"), ("POST", "cancel-message")):
            body = {"content": "Hi"} if action == "send-message" else None
            foreign = await ben.call(method, f"/api/chat-sessions/7/{action}", json=body)
            assert (foreign.status_code, foreign.json()["code"]) == (404, "CONVERSATION_NOT_FOUND")
            for session in ("0", "-1", "x", "1.5", str(2**53)):
                wrong = await ada.call(method, f"/api/chat-sessions/{session}/{action}", json=body)
                assert (wrong.status_code, wrong.json()["code"]) == (400, "BAD_REQUEST"), session
        empty = await ada.call("POST", SEND, json={"content": ""})
        assert (empty.status_code, empty.json()["message"][:8]) == (400, "content:")


async def test_s1_8_and_s1_10_every_answer_has_a_limit_of_time_and_one_without_watchers(scripted):
    parley, browser = scripted
    parley.scripts.extend([[accepted(), finished(1)], [accepted(), finished(1)]])
    await sent(browser)
    async with browser.retry("7", "message-2") as events:
        await events.rest()
    requests = [call.request for call in parley.calls if call.method == "StreamReply"]
    assert [(each.orphan_ttl.seconds, each.time_limit.seconds) for each in requests] == [(300, 300)] * 2


@pytest.mark.parametrize(
    ("finish", "given", "reason"),
    [
        ("CANCELLED", "user_cancelled", "user_cancelled"),
        ("CANCELLED", "", "user_cancelled"),
        ("ORPHANED", "", "no_connections"),
        ("INTERRUPTED", "", "interrupted"),
        ("TIME_LIMIT", "", "time_limit"),
    ],
)
async def test_s1_9_and_s1_10_watchers_see_why_an_answer_was_cancelled(load, finish, given, reason):
    wire = load("roleplay", "wire")
    end = wire.Finished(reason=finish, text="half", cancel_reason=given)
    assert wire.events(end) == {"type": "cancelled", "reason": reason}
    assert wire.events(wire.Finished(reason="MAX_TOKENS", text="")) == {"type": "done"}


async def test_s1_10_maintenance_shows_as_a_notice_and_the_answer_continues(scripted):
    parley, browser = scripted
    parley.log = [*texts("One ", "two"), finished(3)]
    draining = scripted_server.refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", retryable=True)
    parley.cuts.extend([Cut(after=2, how=draining), Cut(after=0, how=draining)])
    events = await sent(browser)
    assert events == [
        {"type": "content", "data": "One "},
        {"type": "notice", "message": "The server is being restarted. The answer continues in a moment."},
        {"type": "content", "data": "two"},
        {"type": "done"},
    ]


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_s1_10_and_s1_12_a_restart_of_parley_keeps_the_text_and_tells_the_watchers(start, upstream, how):
    toml = MODEL.format(url=upstream.url).replace('"stored"', '"env:UPSTREAM_KEY"') + "drain_grace_s = 0\n"
    product = start("roleplay", toml, parley={"UPSTREAM_KEY": STORED}).product
    upstream.reply_next(Script([role(), chunk_text("One "), Hang()]))
    async with Browser(product, "ada") as ada:
        async with ada.events("POST", SEND, json={"content": "Count"}) as events:
            assert await events.next() == {"type": "content", "data": "One "}
            await until(lambda: is_stored(product.parley.folder, b"One "), "the text is durable")
            await asyncio.to_thread(getattr(product.parley, how))
            await asyncio.to_thread(product.parley.start)
            _, *notices, last = await events.rest()
        # After a clean stop the reply has ended before the connection does.
        assert [each["type"] for each in notices] == (["notice"] if how == "kill" else [])
        assert (last["type"], last["code"], last["retryable"]) == ("error", "OWNER_LOST", True)
        question, partial = await ada.messages("7")
        assert (question["text"], partial["text"], partial["partial"]) == ("Count", "One ", True)
        async with ada.retry("7", partial["id"]) as events:
            assert (await events.rest())[-1]["type"] == "finished"
        assert [message["text"] for message in await ada.messages("7")] == ["Count", "Hello, world"]


def test_s1_11_cancellations_are_summed_by_reason(load):
    reply, finish = resources_pb2.Reply, resources_pb2.FinishReason.Value
    rows = [
        admin_pb2.UsageRow(state=reply.STATE_COMPLETED, finish_reason=finish("FINISH_REASON_STOP"), replies=6),
        admin_pb2.UsageRow(finish_reason=finish("FINISH_REASON_CANCELLED"), replies=3, mean_text_length=10.0),
        admin_pb2.UsageRow(finish_reason=finish("FINISH_REASON_ORPHANED"), replies=1, mean_text_length=50.0),
    ]
    wire = load("roleplay", "wire")
    assert wire.cancellations(rows) == {
        "replies": 10,
        "cancelled": 4,
        "rate": 0.4,
        "mean_text_length": 20.0,
        "reasons": [
            {"reason": "CANCELLED", "replies": 3, "mean_text_length": 10.0},
            {"reason": "ORPHANED", "replies": 1, "mean_text_length": 50.0},
        ],
    }
    assert wire.cancellations([])["rate"] == 0.0


async def test_s1_12_a_failure_is_an_event_with_a_code(scripted):
    parley, browser = scripted
    error = reply_error(
        grpc.StatusCode.ABORTED, "PROVIDER_MALFORMED", message="The answer is unreadable.", retryable=True
    )
    parley.scripts.append([accepted(), text(1, "half"), failed(2, error)])
    assert (await sent(browser))[-1] == {
        "type": "error",
        "error": "The answer is unreadable.",
        "code": "PROVIDER_MALFORMED",
        "retryable": True,
    }


async def test_s1_12_the_example_client_reconnects_and_prints_the_answer_once(scripted):
    parley, browser = scripted
    parley.scripts.append([accepted(), text(1, "One "), scripted_server.Wait(asyncio.Event())])
    parley.log = [*texts("One ", "two"), finished(3)]
    token = browser.product.token("ada")
    client = await asyncio.create_subprocess_exec(
        sys.executable, "client.py", browser.product.url, token, "7", "Hi",
        cwd=EXAMPLES / "roleplay", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        assert await client.stdout.readexactly(4) == b"One "
        await asyncio.to_thread(browser.product.restart)
        rest = await client.stdout.read()
        assert await client.wait() == 0
    assert rest.decode() == "two\n[done] \n"


async def test_s1_12_the_openapi_document_has_every_answer(scripted):
    _, browser = scripted
    document = await browser.get("/openapi.json")
    send = document["paths"]["/api/chat-sessions/{session_id}/send-message"]["post"]["responses"]
    assert set(send) == {"200", "400", "401", "404", "409", "413", "429", "503", "default"}
    (kinds,) = (kind["schema"]["oneOf"] for name, kind in send["200"]["content"].items() if "event" in name)
    assert [kind["properties"]["type"]["const"] for kind in kinds] == [
        "content",
        "notice",
        "done",
        "cancelled",
        "error",
    ]
    refusal_schema = send["409"]["content"]["application/json"]["schema"]
    assert set(refusal_schema["required"]) == {"message", "error", "code", "retryable"}
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]


def test_the_configuration_of_parley_is_valid():
    checked = subprocess.run(
        [PARLEY, "check", "--config", str(EXAMPLES / "roleplay/parley.toml")],
        env=clean_environment(PARLEY_ENCRYPTION_KEYS=ENCRYPTION_KEY),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
