"""Who is accepted, as whom, and why others are refused."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parley_server.auth import tokens
from parley_server.auth.authenticator import Access, ConfiguredAccess, OpenAccess
from parley_server.core.access import AccessRole, Credentials, Principal, tenants_of
from parley_server.errors import IdentityUnavailable, InvalidRequest, Unauthenticated
from parley_server.settings import Address, ApiKey, IssuerSettings, TenantSettings, load_settings

from tests.clock import ManualClock
from tests.issuer import DROP, ISSUER, Issuer, rsa_key, unsigned, with_pem_as_secret
from tests.unit.auth.test_jwks import Outcomes

CLIENT, ADMIN, BOTH = frozenset({AccessRole.CLIENT}), frozenset({AccessRole.ADMIN}), frozenset(AccessRole)
SECRET = "a secret of thirty-two bytes or more"
THE_ISSUER = Issuer("one", "two")
THE_ISSUER.keys["rsa"] = rsa_key()


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


TENANTS = {
    "shop": TenantSettings(
        api_keys_sha256=(digest_of("key-of-shop"), digest_of("dotted.key.of-shop")),
        certificates=("spiffe://prod/shop", "dns:shop.internal"),
    ),
    "bank": TenantSettings(
        api_keys_sha256=(digest_of("key-of-bank"),), certificates=("spiffe://prod/bank",), roles=("admin",)
    ),
    "strict": TenantSettings(api_keys_sha256=(digest_of("key-of-strict"),), require_end_user=True),
}


def issuers(folder: Any) -> dict[str, IssuerSettings]:
    hmac: dict[str, Any] = {"audience": ("parley",), "secret": ApiKey(SECRET), "algorithms": ("HS256",)}
    claims = {"tenant_claim": "org", "roles_claim": "roles"}
    return {
        "corp": IssuerSettings(
            issuer=ISSUER,
            audience=("other", "parley"),
            jwks=folder / "keys.json",
            algorithms=("RS256", "ES256"),
            tenant="shop",
        ),
        "services": IssuerSettings(issuer="services", end_user_claim="", allow_admin=True, **claims, **hmac),
        "plain": IssuerSettings(issuer="plain", end_user_claim="email", **claims, **hmac),
    }


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def build(tmp_path, clock):
    """Builds an authenticator; arguments replace parts of the settings."""

    def make(**changes: Any) -> OpenAccess | ConfiguredAccess:
        given_settings = load_settings({}).model_copy(
            update={"tenants": TENANTS, "identity": issuers(tmp_path)} | changes
        )
        return Access(
            given_settings, tenants_of(given_settings.tenants), clock=clock, observer=Outcomes()
        ).authenticator

    (tmp_path / "keys.json").write_bytes(THE_ISSUER.jwks())
    return make


async def identified(authenticator: Any, **shown: Any) -> Principal:
    credentials = Credentials(**shown)
    return authenticator.known(credentials) or await authenticator.authenticate(credentials)


def service(issuer: str = "services", *, key: str = SECRET, **claims: Any) -> str:
    usual = {"iss": issuer, "org": "shop", "sub": "billing", "roles": ["client", "root"]}
    return THE_ISSUER.token(kid=None, key=key, algorithm="HS256", **(usual | claims))


def shop(credential: str, end_user: str = "", roles: frozenset[AccessRole] = CLIENT) -> Principal:
    return Principal(tenant="shop", end_user=end_user, roles=roles, credential=credential)


KEY_LABEL = f"key:{digest_of('key-of-shop')[:8]}"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({"authorization": "Bearer key-of-shop"}, shop(KEY_LABEL)),
        ({"authorization": "bEARER  key-of-shop", "end_user": "ada"}, shop(KEY_LABEL, "ada")),
        ({"authorization": "Bearer dotted.key.of-shop"}, shop(f"key:{digest_of('dotted.key.of-shop')[:8]}")),
        (
            {"authorization": "Bearer key-of-bank", "certificate": ("spiffe://prod/shop",)},
            Principal(tenant="bank", roles=ADMIN, credential=f"key:{digest_of('key-of-bank')[:8]}"),
        ),
        ({"certificate": ("spiffe://prod/shop",), "end_user": "ada"}, shop("cert:spiffe://prod/shop", "ada")),
        ({"certificate": ("dns:x", "dns:shop.internal")}, shop("cert:dns:shop.internal")),
        ({"authorization": f"Bearer {THE_ISSUER.token()}"}, shop("jwt:corp:ada", "ada")),
        ({"authorization": f"Bearer {THE_ISSUER.token(kid='rsa')}", "end_user": ""}, shop("jwt:corp:ada", "ada")),
        ({"authorization": f"Bearer {THE_ISSUER.token(aud=['x', 'parley'])}"}, shop("jwt:corp:ada", "ada")),
        ({"authorization": f"Bearer {THE_ISSUER.token(sub='u' * 128)}"}, shop("jwt:corp", "u" * 128)),
        ({"authorization": f"Bearer {service()}"}, shop("jwt:services:billing")),
        ({"authorization": f"Bearer {service()}", "end_user": "ben"}, shop("jwt:services:billing", "ben")),
        ({"authorization": f"Bearer {service(roles='admin client')}"}, shop("jwt:services:billing", roles=BOTH)),
        ({"authorization": f"Bearer {service(roles={'admin': 1})}"}, shop("jwt:services:billing", roles=frozenset())),
        ({"authorization": f"Bearer {service('plain', email='a@b', roles=['admin'])}"},
         shop("jwt:plain:billing", "a@b", roles=frozenset())),
    ],
)  # fmt: skip
async def test_who_is_accepted(build, shown, expected) -> None:
    authenticator = build()
    assert await identified(authenticator, **shown) == expected
    assert authenticator.known(Credentials(**shown)) == expected  # the second time without a wait


async def test_a_token_within_the_leeway_is_accepted_but_not_cached(build) -> None:
    authenticator, token = build(), THE_ISSUER.token(exp=int(time.time()) - 20)
    assert (await identified(authenticator, authorization=f"Bearer {token}")).end_user == "ada"
    assert authenticator.known(Credentials(authorization=f"Bearer {token}")) is None


DEEP_JSON = st.just(base64.urlsafe_b64encode(b"[" * 12_000).decode())
OLD = int(time.time()) - 3600


@pytest.mark.parametrize(
    ("shown", "cause"),
    [
        ({}, "missing"),
        ({"certificate": ()}, "missing"),
        ({"certificate": ("spiffe://prod/shop/x",)}, "certificate"),
        ({"certificate": ("spiffe://prod/shop", "spiffe://prod/bank")}, "certificate"),
        ({"certificate": ("SPIFFE://prod/shop",)}, "certificate"),
        ({"authorization": "", "certificate": ("spiffe://prod/shop",)}, "scheme"),
        ({"authorization": "Bearer wrong", "certificate": ("spiffe://prod/shop",)}, "unknown"),
        ({"authorization": "key-of-shop"}, "scheme"),
        ({"authorization": "Basic key-of-shop"}, "scheme"),
        ({"authorization": "Bearer key-of-shop key-of-shop"}, "scheme"),
        ({"authorization": f"Bearer {digest_of('key-of-shop')}"}, "unknown"),
    ],
)
async def test_who_is_refused(build, shown, cause) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await identified(build(), **shown)
    assert (caught.value.cause, str(caught.value)) == (cause, "the credential is missing or not valid")


DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("token", "cause"),
    [
        ("a.b.c", "malformed"),
        ("..", "malformed"),
        (unsigned(THE_ISSUER.token()), "algorithm"),
        (with_pem_as_secret(THE_ISSUER.token(kid="rsa"), rsa_key()), "algorithm"),
        (THE_ISSUER.token(kid=None, key=SECRET, algorithm="HS256"), "algorithm"),
        (THE_ISSUER.token(kid="two", key=THE_ISSUER.keys["one"]), "signature"),
        (THE_ISSUER.token(kid="three"), "kid"),
        (THE_ISSUER.token(kid=None), "kid"),
        (THE_ISSUER.token(kid="rsa", key=THE_ISSUER.keys["one"]), "kid"),
        (THE_ISSUER.token(exp=OLD), "expired"),
        (THE_ISSUER.token(exp=DROP), "claims"),
        (THE_ISSUER.token(exp=float("inf")), "malformed"),
        (THE_ISSUER.token(nbf=OLD + 7200), "not_yet_valid"),
        (THE_ISSUER.token(iat=OLD + 7200), "not_yet_valid"),
        (THE_ISSUER.token(aud="shop"), "audience"),
        (THE_ISSUER.token(aud=DROP), "claims"),
        (THE_ISSUER.token(iss="https://id.example.com/"), "issuer"),
        (THE_ISSUER.token(iss=DROP), "issuer"),
        (THE_ISSUER.token(iss="services"), "algorithm"),
        (THE_ISSUER.token(sub=DROP), "claims"),
        (THE_ISSUER.token(sub=""), "claims"),
        (THE_ISSUER.token(sub=5), "malformed"),
        (THE_ISSUER.token(sub="u" * 129), "claims"),
        (THE_ISSUER.token(sub="a\nb"), "claims"),
        (THE_ISSUER.token(x=DEEP), None),
        (THE_ISSUER.token(exp=10**400), None),
        (service(key=SECRET + "x"), "signature"),
        (service(org="other"), "tenant"),
        (service(org="*"), "tenant"),
        (service(org=["shop"]), "tenant"),
        (service(org=DROP), "claims"),
        (service(roles=DROP), "claims"),
        (service("plain", email=5), "claims"),
    ],
    ids=lambda value: "token" if value and "." in value else value,  # the same in each process
)  # fmt: skip
async def test_which_tokens_are_refused(build, token, cause) -> None:
    authenticator = build()
    if cause is None:
        assert (await identified(authenticator, authorization=f"Bearer {token}")).end_user == "ada"
        return
    for _ in range(2):  # a refusal is not cached as a success
        with pytest.raises(Unauthenticated) as caught:
            await identified(authenticator, authorization=f"Bearer {token}")
        assert caught.value.cause == cause


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 2), st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60) | DEEP_JSON)
async def test_no_text_causes_another_error(build, position, text) -> None:
    parts = THE_ISSUER.token().split(".")
    parts[position] = text
    for token in (".".join(parts), text):
        with pytest.raises(Unauthenticated):
            await identified(build(), authorization=f"Bearer {token}")


async def test_without_keys_the_caller_is_told_to_retry(build, tmp_path, clock) -> None:
    (tmp_path / "keys.json").write_text("{")
    authenticator = build()
    with pytest.raises(IdentityUnavailable) as caught:
        await identified(authenticator, authorization=f"Bearer {THE_ISSUER.token()}")
    assert caught.value.retry_after_s == 1.0
    (tmp_path / "keys.json").write_bytes(THE_ISSUER.jwks())
    await clock.advance(5.0)
    assert await identified(authenticator, authorization=f"Bearer {THE_ISSUER.token()}")


async def test_a_secret_that_became_too_short_is_not_the_caller_s_fault(build, tmp_path) -> None:
    (tmp_path / "secret").write_text("short")
    issuer = issuers(tmp_path)["services"].model_copy(update={"secret": ApiKey.from_file(tmp_path / "secret")})
    with pytest.raises(IdentityUnavailable):
        await identified(build(identity={"services": issuer}), authorization=f"Bearer {service()}")


async def test_a_verified_token_is_cached_until_it_expires_and_at_most_5_minutes(build, tmp_path, clock) -> None:
    authenticator = build()
    long, short = THE_ISSUER.token(), THE_ISSUER.token(exp=int(time.time()) + 100)
    for token in (long, short):
        await identified(authenticator, authorization=f"Bearer {token}")
    (tmp_path / "keys.json").write_bytes(Issuer("none").jwks())  # from now on, only the cache accepts them
    await clock.advance(90.0)
    assert await identified(authenticator, authorization=f"Bearer {short}")
    await clock.advance(20.0)
    with pytest.raises(Unauthenticated):
        await identified(authenticator, authorization=f"Bearer {short}")
    await clock.advance(180.0)
    assert await identified(authenticator, authorization=f"Bearer {long}")
    await clock.advance(20.0)
    with pytest.raises(Unauthenticated):
        await identified(authenticator, authorization=f"Bearer {long}")


async def test_the_cache_of_tokens_is_bounded(build, monkeypatch) -> None:
    monkeypatch.setattr(tokens, "MAX_CACHED", 2)
    authenticator = build()
    made = [THE_ISSUER.token(sub=name) for name in ("ada", "ben", "cyd")]
    for token in made:
        await identified(authenticator, authorization=f"Bearer {token}")
    known = [authenticator.known(Credentials(authorization=f"Bearer {token}")) for token in made]
    assert [each and each.end_user for each in known] == [None, "ben", "cyd"]


@pytest.mark.parametrize("end_user", ["", "a\nb", "a\x7fb", "u" * 129, None])
@pytest.mark.parametrize("key", ["key-of-strict", "key-of-shop"])
async def test_the_end_user_of_an_api_key_is_checked(build, key, end_user) -> None:
    if end_user is None and key == "key-of-shop":
        assert (await identified(build(), authorization=f"Bearer {key}")).end_user == ""
        return
    with pytest.raises(InvalidRequest) as caught:
        await identified(build(), authorization=f"Bearer {key}", end_user=end_user)
    assert [field for field, _ in caught.value.violations] == ["x-end-user"]


@pytest.mark.parametrize(("host", "roles"), [("127.0.0.1", BOTH), ("::1", BOTH), ("0.0.0.0", CLIENT)])
async def test_an_open_server_accepts_everybody_but_admins_only_on_loopback(build, host, roles) -> None:
    authenticator = build(tenants={}, identity={}, listen=Address(host=host, port=1), insecure=True)
    expected = Principal(tenant="default", end_user="ada", roles=roles, credential="open")
    assert await identified(authenticator, authorization="Bearer wrong", end_user="ada") == expected


async def test_an_open_server_can_require_end_users(build) -> None:
    authenticator = build(tenants={"default": TenantSettings(require_end_user=True)}, identity={})
    with pytest.raises(InvalidRequest):
        await identified(authenticator)
