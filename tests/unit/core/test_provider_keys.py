"""Stored provider keys: the cache of a replica and the rows that others change."""

import asyncio
import contextlib

import pytest
from parley_server.core.provider_keys import POLL_S, KeyCache, ProviderKeys
from parley_server.core.store_types import KeyPlace, StoredKey
from parley_server.errors import InvalidRequest, NotConfigured, ProviderUnauthenticated, StorageUnavailable
from parley_server.secrets.fernet import FernetCipher, new_encryption_key
from parley_server.telemetry.metrics import Metrics

from tests.clock import ManualClock, settle, until
from tests.fakes import FaultyStore

ENCRYPTION_KEY = new_encryption_key()
SHOP = KeyPlace("up", "shop")


class AnyKey:
    """Accepts every key. Implements `KeyRules`."""

    def check_key(self, place, key):
        pass

    async def verify_key(self, provider, key):
        pass


class Replica:
    """The keys of one replica on a store that may be shared."""

    def __init__(self, store, clock, *encryption_keys):
        self.cache = KeyCache()
        self.metrics = Metrics()
        self.store = FaultyStore(store)
        cipher = FernetCipher(encryption_keys or [ENCRYPTION_KEY])
        self.keys = ProviderKeys(
            store=self.store, cache=self.cache, cipher=cipher, rules=AnyKey(), clock=clock, observer=self.metrics
        )

    def used(self, tenant="shop"):
        found = self.cache.find("up", tenant)
        return None if found is None else found.reveal()

    @property
    def unreadable(self):
        return self.metrics.registry.get_sample_value("parley_provider_keys_unreadable")


@contextlib.asynccontextmanager
async def polling(replica):
    task = asyncio.create_task(replica.keys.run())
    yield
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
def clock():
    return ManualClock()


async def test_other_replicas_use_a_changed_key_at_the_next_poll(store, clock):
    here, there = Replica(store, clock), Replica(store, clock)
    await there.keys.load()
    async with polling(there):
        for key in ("sk-one", "sk-two"):
            await here.keys.set(SHOP, f" {key}\n", verify=False)
            assert here.used() == key
            await clock.advance(POLL_S)
            await until(lambda key=key: there.used() == key)
        there.store.unavailable = True
        await here.keys.delete(SHOP)
        assert here.used() is None
        await clock.advance(POLL_S)
        assert there.used() == "sk-two"  # this replica cannot reach the database
        there.store.unavailable = False
        await clock.advance(POLL_S)
        await until(lambda: there.used() is None)


async def test_a_poll_that_read_before_a_change_does_not_undo_it(store, clock):
    replica = Replica(store, clock)
    await Replica(store, clock).keys.set(KeyPlace("up", "bank"), "sk-bank", verify=False)
    block = replica.store.block("list_keys", after=True)
    async with polling(replica):
        await clock.advance(POLL_S)
        await block.reached.wait()
        setting = asyncio.create_task(replica.keys.set(SHOP, "sk-one", verify=False))
        await settle()
        assert "set_key" not in replica.store.calls  # a change waits for the running poll
        block.released.set()
        await setting
        await clock.advance(0)
        assert replica.used() == "sk-one"


async def test_a_wrong_encryption_key_prevents_the_start(store, clock):
    replica = Replica(store, clock)
    await replica.keys.set(SHOP, "sk-one", verify=False)
    await replica.keys.set(KeyPlace("up", ""), "sk-two", verify=False)
    with pytest.raises(NotConfigured, match=r"\(up for all tenants, up for shop\)"):
        await Replica(store, clock, new_encryption_key()).keys.load()


@pytest.mark.parametrize("damage", ["copied", "cut"])
async def test_an_unreadable_row_disables_only_the_key_of_its_tenant(store, clock, damage, caplog):
    here, there = Replica(store, clock), Replica(store, clock)
    row = await here.keys.set(SHOP, "sk-one", verify=False)
    token = row.token if damage == "copied" else row.token[:-8]
    await store.set_key(StoredKey(provider="up", tenant="bank", token=token, hint="", update_time_us=1))
    await there.keys.load()
    assert (there.used(), there.unreadable) == ("sk-one", 1)
    with pytest.raises(ProviderUnauthenticated):
        there.used("bank")
    [line] = [record for record in caplog.records if record.message == "provider_keys_unreadable"]
    assert (line.levelname, line.fields) == ("ERROR", {"keys": "up for bank"})
    await there.keys.set(KeyPlace("up", "bank"), "sk-bank", verify=False)
    assert (there.used("bank"), there.unreadable) == ("sk-bank", 0)


async def test_keys_encrypted_with_the_old_encryption_key_are_used(store, clock):
    await Replica(store, clock).keys.set(SHOP, "sk-one", verify=False)
    replica = Replica(store, clock, new_encryption_key(), ENCRYPTION_KEY)
    await replica.keys.load()
    assert replica.used() == "sk-one"


async def test_the_start_fails_without_the_database(store, clock):
    replica = Replica(store, clock)
    replica.store.unavailable = True
    with pytest.raises(StorageUnavailable):
        await replica.keys.load()


async def test_keys_are_listed_in_pages_and_invalid_pages_are_refused(store, clock):
    keys = Replica(store, clock).keys
    for number in range(5):
        await keys.set(KeyPlace("up", f"t{number}"), f"sk-number-{number:04}", verify=False)
    first = await keys.list(3, "")
    second = await keys.list(3, first.next_page_token)
    assert [(key.tenant, key.hint) for key in (*first.keys, *second.keys)] == [
        (f"t{number}", f"{number:04}") for number in range(5)
    ]
    assert second.next_page_token == ""
    for page_size, token in ((-1, ""), (1, "x"), (1, "WyIiLCIiXQ==")):
        with pytest.raises(InvalidRequest):
            await keys.list(page_size, token)


@pytest.mark.parametrize(
    ("key", "hint"), [("12345678901", ""), ("123456789012", "9012"), ('{"client_email": "a@b.example"}', "")]
)
async def test_a_hint_has_the_last_four_characters_of_a_long_plain_key(store, clock, key, hint):
    assert (await Replica(store, clock).keys.set(SHOP, key, verify=False)).hint == hint


@pytest.mark.parametrize(
    "place", [("up", "a b"), ("up", "a" * 65), ("up", "\0"), ("up", "é"), ("u" * 129, "shop"), ("u\0p", "shop")]
)
async def test_invalid_names_of_providers_and_tenants_are_refused(store, clock, place):
    keys = Replica(store, clock).keys
    for call in (keys.set(KeyPlace(*place), "sk-one", verify=False), keys.delete(KeyPlace(*place))):
        with pytest.raises(InvalidRequest):
            await call
