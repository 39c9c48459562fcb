"""Stored provider keys over real calls: whose key a request sends, checks of keys, starts, audit lines."""

import io
import json
from typing import Any

import grpc
import pytest
from parley.v1 import admin_pb2
from parley_server.errors import NotConfigured
from parley_server.secrets.fernet import new_encryption_key
from parley_server.telemetry.logs import configure_logging

from tests.integration.served import KEY, Watch, ask, refused, tenant
from tests.integration.test_log_lines import lines  # noqa: F401 - a fixture
from tests.processes import until
from tests.upstream import Hang, Script, Upstream, refusal

ENCRYPTION_KEY = new_encryption_key()
MARK = "sk-MARKED"
OPS = [("authorization", "Bearer key-of-ops")]
TENANTS = tenant("shop", "key-of-shop") + tenant("bank", "key-of-bank") + tenant("ops", "key-of-ops", roles=["admin"])
ACCOUNT = json.dumps({"client_email": "a", "private_key": "b", "token_uri": "c"})
OTHERS = """
[providers.router]
kind = "openai"
profile = "openrouter"
base_url = "{url}"
[providers.claude]
kind = "anthropic"
base_url = "{url}/x"
[providers.google]
kind = "gemini"
base_url = "{url}"
[providers.vertex]
kind = "gemini"
base_url = "{url}"
project = "p"
location = "global"
"""


async def set_key(server, key, tenant="", provider="up", *, verify=False):
    request = admin_pb2.SetProviderKeyRequest(provider=provider, api_key=key, tenant=tenant, verify=verify)
    return await server.admin.SetProviderKey(request, metadata=OPS, timeout=20)


async def listed(server):
    answer = await server.admin.ListProviderKeys(admin_pb2.ListProviderKeysRequest(), metadata=OPS)
    return [(key.provider, key.tenant, key.hint) for key in answer.keys]


async def delete(server, tenant):
    await server.admin.DeleteProviderKey(admin_pb2.DeleteProviderKeyRequest(provider="up", tenant=tenant), metadata=OPS)


async def sent_by(server, upstream, tenant):
    """The key that a reply of this tenant sends to the upstream."""
    before = len(upstream.requests)
    metadata = [("authorization", f"Bearer key-of-{tenant}")]
    watch = await Watch(server.chat.StreamReply(ask(), metadata=metadata)).end()
    assert watch.kinds[-1] == "finished", watch.chunks
    [request] = upstream.requests[before:]
    return request.headers["authorization"].removeprefix("Bearer ")


async def failure_of(server, tenant):
    metadata = [("authorization", f"Bearer key-of-{tenant}")]
    return await refused(server.chat.StreamReply(ask(), metadata=metadata))


@pytest.fixture
async def server(serve):
    return await serve(access=TENANTS, encryption_keys=ENCRYPTION_KEY)


async def test_s1_2_a_stored_key_is_encrypted_and_used_until_it_is_deleted(server, upstream):
    assert await sent_by(server, upstream, "shop") == KEY
    stored = await set_key(server, f"{MARK}-shop-1234", "shop")
    assert (stored.provider, stored.tenant, stored.hint) == ("up", "shop", "1234")
    assert stored.update_time.seconds > 0
    assert await listed(server) == [("up", "shop", "1234")]
    assert MARK not in str(server.sql("SELECT * FROM provider_key"))
    assert [await sent_by(server, upstream, each) for each in ("shop", "bank")] == [f"{MARK}-shop-1234", KEY]
    await delete(server, "shop")
    assert await sent_by(server, upstream, "shop") == KEY
    assert await listed(server) == []


async def test_the_key_of_a_tenant_comes_before_the_common_one(serve, upstream):
    server = await serve(access=TENANTS, encryption_keys=ENCRYPTION_KEY, key="stored")
    refusal_ = await failure_of(server, "shop")
    assert (refusal_.code, refusal_.reason) == (grpc.StatusCode.ABORTED, "PROVIDER_UNAUTHENTICATED")
    assert "no usable API key is stored" in refusal_.message
    await set_key(server, f"{MARK}-common")
    await set_key(server, f"{MARK}-shop", "shop")
    server = await server.restart()
    assert [await sent_by(server, upstream, each) for each in ("shop", "bank")] == [f"{MARK}-shop", f"{MARK}-common"]


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"provider": "nobody"}, "PROVIDER_NOT_FOUND", []),
        ({"provider": "typewriter"}, "INVALID_REQUEST", ["provider"]),
        ({"tenant": ""}, "NOT_CONFIGURED", []),
        ({"tenant": "sh op"}, "INVALID_REQUEST", ["tenant"]),
        ({"key": ""}, "INVALID_REQUEST", ["api_key"]),
        ({"key": "k" * 7}, "INVALID_REQUEST", ["api_key"]),
        ({"key": "k" * 4097}, "INVALID_REQUEST", ["api_key"]),
        ({"key": f"{MARK}\nX-Injected: 1"}, "INVALID_REQUEST", ["api_key"]),
        ({"key": '{"client_email": "a"}', "provider": "vertex"}, "INVALID_REQUEST", ["api_key"]),
        ({"key": ACCOUNT, "provider": "google"}, "INVALID_REQUEST", ["api_key"]),
        ({"key": "{" + " " * 16_384 + "}", "provider": "vertex"}, "INVALID_REQUEST", ["api_key"]),
    ],
)  # fmt: skip
async def test_wrong_keys_are_refused_and_not_stored(serve, upstream, fields, reason, field):
    server = await serve(access=TENANTS, encryption_keys=ENCRYPTION_KEY, models=OTHERS.replace("{url}", upstream.url))
    found = await refused(set_key(server, **{"key": f"{MARK}-1", "tenant": "shop"} | fields))
    assert (found.reason, found.fields) == (reason, field)
    assert MARK not in f"{found.message}{found.status}"
    assert await listed(server) == []


