"""Checks all that a server connects to: the database, Redis, providers with their keys, and issuers of tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from parley_server.auth.jwks import check_keys
from parley_server.core.clock import SystemClock
from parley_server.core.provider_keys import KeyCache
from parley_server.errors import ParleyError
from parley_server.providers.registry import Registry
from parley_server.secrets.fernet import FernetCipher
from parley_server.settings import Settings, is_sqlite
from parley_server.store import open_store
from parley_server.store.engine.location import StoreUnusable, sqlite_path
from parley_server.store.migrate import check_schema, schema_release


class Unusable(Exception):
    """A server could not use it. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check has found, and how long it took. `fault`: a server could not use it."""

    name: str
    text: str
    fault: bool
    took_s: float


Check = Callable[[], Awaitable[str]]
"""Returns what it has found. Raises `Unusable`, `StoreUnusable`, or a `ParleyError`."""


async def check_connections(settings: Settings) -> list[Finding]:
    """Check all of them at the same time. Raises `NotConfigured` if a provider cannot be built."""
    keys = KeyCache()
    registry = Registry(
        settings.providers, settings.models, settings.server.default_model, clock=SystemClock(), stored_keys=keys
    )
    stored = asyncio.create_task(_finding("stored keys", partial(_stored_keys, settings, keys)))
    try:
        others = [_finding(name, check) for name, check in _checks(settings)]
        providers = [_provider(name, registry, stored) for name in settings.providers]
        found = await asyncio.gather(*others, stored, *providers)
    finally:
        await registry.close()
    database, keys_found = found[0], stored.result()
    # Without encryption keys no key can be stored, so only keys of an earlier configuration matter.
    shown = settings.encryption_keys or (keys_found.fault and not database.fault)
    return [finding for finding in found if shown or finding is not keys_found]


def _checks(settings: Settings) -> Iterator[tuple[str, Check]]:
    """What needs no other check before it, the database first."""
    yield "database", partial(_database, settings.database_url)
    if (url := settings.redis_url) is not None:
        yield "Redis", partial(_redis, url)
    for name, issuer in settings.identity.items():
        if (source := issuer.jwks) is not None:
            yield f"keys of {name}", partial(_issuer, source)


async def _finding(name: str, check: Check) -> Finding:
    began = time.monotonic()
    try:
        text, fault = await check(), False
    except ParleyError as error:
        text, fault = error.message, True
    except (Unusable, StoreUnusable) as error:
        text, fault = str(error), True
    return Finding(name=name, text=text, fault=fault, took_s=time.monotonic() - began)


async def _database(url: str) -> str:
    # In a thread, because it runs an event loop of its own for PostgreSQL.
    release = await asyncio.to_thread(schema_release, url)
    if is_sqlite(url) and release is None:
        return "there is none yet: `parley serve` creates it"
    check_schema(release)
    return f"reachable, schema release {release}"


async def _redis(url: str) -> str:
    from parley_server.relay.redis_check import RelayUnusable  # a server without Redis need not have its client loaded
    from parley_server.relay.redis_pipeline import RelayAway
    from parley_server.relay.server_check import look_at

    try:
        server = await look_at(url)
    except (RelayAway, RelayUnusable) as error:
        raise Unusable(str(error)) from error
    return f"reachable, {server.name} {server.version}, maxmemory-policy {server.policy}"


async def _issuer(source: str | Path) -> str:
    try:
        await check_keys(source)
    except ValueError as error:
        raise Unusable(f"the keys cannot be read: {error}") from error
    return "the keys can be read"


async def _stored_keys(settings: Settings, keys: KeyCache) -> str:
    """Decrypt the stored keys into `keys`."""
    if is_sqlite(settings.database_url) and not sqlite_path(settings.database_url).exists():
        return "none"
    store = open_store(settings.database_url)
    try:
        await store.start()
        rows = await store.list_keys()
    finally:
        await store.close()
    if not rows:
        return "none"
    if not settings.encryption_keys:
        raise Unusable(f"{len(rows)} in the database, which are ignored: PARLEY_ENCRYPTION_KEYS is not set")
    cipher = FernetCipher(settings.encryption_keys)
    for row in rows:
        try:
            keys.put(row, cipher.decrypt(row.place, row.token))
        except ValueError:
            keys.put(row, None)
    if unreadable := keys.unreadable:
        names = ", ".join(f"{place.provider} for {place.tenant or 'all tenants'}" for place in unreadable)
        raise Unusable(f"PARLEY_ENCRYPTION_KEYS does not decrypt {names}")
    return f"{len(rows)}, all can be decrypted"


async def _provider(name: str, registry: Registry, stored: asyncio.Task[Finding]) -> Finding:
    await stored

    async def ask() -> str:
        return (
            "accepts the key"
            if await registry.verify(name)
            else "not asked: it has no server, or no key for all tenants"
        )

    return await _finding(f"provider {name}", ask)
