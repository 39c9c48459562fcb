"""Which model answers, what its message costs, and what the catalog shows, at a whole server."""

from __future__ import annotations

import logging

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from parley.v1 import catalog_pb2

from tests.clock import ManualClock
from tests.integration.served import text_of
from tests.upstream import Script, answer, done, event, finish, role, text, usage

MODELS = """
[models.tiered]
provider = "up"
name = "deployment-1"
like = "anthropic/claude-haiku-5-5"

[models.unpriced]
provider = "up"
name = "vendor/new"
"""


def counted(prompt: int, completion: int, *, cached: int = 0) -> Script:
    """An answer with these token counts."""
    return Script([role(), text("so"), finish(), usage(prompt, completion, cached=cached)])


async def test_s1_1_each_conversation_names_its_model(server, upstream):
    upstream.reply_with(lambda request: answer(request.json["model"]))
    first = await server.new_conversation(model="plain")
    second = await server.new_conversation(model="scripted")
    watch = await server.stream("Hi", conversation_id=first.id).end()
    assert (watch.text, watch.terminal.finished.model) == ("vendor/plain-1", "plain")
    watch = await server.stream("Hi", conversation_id=second.id).end()
    assert (watch.terminal.finished.model, watch.terminal.finished.provider) == ("scripted", "typewriter")
    watch = await server.stream("Hi", conversation_id=first.id, model="test").end()
    assert (watch.text, watch.terminal.finished.model) == ("vendor/test-1", "test"), "a request goes first"
    watch = await server.stream("Hi").end()
    assert watch.text == "vendor/test-1", "neither names one: the default"


async def test_s1_1_the_provider_of_a_model_can_be_replaced(server, upstream):
    """A restart with another provider for the same alias: the conversation goes on, with its history."""
    upstream.reply_with(answer("from the first"))
    first = await server.stream("one").end()
    file = server.folder / "parley.toml"
    file.write_text(file.read_text().replace('provider = "up"\nname = "vendor/test-1"', OTHER))
    second = await server.restart()
    watch = await second.stream("two", conversation_id=first.conversation_id).end()
    assert (watch.terminal.finished.model, watch.terminal.finished.provider) == ("test", "typewriter")
    shown = [text_of(message) for message in (await second.messages(first.conversation_id)).messages]
    assert shown[:0:-1] == ["one", "from the first", "two"]


OTHER = 'provider = "typewriter"\nname = "scripted"'


@pytest.mark.parametrize(
    ("model", "prompt", "completion", "cached", "nano_usd"),
    [
        ("test", 1000, 100, 0, 2_000_000 + 800_000),
        ("test", 1000, 100, 600, 800_000 + 300_000 + 800_000),
        ("tiered", 100_000, 10, 0, 100_000 * 100 + 10 * 500),
        ("tiered", 100_001, 10, 0, 100_001 * 500 + 10 * 2500),
        ("tiered", 100_001, 10, 100_000, 500 + 100_000 * 50 + 10 * 2500),
        ("unpriced", 1000, 100, 0, None),
    ],
)
async def test_s0_11_the_cost_of_each_message_is_known(serve, upstream, model, prompt, completion, cached, nano_usd):
    server = await serve(models=MODELS)
    upstream.reply_with(counted(prompt, completion, cached=cached))
    watch = await server.stream("Hi", model=model).end()
    again = (await (await server.restart()).get(watch.reply_id)).usage
    for shown in (watch.terminal.finished.usage, again):
        assert (shown.prompt_tokens, shown.completion_tokens) == (prompt, completion)
        assert (shown.cost_nano_usd if shown.HasField("cost_nano_usd") else None) == nano_usd


async def test_s0_11_the_cost_that_a_provider_states_goes_first(server, upstream):
    stated = event({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "cost": 0.0012}})
    upstream.reply_with(Script([role(), text("so"), finish(), stated, done()]))
    watch = await server.stream("Hi").end()
    assert watch.terminal.finished.usage.cost_nano_usd == 1_200_000


async def test_an_impossible_count_costs_nothing_and_locks_nothing(server, upstream):
    upstream.reply_next(counted(2**64 - 1, 2**64 - 1), counted(1000, 100))
    first = await server.stream("Hi").end()
    assert first.terminal.finished.usage.cost_nano_usd < 10**6, "an estimate of a short prompt and answer"
    second = await (await server.restart()).stream("Hi", conversation_id=first.conversation_id).end()
    assert second.terminal.finished.usage.cost_nano_usd == 2_800_000


async def test_a_model_shows_what_the_catalog_knows(serve):
    lines = '[models.known]\nprovider = "up"\nname = "deployment-1"\nlike = "openai/gpt-5-nano"\nfallback = ["test"]'
    server = await serve(models=lines)
    models = (await server.catalog.ListModels(catalog_pb2.ListModelsRequest())).models
    (known,) = [model for model in models if model.alias == "known"]
    assert (known.context_tokens, known.max_output_tokens) == (400_000, 128_000)
    assert (known.images, known.tools, known.json_schema, known.reasoning, known.sampling) == (True,) * 4 + (False,)
    assert list(known.reasoning_efforts) == ["minimal", "low", "medium", "high"]
    assert known.retire_time == Timestamp(seconds=1_796_947_200)  # 2026-12-11
    assert (known.prompt_nano_usd_per_million, known.completion_nano_usd_per_million) == (50_000_000, 400_000_000)
    assert list(known.fallback_models) == ["test"]


@pytest.mark.parametrize(
    ("day", "event"), [(-31, None), (-30, "model_retires"), (-1, "model_retires"), (0, "model_retired")]
)
async def test_a_start_warns_of_models_that_retire(serve, caplog, day, event):
    clock = ManualClock(start_us=(1_796_947_200 + day * 86_400) * 10**6)
    models = "[models.old]\nprovider = 'up'\nname = 'vendor/old'\nretires = 2026-12-11"
    caplog.set_level(logging.WARNING, "parley_server.app")
    await serve(clock=clock, models=models)
    warnings = [(record.getMessage(), record.fields) for record in caplog.records if "model_" in record.getMessage()]
    assert warnings == ([] if event is None else [(event, {"model": "old", "provider_model": "vendor/old"})])
