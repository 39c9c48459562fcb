"""A reply that is taken over after a failover is priced by the model that answered."""

import pytest

from tests.integration.failover import MODELS
from tests.processes import until
from tests.upstream import Hang, Script, Upstream, refusal, role, text


@pytest.mark.timeout(60)
async def test_a_takeover_after_a_failover_uses_the_price_of_the_served_model(start_cluster, upstream):
    upstream.reply_with(refusal(401))
    async with Upstream() as far:
        far.reply_with(Script([role(), text("from far"), Hang()]))
        models = MODELS.format(near=upstream.url, far=far.url, rules="")
        cluster = await start_cluster(replicas=2, toml=models)
        watch = await cluster.caller(0).stream(model="near").until_text("from far")

        async def row_names_far():
            return await cluster.rows("SELECT model, provider FROM reply") == [("far", "far")]

        await until(row_names_far, "the row names the model that answers")
        await cluster.kill9(0)
        await cluster.ended(watch.reply_id)
        ((model, prompt, completion, cost),) = await cluster.rows(
            "SELECT model, prompt_tokens, completion_tokens, cost_nano_usd FROM usage"
        )
    assert (model, completion) == ("far", 2)
    assert cost == prompt * 20_000 + completion * 80_000
