"""What every product answers to requests that it cannot serve, and the page's files with their headers."""

from __future__ import annotations

import asyncio
import re
import time

import jwt
import pytest

from tests.products.backends import JWT_KEY
from tests.products.browsing import PAGE, new_key, shape
from tests.products.lanes import EACH

pytestmark = EACH

REFUSAL = {"message", "error", "code", "retryable"}
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
MANY_BYTES = 9 * 1024 * 1024
"""More than any product takes."""
NOT_OBJECTS = [b'{"content": "Hi"', b"", b"[]", b"null", b'"Hi"', b"7", b"\xff\xfe"]


def paths(stand, browser) -> list[str]:
    """The routes that read a body."""
    conversation = stand.wire.new_conversation()
    own, _ = stand.wire.request(browser, conversation, "Hi")
    return [own, f"{PAGE}/conversations/{conversation}/retry", f"{PAGE}/conversations/{conversation}/stop"]


@pytest.mark.parametrize("body", NOT_OBJECTS, ids=str)
async def test_a_body_that_is_no_json_object_is_400(stand, ada, body):
    for path in paths(stand, ada):
        headers = {"Content-Type": "application/json", "Idempotency-Key": new_key(), **stand.wire.headers}
        answer = await ada.call("POST", path, content=body, headers=headers)
        if path.endswith("/stop") and not body:
            assert answer.status_code in {400, 404, 409}, "its fields are optional"
            continue
        assert answer.status_code == 400, (path, answer.status_code, answer.text)
        assert shape(answer.json()) >= REFUSAL


@pytest.mark.parametrize("value", [None, 7, ["Hi"], {"a": "b"}, True, ""], ids=str)
async def test_a_question_that_is_no_text_is_400(stand, ada, value):
    path, body = stand.wire.request(ada, stand.wire.new_conversation(), "the question")
    body = {name: value if each == "the question" else each for name, each in body.items()}
    headers = {"Idempotency-Key": new_key(), **stand.wire.headers}
    answer = await ada.call("POST", path, json=body, headers=headers)
    assert answer.status_code == 400, (path, answer.status_code, answer.text)
    shape(answer.json())


async def test_a_body_that_is_too_large_is_413(stand, ada):
    path, body = stand.wire.request(ada, stand.wire.new_conversation(), "x" * MANY_BYTES)
    answer = await ada.call("POST", path, json=body, headers={"Idempotency-Key": new_key(), **stand.wire.headers})
    assert answer.status_code == 413, answer.text
    shape(answer.json())


async def test_a_text_that_parley_refuses_as_too_long_is_413(stand, ada):
    """Either the product's own limit or that of Parley, 2 MiB."""
    path, body = stand.wire.request(ada, stand.wire.new_conversation(), "x" * (2 * 1024 * 1024 + 1))
    answer = await ada.call("POST", path, json=body, headers={"Idempotency-Key": new_key(), **stand.wire.headers})
    assert answer.status_code == 413, answer.text
    shape(answer.json())


@pytest.mark.parametrize("path", ["/api/nope", f"{PAGE}/nope", f"{PAGE}/conversations/x/nope", "/nope.php"])
async def test_an_unknown_route_is_404(ada, path):
    answer = await ada.call("GET", path)
    assert answer.status_code == 404, answer.text
    assert shape(answer.json()) >= REFUSAL


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", f"{PAGE}/conversations"), ("POST", f"{PAGE}/config"), ("GET", f"{PAGE}/conversations/x/stop")],
)
async def test_a_wrong_method_is_405(ada, method, path):
    answer = await ada.call(method, path, json=None if method == "GET" else {})
    assert answer.status_code == 405, answer.text
    assert shape(answer.json()) >= REFUSAL


def tokens(user: str) -> dict[str, str]:
    """Tokens that are not valid, by their fault."""
    now = int(time.time())
    claims = {"sub": user, "exp": now + 600}
    good = jwt.encode(claims, JWT_KEY, "HS256")
    head, body, signature = good.split(".")
    return {
        "none": "",
        "no token": "nonsense",
        "of another key": jwt.encode(claims, JWT_KEY[::-1], "HS256"),
        "expired": jwt.encode({**claims, "exp": now - 120}, JWT_KEY, "HS256"),
        "without an end": jwt.encode({"sub": user}, JWT_KEY, "HS256"),
        "without a user": jwt.encode({"exp": now + 600}, JWT_KEY, "HS256"),
        "of an empty user": jwt.encode({**claims, "sub": ""}, JWT_KEY, "HS256"),
        "unsigned": jwt.encode(claims, None, "none"),
        "of another algorithm": jwt.encode(claims, JWT_KEY, "HS512"),
        "changed": f"{head}.{jwt.encode({**claims, 'sub': 'root'}, JWT_KEY, 'HS256').split('.')[1]}.{signature}",
        "cut": f"{head}.{body}.",
    }


async def test_without_a_valid_token_every_route_is_401(stand, ada):
    own, body = stand.wire.request(ada, stand.wire.new_conversation(), "Hi")
    for fault, token in tokens(ada.user).items():
        if token:
            ada.use_token(token)
        else:
            ada.forget_token()
        answers = [
            await ada.call("GET", f"{PAGE}/conversations"),
            await ada.call("POST", own, json=body, headers={"Idempotency-Key": new_key(), **stand.wire.headers}),
        ]
        for answer in answers:
            assert answer.status_code == 401, (fault, answer.status_code, answer.text)
            assert shape(answer.json()) >= REFUSAL
            assert answer.json()["code"] == "UNAUTHENTICATED"


async def test_a_user_that_the_browser_names_in_a_header_does_not_count(stand, ada, ben, model):
    conversation = stand.wire.new_conversation()
    await stand.wire.ask(ada, conversation)
    answer = await ben.call("GET", f"{PAGE}/conversations/{conversation}", headers={"x-end-user": ada.user})
    assert answer.status_code == 404


async def test_the_page_is_served_with_its_policy_at_both_addresses(stand, ada):
    ada.forget_token()
    for path in ("/", "/c/some-conversation"):
        answer = await ada.call("GET", path)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].replace(" ", "").lower() == "text/html;charset=utf-8"
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"
        assert "<title>" in answer.text


async def test_files_of_the_page_can_be_kept_for_ever(stand, ada):
    html = (await ada.call("GET", "/")).text
    name = found[0] if (found := re.findall(r"/assets/[\w.-]+\.js", html)) else "/assets/page-1a2b.js"
    answer = await ada.call("GET", name)
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].split(";")[0] in {"text/javascript", "application/javascript"}
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/assets/no-such.js",
        "/assets/",
        "/assets/..%2f..%2fsecret.txt",
        "/assets/%2e%2e/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
    ],
)
async def test_nothing_outside_the_page_is_served(stand, ada, path):
    answer = await ada.call("GET", path)
    assert answer.status_code in {400, 404}, answer.text
    assert "a secret file" not in answer.text


async def test_many_requests_at_once_are_all_answered(stand, ada, model):
    answers = await asyncio.gather(*(stand.wire.ask(ada, stand.wire.new_conversation()) for _ in range(8)))
    assert answers == ["Hello, world"] * 8
