"""Which keys of a changed configuration a running server applies, which need a restart, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parley_server.settings import Settings, SettingsError, change_of, load_settings

DIGEST, OTHER_DIGEST = "ab" * 32, "cd" * 32
SHOP = f'[tenants.shop]\napi_keys_sha256 = ["{DIGEST}"]\n'
BASE = """
[providers.up]
kind = "openai"
base_url = "http://up.example/v1"
api_key = "file:up.key"
[providers.typewriter]
kind = "scripted"
[models.fast]
provider = "up"
name = "m"
[models.slow]
provider = "typewriter"
name = "scripted"
[server]
default_model = "fast"
"""


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Loads a configuration: `load(TOML, **variables)`."""

    def loaded(toml: str = BASE, **environment: str) -> Settings:
        (tmp_path / "parley.toml").write_text(toml)
        return load_settings({"PARLEY_CONFIG": str(tmp_path / "parley.toml"), **environment})

    (tmp_path / "up.key").write_text("sk-first")
    return loaded


def test_the_same_configuration_changes_nothing(load) -> None:
    change = change_of(load(BASE + SHOP), load(BASE + SHOP))
    assert (change.applied, change.waiting) == ((), ())


@pytest.mark.parametrize(
    ("before", "after", "applied"),
    [
        ('name = "m"', 'name = "n"', ("models.fast",)),
        ("up.example", "down.example", ("providers.up",)),
        ('name = "m"', 'name = "m"\nprices = { prompt = 1, completion = 2 }', ("models.fast",)),
        ('default_model = "fast"', 'default_model = "slow"', ("server.default_model",)),
        ("[server]", '[server]\nsummary_model = "slow"', ("server.summary_model",)),
        (DIGEST, OTHER_DIGEST, ("tenants.shop",)),
        ("[tenants.shop]", "[tenants.shop]\nlimits = { messages_per_minute = 3 }", ("tenants.shop",)),
        ("[tenants.shop]", f'[tenants.bank]\napi_keys_sha256 = ["{OTHER_DIGEST}"]\n[tenants.shop]', ("tenants.bank",)),
        ('[models.slow]\nprovider = "typewriter"\nname = "scripted"\n', "", ("models.slow",)),
    ],
)
def test_what_is_applied(load, before: str, after: str, applied: tuple[str, ...]) -> None:
    text = BASE + SHOP
    assert before in text
    loaded = load(text.replace(before, after))
    change = change_of(load(text), loaded)
    assert (change.applied, change.waiting) == (applied, ())
    assert change.settings == loaded


def test_the_key_of_a_file_is_part_of_its_provider(load, tmp_path) -> None:
    running = load()
    (tmp_path / "up.key").write_text("sk-second")
    assert change_of(running, load()).applied == ("providers.up",)
    (tmp_path / "up.key").write_text("sk-first")
    assert change_of(running, load()).applied == ()


def test_an_issuer_is_applied(load) -> None:
    issuer = '[identity.corp]\nissuer = "i"\naudience = ["parley"]\nsecret = "env:SECRET"\ntenant = "shop"\n'
    running = load(BASE + SHOP, SECRET="s" * 32)
    change = change_of(running, load(BASE + SHOP + issuer, SECRET="s" * 32))
    assert change.applied == ("identity.corp",)


def test_all_other_keys_wait_for_a_restart_and_keep_their_values(load) -> None:
    toml = BASE.replace("[server]", '[server]\nmax_replies = 7\ndrain_grace_s = 1\nsummary_model = "slow"')
    running, loaded = load(), load(f'listen = "127.0.0.1:9"\nlog_level = "debug"\n{toml}[retention]\nusage_days = 3\n')
    change = change_of(running, loaded)
    assert change.applied == ("server.summary_model",)
    assert set(change.waiting) == {
        "listen",
        "log_level",
        "server.max_replies",
        "server.drain_grace_s",
        "retention.usage_days",
    }
    kept = change.settings
    assert (kept.listen, kept.server.max_replies, kept.retention) == (running.listen, 4000, running.retention)
    assert kept.server.summary_model == "slow"


def test_the_paths_of_tls_wait_for_a_restart(load) -> None:
    certificates = Path(__file__).parents[3] / "tests"
    tls = load().model_copy(update={"tls": None})
    loaded = tls.model_copy(update={"tls": _tls(certificates)})
    assert change_of(tls, loaded).waiting == ("tls",)
    moved = loaded.model_copy(update={"tls": _tls(certificates / "moved")})
    assert change_of(loaded, moved).waiting == ("tls.certificate", "tls.key")


def test_every_key_is_either_applied_or_waits() -> None:
    """No field of the settings is forgotten: two settings that differ everywhere are told apart field by field."""
    running = load_settings({})
    for name in Settings.model_fields:
        if name in ("providers", "models", "tenants", "identity", "server"):
            continue
        changed = running.model_copy(update={name: "another value"})
        assert change_of(running, changed).waiting == (name,)


def test_a_server_with_credentials_is_not_opened(load) -> None:
    with pytest.raises(SettingsError) as refused:
        change_of(load(BASE + SHOP), load(BASE))
    (fault,) = refused.value.faults
    assert fault.startswith("tenants, identity: without the last credential every caller would be accepted")


def test_what_is_applied_must_be_valid_beside_what_is_not(load) -> None:
    outside, key = {"PARLEY_LISTEN": "0.0.0.0:1", "PARLEY_PLAINTEXT": "1"}, "A" * 43 + "="
    with pytest.raises(SettingsError) as refused:
        change_of(load(BASE + SHOP, **outside), load(BASE))
    assert any("0.0.0.0:1 is not loopback" in fault for fault in refused.value.faults)
    with pytest.raises(SettingsError, match=r"providers\.up\.api_key: .*without a restart"):
        change_of(load(), load(BASE.replace('"file:up.key"', '"stored"'), PARLEY_ENCRYPTION_KEYS=key))
    with_client_ca = load(BASE + SHOP)
    certified = with_client_ca.tenants["shop"].model_copy(update={"certificates": ("dns:shop",)})
    with pytest.raises(SettingsError, match=r"tenants\.shop\.certificates: need tls\.client_ca"):
        change_of(with_client_ca, with_client_ca.model_copy(update={"tenants": {"shop": certified}}))


def _tls(folder: Path) -> Any:
    from parley_server.settings import TlsSettings

    return TlsSettings(certificate=folder / "tls.crt", key=folder / "tls.key")
