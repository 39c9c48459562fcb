"""Rows of encrypted provider keys on both databases."""

from parley_server.core.store_types import KeyPlace, StoredKey

SHOP = KeyPlace("openai", "shop")


def key(provider="openai", tenant="shop", token="t", time_us=10):
    return StoredKey(provider=provider, tenant=tenant, token=token, hint="abcd", update_time_us=time_us)


async def test_a_key_replaces_the_former_one_with_a_later_time(store):
    assert await store.set_key(key()) == key()
    assert await store.set_key(key(token="u", time_us=20)) == key(token="u", time_us=20)
    # the clock of another replica is late
    assert await store.set_key(key(token="v", time_us=5)) == key(token="v", time_us=21)
    assert await store.key_versions() == {SHOP: 21}


async def test_pages_are_ordered_by_provider_and_tenant(store):
    for provider, tenant in (("b", "x"), ("a", "y"), ("a", ""), ("b", "")):
        await store.set_key(key(provider, tenant))
    every = [("a", ""), ("a", "y"), ("b", ""), ("b", "x")]
    assert [row.place for row in await store.list_keys()] == every
    assert [row.place for row in await store.list_keys(KeyPlace("a", ""), 2)] == every[1:3]
    assert await store.list_keys(KeyPlace("a\0", "")) == []


async def test_a_deleted_key_is_gone(store):
    await store.set_key(key())
    for place in (KeyPlace("openai", ""), KeyPlace("open\0ai", "shop")):
        await store.delete_key(place)
    assert await store.list_keys() == [key()]
    await store.delete_key(SHOP)
    await store.delete_key(SHOP)
    assert await store.list_keys() == []


async def test_a_token_is_replaced_only_where_the_key_has_not_changed(store):
    row = await store.set_key(key())
    assert await store.replace_token(row, "rotated")
    assert await store.list_keys() == [key(token="rotated")]
    assert not await store.replace_token(row, "again")
    assert await store.list_keys() == [key(token="rotated")]
