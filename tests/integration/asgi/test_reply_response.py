"""`ReplyResponse` on a real socket: snapshots, silence, slow and leaving browsers, the end of the process."""

import asyncio

import grpc
import parley
import parley.asgi
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from tests import scripted_server
from tests.scripted_server import Wait, accepted, finished, reply_error, snapshot, text, texts
from tests.web import LIMIT_S, Browser, served


def events(event):
    """A product's events, without one for `Snapshot`."""
    match event:
        case parley.Text():
            return {"type": "token", "content": event.text}
        case parley.Finished():
            return {"type": "complete", "model": event.model}
        case parley.ParleyError():
            return {"type": "error", "error": event.message, "code": event.reason}
    return None


@pytest.fixture
async def scripted():
    async with scripted_server.running(with_proxy=True) as server:
        yield server


@pytest.fixture
async def browser(scripted):
    async with parley.Client(scripted.address, backoff=parley.Backoff(first_s=0.001)) as client:

        async def reply(request):
            keep_alive_s = float(request.query_params.get("keep_alive_s", "10"))
            return parley.asgi.ReplyResponse(client.stream_reply("Hi"), events, keep_alive_s=keep_alive_s)

        app = Starlette(routes=[Route("/reply", reply)], exception_handlers=parley.asgi.exception_handlers())
        async with served(app) as url, Browser(url) as browser:
            yield browser


def tokens(*pieces):
    return [{"type": "token", "content": piece} for piece in pieces]


COMPLETE = {"type": "complete", "model": "spare"}
REPLACED = {
    "type": "error",
    "error": "Part of this answer was replaced on the server. Reload the conversation to read it.",
    "code": "TEXT_REPLACED",
}


async def test_a_reply_is_one_json_line_for_each_event_with_headers_against_buffering(scripted, browser):
    scripted.scripts.append([accepted(), text(1, "line\nbreak é \u2028"), finished(2)])
    response = await browser.call("GET", "/reply")
    first, second, rest = response.text.split("\n\n")
    assert first == 'data: {"type":"token","content":"line\\nbreak é \u2028"}'
    assert second == 'data: {"type":"complete","model":"spare"}'
    assert rest == ""
    headers = {name: response.headers[name] for name in ("content-type", "cache-control", "x-accel-buffering")}
    assert headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }


async def test_a_snapshot_that_begins_with_the_sent_text_sends_the_rest(scripted, browser):
    scripted.scripts.append(
        [accepted(), *texts("Once ", "upon"), snapshot(5, "Once upon a "), text(6, "time"), finished(7)]
    )
    assert await browser.events("GET", "/reply") == [*tokens("Once ", "upon", " a ", "time"), COMPLETE]


async def test_a_snapshot_equal_to_the_sent_text_sends_nothing(scripted, browser):
    scripted.scripts.append([accepted(), text(1, "Once"), snapshot(1, "Once"), text(2, " more"), finished(3)])
    assert await browser.events("GET", "/reply") == [*tokens("Once", " more"), COMPLETE]


@pytest.mark.parametrize("end", ["finished", "failed"])
async def test_a_snapshot_with_other_text_sends_nothing_more_and_ends_with_an_error(scripted, browser, end):
    failure = reply_error(grpc.StatusCode.UNAVAILABLE, "OWNER_LOST")
    last = finished(7) if end == "finished" else scripted_server.failed(7, failure)
    scripted.scripts.append([accepted(), *texts("Once ", "upon"), snapshot(5, "Once more"), text(6, "!"), last])
    assert await browser.events("GET", "/reply") == [*tokens("Once ", "upon"), REPLACED]


async def test_a_cut_call_continues_without_loss_or_repetition(scripted, browser):
    shown = asyncio.Event()
    scripted.log = [*texts("a", "b", "c"), finished(4)]
    scripted.scripts.append([accepted(), *texts("a", "b"), Wait(shown), scripted_server.Break()])
    async with browser.stream("GET", "/reply") as sse:
        before = [await sse.next(), await sse.next()]
        shown.set()  # a break may drop what the client has not read yet
        assert before + await sse.rest() == [*tokens("a", "b", "c"), COMPLETE]
    assert scripted.methods() == ["StreamReply", "ResumeReply"]


async def test_silence_is_filled_with_comments_and_only_silence(scripted, browser):
    go = asyncio.Event()
    scripted.scripts.append([accepted(), text(1, "a"), Wait(go), finished(2)])
    async with browser.stream("GET", "/reply?keep_alive_s=0.05") as sse:
        assert await sse.next() == tokens("a")[0]
        waiting = asyncio.create_task(sse.next())
        async with asyncio.timeout(LIMIT_S):
            while len(sse.comments) < 3:
                await asyncio.sleep(0.01)
        go.set()
        assert await waiting == COMPLETE
    assert set(sse.comments) == {": alive"}


async def test_a_failure_without_a_reason_shows_a_neutral_sentence(scripted, browser):
    gone = scripted_server.refusal(grpc.StatusCode.UNIMPLEMENTED, "INTERNAL").code
    scripted.scripts.append([accepted(), text(1, "a"), scripted_server.Abort(gone)])
    shown = await browser.events("GET", "/reply")
    assert shown[0] == tokens("a")[0]
    assert shown[1] == {"type": "error", "error": "The assistant is not available at the moment.", "code": ""}


async def test_a_browser_that_leaves_before_and_after_the_first_event_ends_the_call(scripted, browser):
    for first in ([], [accepted(), text(1, "a")]):
        scripted.calls.clear()
        scripted.scripts.append([*first, Wait(asyncio.Event())])
        leaving = asyncio.create_task(browser.events("GET", "/reply"))
        call = await scripted.seen(1)
        leaving.cancel()
        async with asyncio.timeout(LIMIT_S):
            await call.cancelled.wait()


async def test_ended_streams_end_without_a_last_event_and_waiting_ones_are_refused(scripted, browser):
    scripted.scripts.extend([[accepted(), text(1, "a"), Wait(asyncio.Event())], [Wait(asyncio.Event())]])
    async with browser.stream("GET", "/reply") as sse:
        assert await sse.next() == tokens("a")[0]
        waiting = asyncio.create_task(browser.call("GET", "/reply"))
        await scripted.seen(2)
        await parley.asgi.end_streams()
        assert await sse.rest() == []
    refused = await waiting
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "UNAVAILABLE", "1")


async def test_a_browser_that_does_not_read_stops_the_reading_from_the_server(scripted, browser):
    piece, count = "x" * 10_000, 3_000
    scripted.scripts.append([accepted(), *texts(*[piece] * count), finished(count + 1)])
    async with browser.stream("GET", "/reply") as sse:
        call = await scripted.seen(1)
        written = -1
        async with asyncio.timeout(LIMIT_S):
            while written != call.written:  # it stands still once all buffers are full
                written = call.written
                await asyncio.sleep(0.5)
        assert written < count / 2
        rest = await sse.rest()
    assert len(rest) == count + 1
    assert rest[-1] == COMPLETE
