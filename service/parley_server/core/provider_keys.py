"""Stored API keys of providers: an encrypted row for each provider and tenant, and all of them decrypted in memory.

Every replica looks for changed rows every two seconds, so that a request needs neither a query nor a wait for its key.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable

from parley_server.core.field_checks import MAX_PROVIDER, check_key, check_name
from parley_server.core.model import Value
from parley_server.core.observer import KeyObserver
from parley_server.core.page_tokens import cursor_of, page_token_of
from parley_server.core.ports import Clock, KeyCipher, KeyRules, KeyStore
from parley_server.core.secret import Secret
from parley_server.core.store_types import KeyPlace, StoredKey
from parley_server.errors import (
    InvalidRequest,
    NotConfigured,
    ProviderUnauthenticated,
    StorageUnavailable,
)

logger = logging.getLogger("parley.keys")

POLL_S = 2.0
DEFAULT_PAGE = 50
MAX_PAGE = 200
HINT_CHARACTERS = 4
LEAST_HINTED = 12
"""Shorter keys have no hint, which would be too large a part of them."""

_TENANT = re.compile(r"[A-Za-z0-9._-]{0,64}")
_NAMED = 20
"""Rows that an error or a log line names at most."""


class KeyPage(Value, frozen=True, kw_only=True):
    """A page of keys, without the keys themselves. The token is empty on the last page."""

    keys: tuple[StoredKey, ...]
    next_page_token: str = ""


class _Query(Value, frozen=True):
    """All keys."""


class KeyCache:
    """The stored keys, decrypted. Implements `KeyLookup`. A key is None where its row cannot be decrypted."""

    def __init__(self) -> None:
        self._held: dict[KeyPlace, tuple[int, Secret | None]] = {}

    def find(self, provider: str, tenant: str) -> Secret | None:
        """See `KeyLookup`."""
        held = self._held.get(KeyPlace(provider, tenant))
        if held is None:
            return None
        if held[1] is None:
            raise ProviderUnauthenticated(f"the stored API key for the provider {provider} cannot be decrypted")
        return held[1]

    def put(self, row: StoredKey, key: Secret | None) -> None:
        """Hold the key of a row."""
        self._held[row.place] = (row.update_time_us, key)

    def keep(self, places: Iterable[KeyPlace]) -> None:
        """Drop the keys of all other places."""
        kept = set(places)
        self._held = {place: held for place, held in self._held.items() if place in kept}

    @property
    def versions(self) -> dict[KeyPlace, int]:
        """The update time of each held row, in microseconds since the epoch."""
        return {place: version for place, (version, _) in self._held.items()}

    @property
    def unreadable(self) -> list[KeyPlace]:
        """The places whose rows cannot be decrypted."""
        return sorted(place for place, (_, key) in self._held.items() if key is None)


class ProviderKeys:
    """Stores, lists and deletes keys, and keeps `cache` equal to the database. Without a `cipher`, keys can be neither
    stored nor used."""

    def __init__(
        self,
        *,
        store: KeyStore,
        cache: KeyCache,
        cipher: KeyCipher | None,
        rules: KeyRules,
        clock: Clock,
        observer: KeyObserver,
    ) -> None:
        self._store = store
        self._cache = cache
        self._cipher = cipher
        self._rules = rules
        self._clock = clock
        self._observer = observer
        self._reported: list[KeyPlace] = []
        self._lock = asyncio.Lock()  # a poll that read the database before a change must not undo it in the cache

    async def load(self) -> None:
        """Read all keys at the start. Raises `NotConfigured` if there are rows and none can be decrypted, because then
        the encryption key is probably a wrong one, and `StorageUnavailable`."""
        if self._cipher is None:
            if ignored := await self._store.key_versions():
                logger.error("provider_keys_ignored", extra={"fields": {"keys": _names(sorted(ignored))}})
            return
        await self._refresh(self._cipher)
        unreadable = self._cache.unreadable
        if unreadable and len(unreadable) == len(self._cache.versions):
            raise NotConfigured(
                f"PARLEY_ENCRYPTION_KEYS decrypts none of the stored provider keys ({_names(unreadable)}): "
                "set the keys that they were encrypted with, or if those are lost, delete the rows of provider_key"
            )

    async def run(self) -> None:
        """Look for changed rows, forever. While the database is unavailable, the keys in memory stay in use."""
        while self._cipher is not None:
            await self._clock.sleep(POLL_S)
            try:
                await self._refresh(self._cipher)
            except StorageUnavailable:
                continue

    async def set(self, place: KeyPlace, text: str, *, verify: bool) -> StoredKey:
        """Store a key in place of any former one. `verify`: ask the provider whether it accepts the key.

        Raises `NotConfigured`, `ProviderNotFound`, `InvalidRequest`, and `ProviderUnavailable` if the key cannot be
        verified."""
        _check_place(place)
        check_name("provider", place.provider, MAX_PROVIDER)
        if self._cipher is None:
            raise NotConfigured(
                "keys cannot be stored without PARLEY_ENCRYPTION_KEYS; the command `parley encryption-key` makes one"
            )
        _check_tenant(place.tenant)
        key = Secret(text.strip())
        self._rules.check_key(place, key)
        if verify:
            await self._rules.verify_key(place.provider, key)
        async with self._lock:
            row = await self._store.set_key(
                StoredKey(
                    provider=place.provider,
                    tenant=place.tenant,
                    token=self._cipher.encrypt(place, key),
                    hint=_hint(key),
                    update_time_us=self._clock.now_us(),
                )
            )
            self._cache.put(row, key)
            self._report()
        return row

    async def list(self, page_size: int, page_token: str) -> KeyPage:
        """A page of keys, by provider and tenant. Raises `InvalidRequest`."""
        if page_size < 0:
            raise InvalidRequest.field("page_size", "must not be negative")
        limit = min(page_size or DEFAULT_PAGE, MAX_PAGE)
        after = cursor_of(page_token, _Query(), tuple[str, str]) or ("", "")
        rows = await self._store.list_keys(KeyPlace(*after), limit + 1)
        more = page_token_of(rows[limit - 1].place, _Query()) if len(rows) > limit else ""
        return KeyPage(keys=tuple(rows[:limit]), next_page_token=more)

    async def delete(self, place: KeyPlace) -> None:
        """Delete a key; without effect if there is none. A provider may have left the configuration before its keys.
        Raises `InvalidRequest`."""
        check_name("provider", place.provider, MAX_PROVIDER)
        _check_tenant(place.tenant)
        _check_place(place)
        async with self._lock:
            await self._store.delete_key(place)
            self._cache.keep(self._cache.versions.keys() - {place})
            self._report()

    async def _refresh(self, cipher: KeyCipher) -> None:
        async with self._lock:
            versions = await self._store.key_versions()
            if versions == self._cache.versions:
                return
            rows = await self._store.list_keys()
            held = self._cache.versions
            for row in rows:
                if held.get(row.place) != row.update_time_us:
                    self._cache.put(row, _decrypted(cipher, row))
            self._cache.keep(row.place for row in rows)
            self._report()

    def _report(self) -> None:
        unreadable = self._cache.unreadable
        self._observer.provider_keys_unreadable(len(unreadable))
        if unreadable and unreadable != self._reported:
            logger.error("provider_keys_unreadable", extra={"fields": {"keys": _names(unreadable)}})
        self._reported = unreadable


def _check_place(place: KeyPlace) -> None:
    check_name("provider", place.provider, MAX_PROVIDER)
    check_key("tenant", place.tenant)


def _check_tenant(tenant: str) -> None:
    if not _TENANT.fullmatch(tenant):
        raise InvalidRequest.field("tenant", "must be at most 64 letters, digits and . _ -")


def _decrypted(cipher: KeyCipher, row: StoredKey) -> Secret | None:
    try:
        return cipher.decrypt(row.place, row.token)
    except ValueError:
        return None


def _hint(key: Secret) -> str:
    text = key.reveal()
    return text[-HINT_CHARACTERS:] if len(text) >= LEAST_HINTED and not text.startswith("{") else ""


def _names(places: list[KeyPlace]) -> str:
    named = [f"{place.provider} for {place.tenant or 'all tenants'}" for place in places[:_NAMED]]
    more = [f"{len(places) - _NAMED} more"] if len(places) > _NAMED else []
    return ", ".join([*named, *more])
