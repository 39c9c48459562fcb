"""What a reload of the configuration changes for callers, and what it keeps of their issuers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from parley_server.auth.authenticator import Access
from parley_server.core.access import Credentials, Tenants, tenants_of
from parley_server.errors import Unauthenticated
from parley_server.settings import IssuerSettings, Settings, TenantSettings, load_settings

from tests.clock import ManualClock
from tests.issuer import ISSUER, Issuer
from tests.unit.auth.test_authenticator import digest_of, identified
from tests.unit.auth.test_jwks import Outcomes
from tests.upstream import Script, Upstream, Wait

THE_ISSUER = Issuer("one")
SHOP = {"shop": TenantSettings(api_keys_sha256=(digest_of("key"),))}


def configured(tenants: dict[str, TenantSettings] = SHOP, **issuers: IssuerSettings) -> Settings:
    return load_settings({}).model_copy(update={"tenants": tenants, "identity": issuers})


def corp(url: str, **changes: Any) -> IssuerSettings:
    return IssuerSettings(
        **{"issuer": ISSUER, "audience": ("parley",), "jwks": url, "tenant": "shop", "algorithms": ("RS256", "ES256")}
        | changes
    )


class Server:
    """The access of a server, which reloads like `App`."""

    def __init__(self, settings: Settings) -> None:
        self.tenants = Tenants()
        self.tenants.replace(tenants_of(settings.tenants))
        self.access = Access(settings, self.tenants, clock=ManualClock(), observer=Outcomes())

    def reload(self, settings: Settings) -> None:
        self.access.use(self.access.prepare(settings))
        self.tenants.replace(tenants_of(settings.tenants))


def key_set() -> Script:
    return Script([THE_ISSUER.jwks()], headers={"Content-Type": "application/json"}, framing="length")


async def test_keys_are_refused_and_accepted_from_the_reload_on() -> None:
    server = Server(configured())
    assert (await identified(server.access, authorization="Bearer key")).tenant == "shop"
    server.reload(configured({"bank": TenantSettings(api_keys_sha256=(digest_of("new"),), require_end_user=True)}))
    with pytest.raises(Unauthenticated):
        await identified(server.access, authorization="Bearer key")
    assert (await identified(server.access, authorization="Bearer new", end_user="ada")).tenant == "bank"
    assert not server.tenants.known("shop")


async def test_the_key_set_of_an_unchanged_issuer_is_not_fetched_again() -> None:
    async with Upstream() as upstream:
        upstream.reply_with(key_set())
        server = Server(configured(corp=corp(upstream.url)))
        await server.access.keep()
        token = Credentials(authorization=f"Bearer {THE_ISSUER.token()}")
        assert (await server.access.authenticate(token)).tenant == "shop"
        server.reload(configured(corp=corp(upstream.url)))
        assert server.access.known(token) is not None, "nothing has changed: verified tokens stay"
        server.reload(configured({**SHOP, "bank": TenantSettings()}, corp=corp(upstream.url, tenant="bank")))
        assert server.access.known(token) is None, "what was verified for the former issuer must not be accepted"
        assert (await server.access.authenticate(token)).tenant == "bank"
        await server.access.keep()
        assert len(upstream.requests) == 1
        await server.access.close()


async def test_connections_to_a_removed_issuer_close_and_nothing_more_is_fetched() -> None:
    async with Upstream() as upstream:
        upstream.reply_with(key_set())
        server = Server(configured(corp=corp(upstream.url)))
        await server.access.keep()
        token = f"Bearer {THE_ISSUER.token()}"
        assert await identified(server.access, authorization=token)
        server.reload(configured())
        with pytest.raises(Unauthenticated):
            await identified(server.access, authorization=token)
        tasks = len(asyncio.all_tasks())
        await server.access.keep()
        await asyncio.wait_for(upstream.no_connections(), 5)
        assert len(asyncio.all_tasks()) < tasks
        await server.access.close()


async def test_a_token_whose_issuer_is_removed_while_its_keys_are_fetched_is_refused() -> None:
    async with Upstream() as upstream:
        answering = asyncio.Event()
        upstream.reply_with(
            Script(
                [THE_ISSUER.jwks()],
                before_head=[Wait(answering)],
                headers={"Content-Type": "application/json"},
                framing="length",
            )
        )
        server = Server(configured(corp=corp(upstream.url)))
        caller = asyncio.create_task(identified(server.access, authorization=f"Bearer {THE_ISSUER.token()}"))
        await asyncio.wait_for(upstream.requested.wait(), 5)
        await server.access.keep()
        server.reload(configured())
        tidying = asyncio.create_task(server.access.keep())
        await asyncio.sleep(0)
        answering.set()
        with pytest.raises(Unauthenticated):
            await caller
        await tidying
        await server.access.close()
