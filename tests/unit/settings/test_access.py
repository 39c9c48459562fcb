"""Settings of tenants and issuers: values, faults, and which addresses they allow."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from parley_server.auth.tokens import _CAUSES
from parley_server.core.access import Quota, TenantLimits, tenants_of
from parley_server.settings import Settings, SettingsError, load_settings

KEY = hashlib.sha256(b"key").hexdigest()
OTHER_KEY = hashlib.sha256(b"other key").hexdigest()
SHOP = f'[tenants.shop]\napi_keys_sha256 = ["{KEY}"]\n'
BANK = f'[tenants.bank]\napi_keys_sha256 = ["{OTHER_KEY}"]\n'
JWKS = 'jwks = "https://id.example.com/keys"\n'
CORP = '[identity.corp]\nissuer = "https://id.example.com"\naudience = ["parley"]\n'
ENVIRONMENT = {"SECRET": "s" * 32, "SHORT": "s" * 31}


def load(folder: Path, text: str, **environment: str) -> Settings:
    (folder / "parley.toml").write_text(text)
    return load_settings({"PARLEY_CONFIG": str(folder / "parley.toml"), **ENVIRONMENT, **environment})


def faults_of(folder: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(folder, text, **environment)
    return caught.value.faults


def test_a_tenant_is_read_with_all_its_keys(tmp_path: Path) -> None:
    text = f"""
