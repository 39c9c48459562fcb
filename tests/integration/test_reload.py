"""A reload in the middle of a call: the call sees one configuration, the one with which it began."""

from __future__ import annotations

import asyncio
from typing import Any

from parley_server.settings import TenantSettings

from tests.integration.served import ask, refused, tenant
from tests.upstream import answer

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
