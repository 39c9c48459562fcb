"""A reload in the middle of a call: the call sees one configuration, the one with which it began."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from parley.v1 import resources_pb2
from parley_server.settings import IssuerSettings, TenantSettings

from tests.clock import until
from tests.integration.served import ask, new_message, refused, tenant
from tests.upstream import Script, Wait, answer, done, finish, role, text, usage

KEY = "key-of-shop"


def reload(running: Any, **changes: Any) -> None:
    """Use other settings, as a changed file does."""
    app = running.app
    app._settings = app._settings.model_copy(update=changes)
    app._use(app._settings)


async def test_a_request_is_accepted_by_the_configuration_with_which_it_arrived(serve, upstream, monkeypatch) -> None:
    server = await serve(access=tenant("shop", KEY))
    caller = server.caller(bearer=KEY)
    first = await caller.create()
    store, arrived, may_go_on = server.app.mode.store, asyncio.Event(), asyncio.Event()
    read_turn = store.read_turn

    async def read_late(*given: Any, **named: Any) -> Any:
        arrived.set()
        await may_go_on.wait()
        return await read_turn(*given, **named)

    monkeypatch.setattr(store, "read_turn", read_late)
    upstream.reply_with(answer("by the former model"))
    stream = caller.stream(conversation_id=first.conversation_id)
    await asyncio.wait_for(arrived.wait(), 10)
    settings = server.app._settings
    shop: TenantSettings = settings.tenants["shop"].model_copy(update={"models": ("scripted",)})
    reload(
        server,
        providers={"typewriter": settings.providers["typewriter"]},
        models={"scripted": settings.models["scripted"]},
        server=settings.server.model_copy(update={"default_model": "scripted"}),
        tenants={"shop": shop},
    )
    may_go_on.set()
    await stream.end()
    assert (stream.text, stream.kinds[-1]) == ("by the former model", "finished")
    await server.app._tidy()
    async with asyncio.timeout(10):
        await upstream.no_connections()
    later = await refused(caller.chat.StreamReply(ask(conversation_id=first.conversation_id, model="test")))
    assert later.reason == "MODEL_NOT_FOUND"
    assert (await caller.create()).model == "scripted"


async def test_the_quotas_and_limits_of_a_reload_apply_to_the_next_request(serve, upstream) -> None:
    server = await serve(access=tenant("shop", KEY))
    caller = server.caller("ada", bearer=KEY)
    await caller.create()
    shop = server.app._settings.tenants["shop"]
    for limited, reason in (
        ({"limits": {"messages_per_minute": 1}}, "RATE_LIMITED"),
        ({"quotas": {"tokens_per_day": 1}}, "QUOTA_EXCEEDED"),
        ({"require_end_user": True}, ""),
    ):
        changed = TenantSettings.model_validate(shop.model_dump() | limited)
        reload(server, tenants={"shop": changed})
        if reason == "RATE_LIMITED":
            await caller.create()
        if reason:
            assert (await refused(caller.chat.StreamReply(ask()))).reason == reason
        else:
            without = server.caller(bearer=KEY)
            assert (await refused(without.chat.StreamReply(ask()))).fields == ["x-end-user"]
            assert await caller.create()


OTHER = """
[models.other]
provider = "typewriter"
name = "other"
[providers.second]
kind = "openai"
base_url = "{url}"
[models.second]
provider = "second"
name = "vendor/second-1"
"""
SUMMARIZED = resources_pb2.ContextPolicy(max_tokens=2000, overflow=resources_pb2.ContextPolicy.OVERFLOW_SUMMARIZE)


def summarizing(reply: Script, summary: Script) -> Any:
    """Answers a reply and the request for a summary differently."""
    instruction = "Summarize the conversation"
    return lambda request: summary if instruction in request.json["messages"][0]["content"] else reply


async def long_conversation(server: Any) -> str:
    words = "x" * 200
    messages = [new_message(name, f"{at} {words}") for at in range(20) for name in ("user", "assistant")]
    return (await server.new_conversation(messages, context=SUMMARIZED)).id


def remove_model(running: Any, alias: str) -> None:
    """Reload a configuration without the model, and without providers that no other model names."""
    settings = running.app._settings
    models = {name: each for name, each in settings.models.items() if name != alias}
    used = {each.provider for each in models.values()}
    providers = {name: each for name, each in settings.providers.items() if name in used}
    reload(running, models=models, providers=providers)


def summaries(running: Any, outcome: str) -> float | None:
    """How many summaries have ended in this way."""
    return running.app.telemetry.registry.get_sample_value("parley_summaries_total", {"outcome": outcome})


async def test_a_summary_that_is_being_written_outlives_its_model(serve, upstream) -> None:
    server = await serve(models=OTHER.format(url=upstream.url))
    allowed = asyncio.Event()
    gist = Script([role(), Wait(allowed), text("Ada likes tea."), finish(), usage(900, 5), done()])
    upstream.reply_with(summarizing(answer("Yes"), gist))
    conversation = await long_conversation(server)
    await server.stream("Next", conversation_id=conversation, model="second").end()
    await until(lambda: len(upstream.requests) == 2)
    remove_model(server, "second")
    await server.app._tidy()
    allowed.set()
    await until(lambda: summaries(server, "stored") == 1)
    async with asyncio.timeout(10):
        await upstream.no_connections()


async def test_a_summary_that_is_due_after_its_model_was_removed_is_left_to_the_next_turn(serve, upstream) -> None:
    server = await serve(models=OTHER.format(url=upstream.url))
    begun = asyncio.Event()
    reply = replace(answer("Yes"), before_head=[Wait(begun)])
    upstream.reply_with(summarizing(reply, answer("Ada likes tea.")))
    conversation = await long_conversation(server)
    stream = server.stream("Next", conversation_id=conversation, model="second")
    await until(lambda: len(upstream.requests) == 1)
    remove_model(server, "second")
    await server.app._tidy()
    begun.set()
    await stream.end()
    assert (stream.text, stream.kinds[-1]) == ("Yes", "finished")
    await until(lambda: summaries(server, "failed") == 1)
    assert server.sql("select count(*) from summary") == [(0,)]
    await server.stream("Next", conversation_id=conversation, model="test").end()
    await until(lambda: summaries(server, "stored") == 1)
    assert server.sql("select model, text from summary") == [("test", "Ada likes tea.")]


async def test_the_keys_of_a_new_issuer_are_read_even_if_a_former_connection_cannot_be_closed(
    serve, upstream, monkeypatch
) -> None:
    server = await serve(access=tenant("shop", KEY))
    former = server.app._registry.current().providers["up"]

    async def defect() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(former, "close", defect)
    corp = IssuerSettings(issuer="https://id.example", audience=("parley",), jwks=f"{upstream.url}/keys", tenant="shop")
    settings = server.app._settings
    scripted = {"scripted": settings.models["scripted"]}
    reload(
        server,
        providers={"typewriter": settings.providers["typewriter"]},
        models=scripted,
        server=settings.server.model_copy(update={"default_model": "scripted"}),
        identity={"corp": corp},
    )
    with pytest.raises(ZeroDivisionError):
        await server.app._tidy()
    await until(lambda: [request.path for request in upstream.requests] == ["/v1/keys"])
    monkeypatch.undo()