[tenants.shop]
api_keys_sha256 = ["{KEY.upper()}"]
roles = ["client", "admin"]
models = ["scripted"]
require_end_user = true
limits = {{ messages_per_minute = 10, concurrent_replies = 50 }}
quotas = {{ tokens_per_day = 200000, cost_per_month = 0.5 }}
totals = {{ cost_per_day = 20000 }}
"""
    settings = load(tmp_path, text)
    shop = settings.tenants["shop"]
    assert (shop.api_keys_sha256, shop.roles, settings.is_open) == ((KEY,), ("client", "admin"), False)
    policy = tenants_of(settings.tenants).policy("shop")
    assert (policy.models, policy.require_end_user) == (("scripted",), True)
    assert policy.limits == TenantLimits(messages_per_minute=10, concurrent_replies=50)
    assert policy.quotas == Quota(tokens_per_day=200_000, cost_per_month=500_000_000)
    assert policy.totals == Quota(cost_per_day=20_000 * 10**9)


def test_other_tenants_have_the_policy_of_the_star(tmp_path: Path) -> None:
    star = '[tenants."*"]\nlimits = { concurrent_replies = 5 }\n'
    tenants = tenants_of(load(tmp_path, SHOP + star + CORP + JWKS + 'tenant_claim = "org"').tenants)
    assert tenants.policy("shop").limits.concurrent_replies is None
    assert tenants.policy("bank").limits.concurrent_replies == 5
    assert (tenants.known("bank"), tenants_of({}).known("bank")) == (True, False)


def test_an_open_server_limits_its_tenant(tmp_path: Path) -> None:
    settings = load(tmp_path, "[tenants.default]\nlimits = { messages_per_minute = 3 }")
    assert settings.is_open
    assert tenants_of(settings.tenants).policy("default").limits.messages_per_minute == 3


def test_an_issuer_is_read_with_its_key_file_or_its_secret(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"kty": "RSA"}]}))
    other = CORP.replace("corp", "other").replace("id.", "other.")
    text = SHOP + CORP + 'jwks = "file:keys.json"\ntenant = "shop"\n' + other + 'secret = "env:SECRET"\ntenant = "shop"'
    issuers = load(tmp_path, text).identity
    assert (issuers["corp"].jwks, issuers["corp"].algorithms) == (tmp_path / "keys.json", ("RS256",))
    assert issuers["other"].secret is not None
    assert (issuers["other"].secret.current(), issuers["other"].algorithms) == ("s" * 32, ("HS256",))


CA = "[tls]\ncertificate = 'none'\nkey = 'none'\nclient_ca = 'none'\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[tenants]", "tenants: must be a table of one or more tables"),
        ('[tenants."a b"]', "tenants.a b: a name has 1 to 64 letters, digits and . _ -, or is"),
        ('[tenants.shop]\napi_keys_sha256 = ["secret"]', "tenants.shop.api_keys_sha256.0: must be 64 hexadecimal digi"),
        (
            f'[tenants.shop]\napi_keys_sha256 = ["{hashlib.sha256(b"").hexdigest()}"]',
            "tenants.shop.api_keys_sha256.0: is the SHA-256 of an empty key",
        ),
        (SHOP + SHOP.replace("shop", "bank"), "tenants.bank.api_keys_sha256.0: is also in tenants.shop"),
        (f'[tenants.shop]\napi_keys_sha256 = ["{KEY}", "{KEY}"]', "tenants.shop.api_keys_sha256.1: is also in tenants"),
        (SHOP + "roles = []", "tenants.shop.roles: must have at least 1 item"),
        (SHOP + 'roles = ["root"]', "tenants.shop.roles.0: must be 'client' or 'admin'"),
        (SHOP + 'models = ["scriptd"]', 'tenants.shop.models.0: no model has the alias "scriptd"; did you mean script'),
        (SHOP + "models = []", "tenants.shop.models: must have at least 1 item"),
        (SHOP + "limits = { messages_per_minute = 601 }", "tenants.shop.limits.messages_per_minute: must be at most 6"),
        (SHOP + "limits = { messages_per_minut = 6 }", "tenants.shop.limits.messages_per_minut: unknown key; did you "),
        (SHOP + "limits = { concurrent_replies = 0 }", "tenants.shop.limits.concurrent_replies: must be at least 1"),
        (SHOP + "quotas = { tokens_per_day = 1.5 }", "tenants.shop.quotas.tokens_per_day: must be a whole number"),
        (SHOP + "totals = { cost_per_day = 0 }", "tenants.shop.totals.cost_per_day: must be at least 1"),
        (SHOP + 'certificates = ["spiffe://a/b"]', "tenants.shop.certificates: need tls.client_ca"),
        (CA + SHOP + 'certificates = ["shop"]', "tenants.shop.certificates.0: must be a URI such as"),
        (
            CA + SHOP + 'certificates = ["spiffe://a/b"]\n' + BANK + 'certificates = ["spiffe://a/b"]',
            "tenants.bank.certificates.0: is also in tenants.shop",
        ),
        ("[tenants.shop]", "tenants.shop: no API key, certificate or [identity.NAME] leads to this tenant"),
        (SHOP + '[tenants."*"]', "tenants.*: no API key, certificate or [identity.NAME] leads to this tenant"),
        (SHOP + "[tenants.default]", "tenants.default: no API key, certificate or [identity.NAME] leads to this ten"),
        (SHOP.replace("shop", '"*"'), "tenants.*.api_keys_sha256, certificates: need a tenant with a name"),
        ('[tenants.default]\nroles = ["admin"]', "tenants.default.roles: are those of API keys and certificates"),
    ],
)  # fmt: skip
def test_faults_of_tenants(tmp_path: Path, text: str, fault: str) -> None:
    found = faults_of(tmp_path, text)
    assert [each for each in found if each.startswith(fault)], found
    assert "secret" not in "".join(found)


TENANT = 'tenant = "shop"\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[identity.corp]", "identity.corp.issuer: is required"),
        (CORP + TENANT, "identity.corp.jwks, secret: exactly one of the two is required"),
        (CORP + JWKS + TENANT + 'secret = "env:SECRET"', "identity.corp.jwks, secret: exactly one of the two"),
        (CORP.replace('["parley"]', "[]") + JWKS + TENANT, "identity.corp.audience: must have at least 1 item"),
        (CORP + 'jwks = "http://id.example.com/k"\n' + TENANT, "identity.corp.jwks: must be an https URL (http only o"),
        (CORP + 'jwks = "https://u:secret@h/k"\n' + TENANT, "identity.corp.jwks: must not contain a user or a passwor"),
        (CORP + 'jwks = "file:absent.json"\n' + TENANT, "identity.corp.jwks: the file absent.json cannot be read"),
        (CORP + 'jwks = "file:parley.toml"\n' + TENANT, "identity.corp.jwks: the file parley.toml must be a JSON obje"),
        (CORP + 'jwks = "file:/dev/zero"\n' + TENANT, "identity.corp.jwks: the file zero must be a regular file"),
        (CORP + 'secret = "s"\n' + TENANT, 'identity.corp.secret: must be "env:NAME" or "file:PATH", never the key'),
        (CORP + 'secret = "env:SHORT"\n' + TENANT, "identity.corp.secret: must have at least 32 bytes"),
        (CORP + JWKS + TENANT + 'algorithms = ["none"]', "identity.corp.algorithms.0: must be 'RS256', 'ES256' or 'HS"),
        (CORP + JWKS + TENANT + 'algorithms = ["RS256", "HS256"]', "identity.corp.algorithms: HS256 is for a secret"),
        (CORP + 'secret = "env:SECRET"\nalgorithms = ["RS256"]\n' + TENANT, "identity.corp.algorithms: HS256 is for a"),
        (CORP + JWKS, "identity.corp.tenant, tenant_claim: exactly one of the two is required"),
        (CORP + JWKS + 'tenant = "bank"', "identity.corp.tenant: there is neither [tenants.bank] nor"),
        (CORP + JWKS + TENANT + 'roles = ["admin"]', "identity.corp.roles: admin needs allow_admin = true"),
        (CORP + JWKS + TENANT + 'roles = ["client"]\nroles_claim = "r"', "identity.corp.roles: must not be set togeth"),
        (
            CORP + JWKS + TENANT + CORP.replace("corp", "other") + JWKS + TENANT,
            "identity.other.issuer: is that of another [identity.NAME], too",
        ),
    ],
)  # fmt: skip
def test_faults_of_issuers(tmp_path: Path, text: str, fault: str) -> None:
    found = faults_of(tmp_path, SHOP + text)
    assert [each for each in found if each.startswith(fault)], found
    assert "secret@" not in "".join(found)


OPEN_EVERYWHERE = "listen: 0.0.0.0:1 is not loopback and there are no credentials"
READABLE = "listen: 0.0.0.0:1 is not loopback, and without TLS others can read the credentials"


@pytest.mark.parametrize(
    ("text", "environment", "fault"),
    [
        ("", {}, OPEN_EVERYWHERE),
        ("", {"PARLEY_PLAINTEXT": "1"}, OPEN_EVERYWHERE),
        (SHOP, {}, READABLE),
        (SHOP, {"PARLEY_INSECURE": "1"}, READABLE),
        ("", {"PARLEY_INSECURE": "1"}, None),
        (SHOP, {"PARLEY_PLAINTEXT": "1"}, None),
    ],
)
def test_which_addresses_are_allowed(tmp_path: Path, text: str, environment: dict[str, str], fault: str | None) -> None:
    text = 'listen = "0.0.0.0:1"\n' + text
    if fault is None:
        assert load(tmp_path, text, **environment).listen.host == "0.0.0.0"
    else:
        assert [each[: len(fault)] for each in faults_of(tmp_path, text, **environment)] == [fault]


HOSTS = 'ui_hosts = "chat.example"\n'
OPEN_PAGE = "ui_listen: 0.0.0.0:1 is not loopback and there are no credentials; configure [tenants]"
READABLE_PAGE = "ui_listen: 0.0.0.0:1 is not loopback, and others can read the API keys"
NAMELESS_PAGE = "ui_hosts: is required, because 0.0.0.0:1 is not loopback"
BEHIND_PROXY = {"PARLEY_PLAINTEXT": "1"}


@pytest.mark.parametrize(
    ("text", "environment", "faults"),
    [
        ("", {"PARLEY_INSECURE": "1", "PARLEY_PLAINTEXT": "1"}, [OPEN_PAGE, NAMELESS_PAGE]),
        (HOSTS, {"PARLEY_INSECURE": "1"}, [OPEN_PAGE]),
        (HOSTS + SHOP, {}, [READABLE_PAGE]),
        (SHOP, BEHIND_PROXY, [NAMELESS_PAGE]),
        (HOSTS + SHOP, BEHIND_PROXY, []),
    ],
)
def test_which_addresses_of_the_page_are_allowed(
    tmp_path: Path, text: str, environment: dict[str, str], faults: list[str]
) -> None:
    text = 'ui_listen = "0.0.0.0:1"\n' + text
    if not faults:
        assert str(load(tmp_path, text, **environment).ui_listen) == "0.0.0.0:1"
        return
    found = faults_of(tmp_path, text, **environment)
    assert [each[: len(fault)] for each, fault in zip(found, faults, strict=True)] == faults


ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/access.md").read_text()


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_of_the_page_load(tmp_path: Path, example: str) -> None:
    if "/etc/parley/" in example:
        assert {fault.rpartition("/")[2] for fault in faults_of(tmp_path, example)} == {
            f"{name} does not exist" for name in ("tls.crt", "tls.key", "ca.crt")
        }
    else:
        assert not load(tmp_path, example).is_open


def test_every_cause_of_a_refused_credential_is_documented() -> None:
    code = "".join(file.read_text() for file in (ROOT / "service/parley_server").glob("[ar][up]*/*.py"))
    causes = {*re.findall(r'Unauthenticated\("(\w+)"\)', code), *_CAUSES.values()}
    table = PAGE.partition("| `cause` | meaning |")[2].partition("\n## ")[0]
    assert {cause for line in table.splitlines() for cause in re.findall(r"`(\w+)`", line.split(" | ")[0])} == causes
