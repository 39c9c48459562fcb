"""Envoy with deploy/envoy.yaml in front of two replicas on PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import grpc
import parley
import pytest
import pytest_asyncio
from parley.v1 import chat_pb2, chat_pb2_grpc, resources_pb2
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import async_playwright

from tests.cluster import QUICK, Cluster
from tests.integration.mesh.proxies import Envoy, envoy_binary
from tests.integration.process.watching import error_of, reason_of, text_of
from tests.integration.replicas.plays import Play, Repertoire
from tests.integration.served import ask
from tests.lanes import LOADED
from tests.processes import open_channel, until
from tests.services import RedisServer
from tests.tools import tool
from tests.upstream import Upstream, refusal

pytestmark = [pytest.mark.xdist_group(LOADED), pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
A, B = range(2)
CALLS = 24
STREAMS = 16
MOST = 40
"""Replies that a replica runs at a time."""
LIMIT_S = 20.0
PAGE = b"<!doctype html><title>A page that calls Parley</title>"


class Mesh:
    """Two replicas, and Envoy before them. No replica pauses before it refuses new replies in a drain, so that calls
    reach it until Envoy has noticed."""

    def __init__(self, cluster: Cluster, envoy: Envoy) -> None:
        self.cluster = cluster
        self.envoy = envoy
        self.repertoire = Repertoire()
        self.address = f"127.0.0.1:{envoy.port}"

    def add(self, tag: str, count: int = 5, **fields: float) -> Play:
        """An answer of the upstream. Tests share the upstream, so that tags must differ."""
        self.cluster.upstream.reply_with(self.repertoire)
        return self.repertoire.add(tag, count, **fields)

    def client(self, **options: object) -> parley.Client:
        """The Python client, which connects to Envoy."""
        return parley.Client(self.address, **{"backoff": QUICK, **options})

    async def healthy(self, count: int) -> None:
        """Wait until Envoy sends calls to so many replicas."""

        async def seen() -> bool:
            return self.envoy.stat("cluster.parley.membership_healthy") == count

        await until(seen, f"Envoy sees {count} healthy replicas", limit_s=LIMIT_S)

    async def both_answer(self) -> None:
        """Wait until calls go to both replicas. After a restart, Envoy may still see failures of the former process."""

        async def seen() -> bool:
            async with open_channel(self.address) as channel:
                chat = chat_pb2_grpc.ChatStub(channel)
                plays = [self.add(f"probe{len(self.repertoire.plays)}", 1) for _ in range(8)]
                answers = await asyncio.gather(*(chat.CreateReply(each.request(), timeout=LIMIT_S) for each in plays))
            return len(await self.owners([each.id for each in answers])) == 2

        await until(seen, "both replicas answer", limit_s=LIMIT_S)

    async def owners(self, reply_ids: list[str]) -> Counter[int]:
        """How many of these replies each replica owns."""
        return Counter([await self.cluster.owner_of(reply_id) for reply_id in reply_ids])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def origin():
    """The address of a server with one page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory, shared_postgres, origin):
    """Both replicas and Envoy, once for all tests."""
    envoy_binary()
    folder = tmp_path_factory.mktemp("mesh")
    settings = {"drain_pause_s": 0.0, "drain_grace_s": 10.0, "max_replies": MOST}
    with RedisServer(folder / "redis") as redis:
        async with (
            Upstream() as upstream,
            Cluster(folder, shared_postgres, redis, upstream, replicas=2, lease_s=3.0, server=settings) as cluster,
        ):
            with Envoy(folder / "envoy", cluster[A].port, cluster[B].port, origin=origin) as envoy:
                made = Mesh(cluster, envoy)
                await made.healthy(2)
                yield made


async def test_the_calls_of_one_connection_go_to_both_replicas(mesh):
    plays = [mesh.add(f"spread{number}") for number in range(CALLS)]
    async with open_channel(mesh.address) as channel:
        chat = chat_pb2_grpc.ChatStub(channel)
        answers = await asyncio.gather(*(chat.CreateReply(play.request(), timeout=LIMIT_S) for play in plays))
    assert [text_of(answer) for answer in answers] == [play.whole for play in plays]
    owners = await mesh.owners([answer.id for answer in answers])
    assert min(owners[A], owners[B]) >= CALLS // 6, owners


async def test_failures_of_a_provider_eject_no_replica(mesh):
    await mesh.both_answer()
    mesh.cluster.upstream.reply_with(refusal(400))
    async with open_channel(mesh.address) as channel:
        chat = chat_pb2_grpc.ChatStub(channel)
        request = [ask(f"failing{number}") for number in range(CALLS)]
        answers = await asyncio.gather(*(chat.CreateReply(each, timeout=LIMIT_S) for each in request))
    assert {each.state for each in answers} == {resources_pb2.Reply.STATE_FAILED}
    owners = await mesh.owners([each.id for each in answers])
    assert min(owners[A], owners[B]) > 5, "enough to eject a replica, if its answers counted"
    assert mesh.envoy.stat("cluster.parley.outlier_detection.ejections_active") == 0
    assert mesh.envoy.stat("cluster.parley.membership_healthy") == 2


