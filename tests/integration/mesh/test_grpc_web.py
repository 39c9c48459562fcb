"""A browser's calls by gRPC-Web through Envoy with deploy/envoy-web.yaml."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio
from parley.v1 import chat_pb2, conversations_pb2, resources_pb2

from tests.integration.mesh.callers import whole_text
from tests.integration.mesh.conftest import running
from tests.integration.mesh.proxies import ORIGIN
from tests.integration.served import ask

# One process starts the servers once.
pytestmark = [pytest.mark.xdist_group("grpc-web"), pytest.mark.asyncio(loop_scope="module")]
HEADERS = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": ORIGIN}
TRAILERS = 0x80


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(tmp_path_factory):
    """A server behind Envoy, and an HTTP client of the listener for browsers."""
    async with (
        running(tmp_path_factory.mktemp("web"), "envoy") as mesh,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{mesh.proxy.web_port}", trust_env=False, timeout=20) as client,
    ):
        yield mesh, client


def framed(message) -> bytes:
    """A message as the body of a call."""
    content = message.SerializeToString()
    return struct.pack(">BI", 0, len(content)) + content


async def frames(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """The frames of an answer as they come: flags and content."""
    buffered = b""
    async for piece in pieces:
        buffered += piece
        while len(buffered) >= 5 and len(buffered) >= 5 + (length := struct.unpack(">I", buffered[1:5])[0]):
            yield buffered[0], buffered[5 : 5 + length]
            buffered = buffered[5 + length :]


async def test_a_reply_is_streamed_while_it_is_written(web):
    """The upstream writes the second half once the first one has arrived here."""
    mesh, client = web
    shown, trailers = "", b""
    call = client.stream("POST", "/parley.v1.Chat/StreamReply", content=framed(ask("stream 1")), headers=HEADERS)
    async with call as answer:
        assert answer.headers["content-type"].startswith("application/grpc-web+proto")
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        async for flags, content in frames(answer.aiter_raw()):
            if flags & TRAILERS:
                trailers = content
                continue
            shown += chat_pb2.TokenChunk.FromString(content).text
            if shown:
                mesh.gate.set()
    assert shown == whole_text("stream 1")
    assert b"grpc-status:0" in trailers.replace(b" ", b"").lower()


async def test_a_refusal_has_parley_s_error_for_the_page(web):
    _, client = web
    request = chat_pb2.GetReplyRequest(reply_id="no-such-reply")
    answer = await client.post("/parley.v1.Chat/GetReply", content=framed(request), headers=HEADERS)
    whole = answer.content.lower() + str(answer.headers).lower().encode()
    assert b"grpc-status" in whole
    assert b"parley-error-bin" in whole
    assert "parley-error-bin" in answer.headers["access-control-expose-headers"]


async def test_only_pages_of_the_configured_origin_may_read_answers(web):
    _, client = web
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    own = await client.options("/parley.v1.Chat/StreamReply", headers={"origin": ORIGIN, **wanted})
    assert own.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in own.headers["access-control-allow-headers"]
    other = await client.options("/parley.v1.Chat/StreamReply", headers={"origin": "https://evil.example", **wanted})
    assert "access-control-allow-origin" not in other.headers


async def test_a_user_that_a_browser_names_does_not_count(web):
    _, client = web
    request = conversations_pb2.CreateConversationRequest()
    headers = {**HEADERS, "x-end-user": "ada"}
    path = "/parley.v1.Conversations/CreateConversation"
    answer = await client.post(path, content=framed(request), headers=headers)
    (length,) = struct.unpack(">I", answer.content[1:5])
    made = resources_pb2.Conversation.FromString(answer.content[5 : 5 + length])
    assert (bool(made.id), made.end_user) == (True, "")


@pytest.mark.parametrize("method", ["/parley.v1.Admin/ListUsage", "/grpc.health.v1.Health/Check"])
async def test_other_services_stay_inside(web, method):
    _, client = web
    answer = await client.post(method, content=framed(chat_pb2.GetReplyRequest()), headers=HEADERS)
    # Envoy answers an unknown route of a gRPC call with the status UNIMPLEMENTED.
    assert answer.status_code == 404 or answer.headers["grpc-status"] == "12"
