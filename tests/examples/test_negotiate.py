"""`examples/negotiate`: what `tests/products/test_s4.py` does not show of rows S4.1 to S4.5."""

import subprocess
import sys
import time

import grpc
import jwt
import parley
import pytest
from parley.asgi import TextReplaced
from parley.errors import BY_REASON

from tests.processes import clean_environment
from tests.products.backends import EXAMPLES, JWT_KEY
from tests.upstream import Hang, Script, answer

MESSAGES = "/api/v1/messages"
EVENTS = {"Accept": "text/event-stream"}
MODEL = """
[providers.up]
kind = "openai"
base_url = "{url}"
retries = 0
timeouts = {{ first_token = 0.3 }}
[models.chat]
provider = "up"
name = "vendor/test-1"
context_tokens = 8000
max_output_tokens = 100
[server]
default_model = "chat"
"""
CODES = {
    "RATE_LIMITED": "RATE_LIMIT",
    "PROVIDER_RATE_LIMITED": "RATE_LIMIT",
    "QUOTA_EXCEEDED": "QUOTA",
    "UNAUTHENTICATED": "AUTH",
    "FORBIDDEN": "AUTH",
    "PROVIDER_UNAUTHENTICATED": "AUTH",
    "PROVIDER_TIMEOUT": "STREAM_TIMEOUT",
}
OWN_REASON = parley.errors.InvalidRequest, parley.NotFound, parley.errors.AlreadyExists, parley.ReplyInProgress


async def test_s4_1_an_operator_can_switch_streaming_off(start, upstream):
    product = start("negotiate", MODEL.format(url=upstream.url), STREAMING="off")
    async with product.browser() as ada:
        whole = await ada.call("POST", MESSAGES, json={"message": "Hi"}, headers=EVENTS)
        assert whole.headers["content-type"] == "application/json"
        assert whole.json() == {"content": "Hello, world", "model": "chat", "totalTokens": 12}


async def test_s4_1_a_conversation_id_continues_a_stored_conversation_of_the_same_user(start, upstream):
    product = start("negotiate", MODEL.format(url=upstream.url))
    async with product.browser("ada") as ada, product.browser("ben") as ben:
        for message in ("first", "second"):
            await ada.call("POST", MESSAGES, json={"message": message, "conversation_id": "c1"})
        roles = [(each["role"], each["content"]) for each in upstream.requests[1].json["messages"]]
        assert roles == [("user", "first"), ("assistant", "Hello, world"), ("user", "second")]
        shown = (await ada.call("GET", "/api/page/conversations")).json()["conversations"]
        assert [(each["id"], each["title"]) for each in shown] == [("c1", "first")]

        foreign = await ben.call("POST", MESSAGES, json={"message": "Hi", "conversation_id": "c1"})
        assert (foreign.status_code, foreign.json()["code"]) == (404, "CONVERSATION_NOT_FOUND")
        history = [{"role": "user", "content": "Hi"}]
        both = await ada.call("POST", MESSAGES, json={"message": "Hi", "conversation_id": "c1", "history": history})
        assert (both.status_code, both.json()["code"]) == (400, "BAD_REQUEST")
        assert both.json()["message"].startswith("history: ")
        assert len(upstream.requests) == 2


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_s4_4_a_model_without_a_first_token_in_time_is_a_stream_timeout(start, upstream, accept):
    upstream.reply_with(Script([Hang()]))
    product = start("negotiate", MODEL.format(url=upstream.url))
    async with product.browser() as ada:
        if accept == "application/json":
            whole = await ada.call("POST", MESSAGES, json={"message": "Hi"}, headers={"Accept": accept})
            assert whole.status_code == 502
            last = whole.json()
        else:
            async with ada.events("POST", MESSAGES, json={"message": "Hi"}, headers=EVENTS) as events:
                (last,) = await events.rest()
    sentence = "The model has not answered in time. Please try again."
    expected = {"message": sentence, "error": sentence, "code": "STREAM_TIMEOUT", "retryable": True}
    assert {name: last[name] for name in expected} == expected


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
@pytest.mark.parametrize(
    ("limit", "code"),
    [("limits = { messages_per_minute = 1 }", "RATE_LIMIT"), ("quotas = { tokens_per_day = 150 }", "QUOTA")],
)
async def test_s4_4_limits_of_parley_are_429_with_a_wait(start, upstream, accept, limit, code):
    product = start("negotiate", MODEL.format(url=upstream.url) + f"[tenants.default]\n{limit}\n")
    async with product.browser() as ada:
        statuses = []
        for number in range(2):
            message = "x" * (400 * number + 1)
            last = await ada.call("POST", MESSAGES, json={"message": message}, headers={"Accept": accept})
            statuses.append(last.status_code)
        assert statuses == [200, 429]
        assert (last.json()["code"], last.json()["retryable"]) == (code, code == "RATE_LIMIT")
        assert int(last.headers["retry-after"]) >= 1


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_s4_4_every_reason_has_a_code(load, reason):
    error = BY_REASON[reason]("Parley's words.", reason=reason, code=grpc.StatusCode.ABORTED, retryable=True)
    shown = load("negotiate", "codes").error_json(error)
    is_own = isinstance(error, OWN_REASON)
    assert shown["code"] == (reason if is_own else CODES.get(reason, "LLM_ERROR"))
    assert (shown["message"] == "Parley's words.") == is_own
    assert shown["error"] == shown["message"]


