"""Refusals of the page's routes as HTTP statuses with JSON, from a real server and from scripted answers."""

import grpc
import parley
import parley.asgi
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route

from tests import scripted_server
from tests.ports import free_port
from tests.upstream import answer
from tests.web import Browser, served

ONE = "/api/page/conversations/c1"
CODES = grpc.StatusCode


def body(message, code, *, retryable=False):
    return {"message": message, "error": message, "code": code, "retryable": retryable}


async def refused(answer):
    return answer.status_code, answer.json()["code"]


@pytest.fixture
async def scripted():
    async with scripted_server.running() as server:
        server.unary["CreateConversation"] = [parley.v1.resources_pb2.Conversation(id="c1")]
        yield server


async def send(address, *, browser_credential=False, backoff=None):
    """The answer to a message that is sent through an application in front of this server."""
    async with parley.Client(address, backoff=backoff) as client:
        config = parley.asgi.PageConfig(wire="page", title="Test")
        app = Starlette(
            routes=parley.asgi.page_routes(lambda _: client, config, sends=True),
            exception_handlers=parley.asgi.exception_handlers(browser_credential=browser_credential),
        )
        async with served(app) as url, Browser(url) as browser:
            return await browser.call("POST", f"{ONE}/messages", {"text": "Hi"})


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (CODES.INVALID_ARGUMENT, "INVALID_REQUEST", 400),
        (CODES.INVALID_ARGUMENT, "INPUT_TOO_LARGE", 413),
        (CODES.INVALID_ARGUMENT, "CONTEXT_TOO_LARGE", 413),
        (CODES.NOT_FOUND, "CONVERSATION_NOT_FOUND", 404),
        (CODES.ALREADY_EXISTS, "REQUEST_ID_REUSED", 409),
        (CODES.ABORTED, "REPLY_IN_PROGRESS", 409),
        (CODES.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 429),
        (CODES.FAILED_PRECONDITION, "NOT_CONFIGURED", 502),
        (CODES.INTERNAL, "INTERNAL", 502),
    ],
)
async def test_a_refusal_before_the_first_event_is_a_status_with_json(scripted, code, reason, status):
    scripted.scripts.append([scripted_server.refusal(code, reason, message="For users.", retry_after_s=1.2)])
    answer = await send(scripted.address)
    assert (answer.status_code, answer.json()) == (status, body("For users.", reason))
    assert answer.headers["retry-after"] == "2"


async def test_a_rate_limit_is_answered_at_once_instead_of_waited_for(scripted):
    limited = scripted_server.refusal(CODES.RESOURCE_EXHAUSTED, "RATE_LIMITED", retryable=True, retry_after_s=7.0)
    scripted.scripts.append([limited])
    answer = await send(scripted.address)
    assert (answer.status_code, answer.json()) == (429, body("as scripted", "RATE_LIMITED", retryable=True))
    assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("code", "reason"), [(CODES.UNAUTHENTICATED, "UNAUTHENTICATED"), (CODES.PERMISSION_DENIED, "FORBIDDEN")]
)
async def test_a_refused_credential_of_the_backend_is_not_the_browsers_fault(scripted, code, reason):
    scripted.scripts.append([scripted_server.refusal(code, reason, message="the key k-123 is unknown")])
    answer = await send(scripted.address)
    assert (answer.status_code, answer.json()) == (
        502,
        body("The assistant is not available at the moment.", "BAD_GATEWAY"),
    )