async def test_a_caller_may_let_envoy_retry_a_refusal_at_the_other_replica(mesh):
    """UNAVAILABLE before headers. The first replica runs as many replies as it may, so that it refuses more."""
    await mesh.both_answer()
    held = [mesh.add(f"held{number}", 2, hold=1) for number in range(MOST)]
    retrying = (("x-parley-repeatable", "true"),)
    waiting = [mesh.cluster.chat(A).CreateReply(play.request(), timeout=LIMIT_S) for play in held]
    async with open_channel(mesh.address) as channel:
        await asyncio.wait_for(asyncio.gather(*(play.held.wait() for play in held)), LIMIT_S)
        chat = chat_pb2_grpc.ChatStub(channel)
        plays = [mesh.add(f"retried{number}") for number in range(CALLS)]
        before = await refusals(mesh)
        for play in plays:
            request = play.request(request_id=play.tag)
            answer = await chat.CreateReply(request, metadata=retrying, timeout=LIMIT_S)
            assert (text_of(answer), play.asked) == (play.whole, 1)
        assert await refusals(mesh) > before, "no call went to the replica that refuses"
        plain = [mesh.add(f"not retried{number}").request() for number in range(CALLS)]
        outcomes = await asyncio.gather(
            *(chat.CreateReply(each, timeout=LIMIT_S) for each in plain), return_exceptions=True
        )
        refused = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
        assert {reason_of(error_of(each)) for each in refused} == {"OVERLOADED"}, "by itself, Envoy repeats no refusal"
    for play in held:
        play.gate.set()
    await asyncio.gather(*waiting)


async def refusals(mesh: Mesh) -> float:
    """How many requests the first replica has refused because it runs as many replies as it may."""
    return (await mesh.cluster[A].metrics())["parley_refusals_total{OVERLOADED}"]


async def test_a_rolling_restart_is_not_noticed(mesh):
    async with mesh.client() as client:
        for index in (A, B):
            plays = [mesh.add(f"rolling{index}-{number}", 12, pace_s=0.1) for number in range(STREAMS)]
            reading = [asyncio.create_task(read(client, play)) for play in plays]
            await asyncio.wait_for(asyncio.gather(*(play.requested.wait() for play in plays)), LIMIT_S)
            assert await mesh.cluster.drain(index) == 0
            assert [end.text for end in await asyncio.gather(*reading)] == [play.whole for play in plays]
            assert [play.asked for play in plays] == [1] * STREAMS
            await mesh.cluster.start(index)
            await mesh.healthy(2)


async def test_a_kill_ends_the_replies_of_one_replica_alone(mesh):
    await mesh.both_answer()
    plays = [mesh.add(f"killed{number}", 40, pace_s=0.1) for number in range(STREAMS)]
    async with mesh.client() as client:
        reading = [asyncio.create_task(read(client, play)) for play in plays]
        await asyncio.wait_for(asyncio.gather(*(play.requested.wait() for play in plays)), LIMIT_S)
        await mesh.cluster.kill9(A)
        ends = await asyncio.gather(*reading, return_exceptions=True)
        late = mesh.add("after the kill")
        assert (await read(client, late)).text == late.whole
    lost = [end for end in ends if isinstance(end, parley.ReplyFailed)]
    whole = [end.text for end in ends if isinstance(end, parley.Finished)]
    assert len(lost) + len(whole) == STREAMS, ends
    assert min(len(lost), len(whole)) > 0, "each replica has replies"
    assert {end.reason for end in lost} == {"OWNER_LOST"}
    for end in lost:
        stored = await mesh.cluster.ended(end.reply_id)
        assert (stored.state, stored.text, stored.usages) == ("FAILED", end.text, 1)
    assert [play.asked for play in plays] == [1] * STREAMS
    await mesh.cluster.start(A)
    await mesh.healthy(2)


async def read(client: parley.Client, play: Play) -> parley.Finished:
    """Read a reply to its end."""
    stream = client.stream_reply(play.tag)
    async for event in stream:
        assert not isinstance(event, parley.Snapshot) or play.tag.startswith("killed")
    assert stream.finished is not None
    return stream.finished


CALL = """async ([url, body]) => {
  const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };
  const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
  const answer = await fetch(url, { method: "POST", headers, body: bytes });
  const reader = answer.body.getReader();
  const pieces = [];
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    pieces.push([performance.now(), btoa(String.fromCharCode(...next.value))]);
  }
  return pieces;
}"""


async def test_a_page_in_chromium_streams_by_grpc_web(mesh, origin):
    play = mesh.add("page", 10, pace_s=0.1)
    body = play.request().SerializeToString()
    framed = base64.b64encode(struct.pack(">BI", 0, len(body)) + body).decode()
    url = f"http://127.0.0.1:{mesh.envoy.web_port}/parley.v1.Chat/StreamReply"
    async with async_playwright() as playwright:
        # Containers run tests as root, for whom Chromium has no sandbox.
        browser = await playwright.chromium.launch(executable_path=tool("chromium"), args=["--no-sandbox"])
        async with contextlib.aclosing(browser_page(browser)) as pages:
            page = await anext(pages)
            await page.goto(origin)
            pieces = await page.evaluate(CALL, [url, framed])
            await page.goto(origin.replace("127.0.0.1", "localhost"))
            with pytest.raises(PlaywrightError, match="Failed to fetch"):  # the origin is another one
                await page.evaluate(CALL, [url, framed])
    content, shown = b"".join(base64.b64decode(piece) for _, piece in pieces), ""
    while content:
        flags, length = struct.unpack(">BI", content[:5])
        if not flags:
            shown += chat_pb2.TokenChunk.FromString(content[5 : 5 + length]).text
        content = content[5 + length :]
    assert shown == play.whole
    assert pieces[-1][0] - pieces[0][0] > 500, "in milliseconds: the text came while it was written"


async def browser_page(browser):
    """A page; the browser is closed with it."""
    try:
        yield await browser.new_page()
    finally:
        await browser.close()
