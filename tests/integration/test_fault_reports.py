"""What the end user and the caller get when a provider, the database or the caller itself fails."""

from __future__ import annotations

import grpc
import pytest

from tests.clock import until
from tests.integration.served import COMPLETED, FAILED, KEY, error_reason, refused, text_of
from tests.integration.test_storage import Outage
from tests.upstream import Close, Hang, Script, answer, error_event, refusal, role, text

SECRET = "vendor-internal-SECRET"
QUOTING = {"error": {"message": f"{SECRET}: invalid key {KEY}", "type": "x", "code": None}}
HALF = [role(), text("Half an answer")]
FAULTS = {
    "rate limit": (refusal(429, QUOTING), "PROVIDER_RATE_LIMITED", "", True),
    "authentication": (refusal(401, QUOTING), "PROVIDER_UNAUTHENTICATED", "", False),
    "rejection": (refusal(400, QUOTING), "PROVIDER_REJECTED", "", False),
    "unavailable": (refusal(503, QUOTING), "PROVIDER_UNAVAILABLE", "", True),
    "nonsense": (Script([*HALF, b"data: {not json\n\n"]), "PROVIDER_MALFORMED", "Half an answer", True),
    "network": (Script([*HALF, Close()]), "PROVIDER_TRUNCATED", "Half an answer", True),
    "error in the stream": (Script([*HALF, error_event(SECRET)]), "PROVIDER_UNAVAILABLE", "Half an answer", True),
    "no first token": (Script([role(), Hang()]), "PROVIDER_TIMEOUT", "", True),
    "no next token": (Script([*HALF, Hang()]), "PROVIDER_TIMEOUT", "Half an answer", True),
}


async def failed(server, clock, script, kept):
    """A reply that fails with this script of the provider; if that hangs, after the limit for the next token."""
    server.upstream.reply_with(script)
    asked = len(server.upstream.requests)
    watch = server.stream("Ask")
    await watch.accepted()
    await until(lambda: len(server.upstream.requests) > asked)
    if isinstance(script.steps[-1], Hang):
        await watch.until_text(kept)
        limit_s = 60 if kept else 30
        await clock.advance(limit_s - 1)
        assert "failed" not in watch.kinds
        await clock.advance(2)
    return await watch.end()


@pytest.mark.parametrize("fault", FAULTS)
async def test_s4_4_a_fault_reaches_the_user_with_a_code_its_text_and_a_way_to_retry(serve, clock, fault):
    script, why, kept, retryable = FAULTS[fault]
    server = await serve(clock=clock)
    watch = await failed(server, clock, script, kept)
    error, reply = watch.terminal.failed.error, await server.get(watch.reply_id)
    assert (error.reason, error.retryable, bool(error.message)) == (error_reason(why), retryable, True)
    assert (await watch.code(), watch.text) == (grpc.StatusCode.ABORTED, kept)
    assert (reply.state, reply.error, text_of(reply), reply.message.partial) == (FAILED, error, kept, bool(kept))

    server.upstream.reply_with(answer("A whole answer"))
    place = {"conversation_id": watch.conversation_id, "replace_message_id": reply.message_id}
    again = await server.stream("", **place).end()
    assert (await server.get(again.reply_id)).state == COMPLETED
    page = await server.messages(watch.conversation_id)
    assert [text_of(message) for message in page.messages] == ["A whole answer", "Ask"]


async def test_s4_5_no_error_shows_anything_internal(serve, clock, upstream, tmp_path):
    server = await serve(clock=clock)
    shown = []
    for script, _, kept, _ in FAULTS.values():
        watch = await failed(server, clock, script, kept)
        shown += [str(watch.chunks), watch.error.details(), str(watch.error.trailing_metadata())]
        shown += [str(await server.get(watch.reply_id)), str(await server.conversation(watch.conversation_id))]
    outage = Outage(server)
    for call in (server.messages(watch.conversation_id), server.create("Ask")):
        refusal_ = await refused(call)
        assert refusal_.reason == "STORAGE_UNAVAILABLE"
        shown.append(str(refusal_.plain))
    outage.on = False
    internal = [SECRET, KEY, upstream.url, f":{upstream.port}", str(tmp_path), "sqlite", "SELECT", "Traceback", ".py"]
    assert [word for word in internal if word in "".join(shown)] == []