def test_s4_4_an_account_without_credit_is_a_quota_and_replaced_text_has_its_own_code(load):
    codes = load("negotiate", "codes")
    assert codes.error_json(parley.ReplyFailed("no", reason="PROVIDER_RATE_LIMITED"))["code"] == "QUOTA"
    assert codes.error_json(TextReplaced())["code"] == "TEXT_REPLACED"


async def test_a_token_must_be_signed_valid_and_named(start, upstream):
    product = start("negotiate", MODEL.format(url=upstream.url))
    soon = int(time.time()) + 60
    wrong = [
        jwt.encode({"sub": "ada", "exp": soon}, "another key that is long enough for it", "HS256"),
        jwt.encode({"sub": "ada", "exp": soon - 120}, JWT_KEY, "HS256"),
        jwt.encode({"sub": "ada"}, JWT_KEY, "HS256"),
        jwt.encode({"exp": soon}, JWT_KEY, "HS256"),
        jwt.encode({"sub": "ada\n", "exp": soon}, JWT_KEY, "HS256"),
        jwt.encode({"sub": "ädä", "exp": soon}, JWT_KEY, "HS256"),
        jwt.encode({"sub": "ada", "exp": soon}, None, "none"),
        "no-token",
    ]
    async with product.browser() as ada:
        for token in wrong:
            headers = {"Authorization": f"Bearer {token}"}
            refused = await ada.call("POST", MESSAGES, json={"message": "Hi"}, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED"), token
    assert not upstream.requests


@pytest.mark.parametrize("demo", ["on", "off"])
async def test_the_demo_login_is_off_by_default(start, upstream, demo):
    upstream.reply_with(answer("Hello"))
    product = start("negotiate", MODEL.format(url=upstream.url), **({"CHAT_DEMO_LOGIN": "on"} if demo == "on" else {}))
    async with product.browser() as ada:
        config = (await ada.call("GET", "/api/page/config")).json()
        assert config == {
            "wire": "negotiate",
            "title": "Negotiate",
            "login": "demo" if demo == "on" else "token",
            "images": False,
        }
        login = await ada.call("POST", "/api/login", json={"name": "eve"})
        if demo == "off":
            assert (login.status_code, login.json()["code"]) == (404, "NOT_FOUND")
            return
        token = {"Authorization": f"Bearer {login.json()['token']}"}
        assert (await ada.call("POST", MESSAGES, json={"message": "Hi"}, headers=token)).status_code == 200
        assert (await ada.call("POST", "/api/login", json={"name": "e v e"})).status_code == 400


def test_a_short_key_for_tokens_is_refused_at_the_start():
    ended = subprocess.run(
        [sys.executable, "app.py"],
        cwd=EXAMPLES / "negotiate",
        env=clean_environment(CHAT_JWT_KEY="short"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("CHAT_JWT_KEY: must have at least 32 bytes")