async def test_without_encryption_keys_no_key_can_be_stored(serve):
    server = await serve(access=TENANTS)
    found = await refused(set_key(server, f"{MARK}-1", "shop"))
    assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_CONFIGURED")
    assert "parley encryption-key" in found.message
    assert await listed(server) == []


GOOD = Script([b"{}"], headers={"Content-Type": "application/json"})
INVALID = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}


@pytest.mark.parametrize(
    ("provider", "path", "header"),
    [
        ("up", "/v1/models", "authorization"),
        ("router", "/v1/key", "authorization"),
        ("claude", "/v1/x/v1/models?limit=1", "x-api-key"),
        ("google", "/v1/models?pageSize=1", "x-goog-api-key"),
        ("vertex", "/v1/publishers/google/models?pageSize=1", "authorization"),
    ],
)
async def test_a_key_is_verified_with_its_provider(serve, upstream, provider, path, header):
    server = await serve(access=TENANTS, encryption_keys=ENCRYPTION_KEY, models=OTHERS.replace("{url}", upstream.url))
    upstream.reply_next(refusal(401), refusal(400, INVALID), refusal(500), refusal(302, Location="/"), GOOD)
    key = f"{MARK}-verified"
    for reason, status in (
        ("INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT),
        ("INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT),
        ("PROVIDER_UNAVAILABLE", grpc.StatusCode.ABORTED),
        ("PROVIDER_UNAVAILABLE", grpc.StatusCode.ABORTED),
    ):
        found = await refused(set_key(server, key, "shop", provider, verify=True))
        assert (found.reason, found.code) == (reason, status)
        assert await listed(server) == []
    await set_key(server, key, "shop", provider, verify=True)
    assert await listed(server) == [(provider, "shop", "fied")]
    assert {(request.method, request.path) for request in upstream.requests} == {("GET", path)}
    assert upstream.requests[-1].headers[header].removeprefix("Bearer ") == key


async def test_a_provider_that_is_away_or_hangs_verifies_no_key(serve, monkeypatch):
    monkeypatch.setattr("parley_server.providers.endpoint.VERIFY_S", 0.2)
    async with Upstream() as away:
        away.reply_with(Script(before_head=[Hang()]))
        server = await serve(access=TENANTS, encryption_keys=ENCRYPTION_KEY, url=away.url)
        hanging = await refused(set_key(server, f"{MARK}-1", "shop", verify=True))
    gone = await refused(set_key(server, f"{MARK}-1", "shop", verify=True))
    assert [hanging.reason, gone.reason] == ["PROVIDER_UNAVAILABLE"] * 2
    assert await listed(server) == []


async def test_a_wrong_encryption_key_stops_the_start_and_one_bad_row_does_not(serve, upstream):
    server = await serve(access=TENANTS, encryption_keys=ENCRYPTION_KEY)
    await set_key(server, f"{MARK}-shop", "shop")
    await server.stop()
    with pytest.raises(NotConfigured, match="up for shop"):
        await serve(access=TENANTS, encryption_keys=new_encryption_key())
    server = await serve(access=TENANTS, encryption_keys=f"{new_encryption_key()},{ENCRYPTION_KEY}")
    copied = "INSERT INTO provider_key SELECT provider, 'bank', token, hint, 1 FROM provider_key"
    server.sql(copied)
    server = await server.restart()
    assert await sent_by(server, upstream, "shop") == f"{MARK}-shop"
    assert (await failure_of(server, "bank")).reason == "PROVIDER_UNAUTHENTICATED"


async def test_each_call_of_admin_has_an_audit_line(server, lines):  # noqa: F811 - the fixture
    configure_logging("error", "json", stream := io.StringIO())
    await set_key(server, f"{MARK}-shop-1234", "shop")
    await refused(set_key(server, "short", "shop"))
    await listed(server)
    await refused(
        server.admin.DeleteProviderKey(
            admin_pb2.DeleteProviderKeyRequest(provider="up"), metadata=[("authorization", "Bearer key-of-shop")]
        )
    )
    await refused(server.admin.ListProviderKeys(admin_pb2.ListProviderKeysRequest()))

    async def audited() -> list[dict[str, Any]]:
        """All lines, once the last call's is written, which is after its answer."""
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        return lines if sum(line["event"] == "audit" for line in lines) >= 5 else []

    found = await until(audited, "an audit line for each call")
    shown = [
        (line["method"].rpartition("/")[2], line["outcome"], line.get("tenant"), line.get("target_tenant"))
        for line in found
        if line["event"] == "audit"
    ]
    assert shown == [
        ("SetProviderKey", "OK", "ops", "shop"),
        ("SetProviderKey", "INVALID_REQUEST", "ops", "shop"),
        ("ListProviderKeys", "OK", "ops", None),
        ("DeleteProviderKey", "FORBIDDEN", "shop", None),
        ("ListProviderKeys", "UNAUTHENTICATED", None, None),
    ]
    assert found[0]["credential"].startswith("key:")
    assert found[0]["target_provider"] == "up"
    assert MARK not in stream.getvalue()