async def test_a_refused_credential_of_the_browser_is_401(scripted):
    scripted.scripts.append([scripted_server.refusal(CODES.UNAUTHENTICATED, "UNAUTHENTICATED", message="Wrong key.")])
    answer = await send(scripted.address, browser_credential=True)
    assert (answer.status_code, answer.json()) == (401, body("Wrong key.", "UNAUTHENTICATED"))
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_unreachable_server_is_503_and_its_address_is_not_shown():
    address = f"127.0.0.1:{free_port()}"
    answer = await send(address, backoff=parley.Backoff(max_elapsed_s=0))
    sentence = "The assistant cannot be reached at the moment. Try again later."
    assert (answer.status_code, answer.json()) == (503, body(sentence, "UNAVAILABLE", retryable=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "The body is not valid JSON."),
        (b"[" * 100_000, "The body is not valid JSON."),
        (b"\xff", "The body is not valid JSON."),
        (b"", "The body is not valid JSON."),
        (b"[]", "The body must be a JSON object."),
        (b"{}", "text: must not be empty"),
        (b'{"text": 1}', "text: must be a text"),
        (b'{"text": "\\ud800"}', "The text is not valid Unicode."),
        (b'{"text": "a", "images": {"a": 1}}', "images: must be a list"),
        (b'{"text": "a", "images": ["a"]}', "images: must be objects with mime_type and data"),
        (b'{"text": "a", "images": [{"mime_type": "image/png", "data": "?"}]}', "images: data must be base64"),
    ],
    ids=range(11),
)
async def test_a_wrong_body_is_400_and_creates_nothing(page, content, message):
    browser = await (await page())()
    answer = await browser.http.post(f"{ONE}/messages", content=content)
    assert (answer.status_code, answer.json()) == (400, body(message, "BAD_REQUEST"))
    assert (await browser.call("GET", "/api/page/conversations")).json()["conversations"] == []


async def test_a_wrong_cursor_and_a_wrong_page_token_are_400(page, upstream):
    browser = await (await page())()
    await browser.events("POST", f"{ONE}/messages", {"text": "Hi"})
    assert await refused(await browser.call("GET", f"{ONE}/messages?page_token=x")) == (400, "INVALID_REQUEST")
    assert await refused(await browser.call("GET", "/api/page/conversations?page_token=x")) == (400, "INVALID_REQUEST")
    assert await refused(await browser.call("GET", "/api/page/conversations/%00x")) == (404, "CONVERSATION_NOT_FOUND")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_413(page, upstream, chunked):
    async def pieces():
        for _ in range(6):
            yield b"x" * 1_000_000

    browser = await (await page())()
    answer = await browser.http.post(f"{ONE}/messages", content=pieces() if chunked else b"x" * 6_000_000)
    assert (answer.status_code, answer.json()) == (413, body("The request is too large.", "TOO_LARGE"))


async def test_faults_of_the_framework_and_of_the_application_have_the_same_json(page):
    async def broken(_):
        raise RuntimeError("secret")

    browser = await (await page(Route("/broken", broken)))()
    assert (await browser.call("GET", "/nothing")).json() == body("There is nothing at this address.", "NOT_FOUND")
    wrong = await browser.call("POST", "/api/page/config")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    crashed = await browser.call("GET", "/broken")
    assert (crashed.status_code, crashed.json()) == (500, body("Something went wrong on the server.", "INTERNAL"))


class Note(BaseModel):
    words: str


async def test_fastapi_faults_have_the_same_json_and_its_routes_can_answer_with_replies(server, upstream):
    upstream.reply_with(answer("from ", "FastAPI"))
    async with parley.Client(f"127.0.0.1:{server.app.port}") as client:
        app = FastAPI(exception_handlers=parley.asgi.exception_handlers())

        @app.post("/notes")
        async def note(note: Note) -> parley.asgi.ReplyResponse:
            def events(event):
                return {"type": "text", "text": event.text} if isinstance(event, parley.Text) else None

            return parley.asgi.ReplyResponse(client.stream_reply(note.words), events)

        async with served(app) as url, Browser(url) as browser:
            answers = [
                await browser.call("POST", "/notes", {"words": 1}),
                await browser.http.post("/notes", content=b"{", headers={"Content-Type": "application/json"}),
                await browser.http.post(
                    "/notes", content=b'{"words": "\\ud800"}', headers={"Content-Type": "application/json"}
                ),
            ]
            assert [await refused(each) for each in answers] == [(400, "BAD_REQUEST")] * 3
            assert answers[0].json()["message"] == "words: Input should be a valid string"
            events = await browser.events("POST", "/notes", {"words": "Hi"})
            assert "".join(event["text"] for event in events) == "from FastAPI"
