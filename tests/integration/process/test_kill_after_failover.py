"""A reply whose process is killed after a failover is priced by the model that answered."""

from __future__ import annotations

from parley.v1 import chat_pb2, chat_pb2_grpc, resources_pb2

from tests.integration.failover import MODELS
from tests.processes import ServerProcess, open_channel, until
from tests.upstream import Hang, Script, Upstream, refusal, role, text


async def test_a_reply_that_was_killed_after_a_failover_has_the_price_of_the_served_model(tmp_path) -> None:
    async with Upstream() as near, Upstream() as far:
        near.reply_with(refusal(401))
        far.reply_with(Script([role(), text("from far"), Hang()]))
        toml = MODELS.format(near=near.url, far=far.url, rules="") + '[server]\ndefault_model = "near"\n'
        async with ServerProcess(tmp_path, toml=toml, forked=True, UPSTREAM_KEY="sk-of-nobody") as server:
            async with open_channel(server.address) as channel:
                call = chat_pb2_grpc.ChatStub(channel).StreamReply(chat_pb2.ReplyRequest(text="Hi"))
                accepted = await call.read()
                chunk = await call.read()
                while chunk.text != "from far":
                    chunk = await call.read()

                async def row_names_far() -> bool:
                    return server.rows("SELECT model, provider FROM reply") == [("far", "far")]

                await until(row_names_far, "the row names the model that answers")
                await server.kill9()
                call.cancel()
            await server.start()
            async with open_channel(server.address) as channel:
                get = chat_pb2_grpc.ChatStub(channel).GetReply
                reply = await get(chat_pb2.GetReplyRequest(reply_id=accepted.reply_id), wait_for_ready=True)
    usage = reply.usage
    assert (reply.state, reply.model, reply.provider) == (resources_pb2.Reply.STATE_FAILED, "far", "far")
    assert usage.completion_tokens == 2
    assert usage.cost_nano_usd == usage.prompt_tokens * 20_000 + usage.completion_tokens * 80_000
