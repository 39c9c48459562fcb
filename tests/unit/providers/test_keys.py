"""Which key the requests of a tenant use."""

import pytest
from parley_server.core.provider_keys import KeyCache
from parley_server.core.secret import Secret
from parley_server.core.store_types import StoredKey
from parley_server.errors import ProviderUnauthenticated
from parley_server.providers.keys import RequestKeys
from parley_server.settings import ApiKey, OpenAISettings

ENVIRONMENT = {"api_key": ApiKey("environment")}
STORED = {"stored_key": True}


def request_keys(settings, **stored):
    """`stored`: keys by tenant, `common` for all tenants; None cannot be decrypted."""
    cache = KeyCache()
    for tenant, key in stored.items():
        row = StoredKey(provider="up", tenant="" if tenant == "common" else tenant, token="", hint="", update_time_us=1)
        cache.put(row, None if key is None else Secret(key))
    return RequestKeys("up", OpenAISettings(**settings), cache)


@pytest.mark.parametrize(
    ("settings", "stored", "used"),
    [
        (ENVIRONMENT, {}, "environment"),
        (ENVIRONMENT, {"shop": "own"}, "own"),
        (ENVIRONMENT, {"bank": "other"}, "environment"),
        (ENVIRONMENT, {"common": "common"}, "environment"),
        (STORED, {"common": "common"}, "common"),
        (STORED, {"common": "common", "shop": "own"}, "own"),
        (STORED, {"common": None, "shop": "own"}, "own"),
        (STORED, {}, ""),
    ],
)
def test_the_key_of_a_tenant(settings, stored, used):
    keys = request_keys(settings, **stored)
    assert (keys.of("shop"), keys.fingerprint("shop")) == (used, Secret(used).fingerprint)


@pytest.mark.parametrize(("settings", "stored"), [(ENVIRONMENT, {"shop": None}), (STORED, {"common": None})])
def test_a_key_that_cannot_be_decrypted_is_not_replaced_by_another(settings, stored):
    keys = request_keys(settings, **stored)
    with pytest.raises(ProviderUnauthenticated):
        keys.of("shop")
    assert keys.fingerprint("shop") == "unreadable"


def test_no_text_of_a_secret_contains_it():
    assert "sk" not in f"{Secret('sk')!r} {Secret('sk')} {[Secret('sk')]}"
