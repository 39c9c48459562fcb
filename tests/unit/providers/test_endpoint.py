"""The origin of kept wire items differs for everything that makes a vendor refuse them; a model's own fields."""

import re

import pytest
from parley_server.core.provider_keys import KeyCache
from parley_server.core.secret import Secret
from parley_server.core.store_types import StoredKey
from parley_server.providers.endpoint import Endpoint
from parley_server.providers.keys import RequestKeys
from parley_server.settings import ApiKey, OpenAISettings

from tests.integration.providers.recording import model, prompt

URL = "https://a.example/v1"


def origin(kind="openai", api="chat", model="m", *, url=URL, key="k", account="", project="", own="", tenant="shop"):
    settings = OpenAISettings(base_url=url, api_key=ApiKey(key), account=account)
    cache = KeyCache()
    if own:
        place = {"provider": "acme", "tenant": "shop"}
        cache.put(StoredKey(**place, token="", hint="", update_time_us=1), Secret(own))
    keys = RequestKeys("acme", settings, cache)
    return Endpoint("acme", settings, keys=keys).origin(kind, api, model, tenant=tenant, account=project)


def test_an_origin_is_the_same_for_equal_endpoints():
    assert origin() == origin()
    assert re.fullmatch("[0-9a-f]{16}", origin())


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "x"},
        {"api": "responses"},
        {"model": "n"},
        {"url": "https://b.example/v1"},
        {"key": "l"},
        {"account": "k"},
        {"own": "l"},
    ],
)
def test_an_origin_differs(changed):
    assert origin(**changed) != origin()


def test_a_named_account_or_project_keeps_its_origin_when_the_key_changes():
    assert origin(account="a", key="k") == origin(account="a", key="l", project="p")
    assert origin(project="p", key="k") == origin(project="p", key="l")
    assert origin(project="p") != origin()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ('{"b": {"d": 3}}', {"a": 1, "b": {"c": 2, "d": 3}}),
        ('{"b": {"c": 3}, "a": {"d": 1}}', {"a": {"d": 1}, "b": {"c": 3}}),
        ('{"b": null, "e": [1]}', {"a": 1, "b": None, "e": [1]}),
        ("", {"a": 1, "b": {"c": 2}}),
    ],
)
def test_extra_fields_are_added_and_objects_joined(extra, expected):
    endpoint = Endpoint("acme", OpenAISettings(base_url=URL))
    body = {"a": 1, "b": {"c": 2}}
    assert endpoint.completed(prompt(model=model(extra_body=extra)), body) == expected
    assert body == {"a": 1, "b": {"c": 2}}


def test_the_own_key_of_a_tenant_belongs_to_no_configured_account():
    assert origin(account="a", own="l") != origin(account="a")
    assert origin(account="a", own="l") == origin(account="b", project="p", own="l")
    assert origin(account="a", own="l", tenant="bank") == origin(account="a")
