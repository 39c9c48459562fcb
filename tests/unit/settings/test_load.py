"""Loading of valid configurations."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from parley_server.providers.known_models import known_models
from parley_server.settings import (
    Address,
    ApiKey,
    GeminiSettings,
    GoogleCredentials,
    ModelTimeouts,
    OpenAISettings,
    PriceSettings,
    ScriptedSettings,
    Settings,
    SettingsError,
    Timeouts,
    load_settings,
)
from pydantic import ValidationError

EXAMPLE = """
listen = "127.0.0.1:6000"
log_format = "text"
[providers.openai]
kind = "openai"
base_url = "https://api.openai.com/v1"
api_key = "env:OPENAI_API_KEY"
[providers.openai.timeouts]
connect = 5
first_token = 30
idle = 60.5
[providers.typewriter]
kind = "scripted"
[models.fast]
provider = "openai"
name = "gpt-5.6-luna"
context_tokens = 400000
max_output_tokens = 16384
images = true
prices = { prompt = 0.25, cached_prompt = 0.025, completion = 2.00 }
[models.slow]
provider = "typewriter"
name = "lines"
[server]
default_model = "fast"
heartbeat_s = 20
"""


def configured(folder: Path, text: str) -> dict[str, str]:
    path = folder / "parley.toml"
    path.write_text(text)
    return {"PARLEY_CONFIG": str(path)}


def key_of(settings: Settings, provider: str) -> ApiKey:
    found = settings.providers[provider]
    assert isinstance(found, OpenAISettings)
    assert found.api_key is not None
    return found.api_key


def test_defaults_without_a_configuration() -> None:
    settings = load_settings({})
    assert settings.listen == Address(host="127.0.0.1", port=50051)
    assert settings.metrics_listen == Address(host="127.0.0.1", port=9464)
    assert settings.database_url == "sqlite+aiosqlite:///parley.db"
    assert (settings.redis_url, settings.workers) == (None, 1)
    assert (settings.insecure, settings.log_level, settings.log_format) == (False, "info", "json")
    assert settings.providers == {"scripted": ScriptedSettings()}
    assert {alias: (model.provider, model.name) for alias, model in settings.models.items()} == {
        "scripted": ("scripted", "scripted")
    }
    assert settings.server.default_model == "scripted"


def test_a_key_in_the_environment_makes_openai_the_default() -> None:
    settings = load_settings({"OPENAI_API_KEY": "sk-secret-1234567"})
    assert key_of(settings, "openai").current() == "sk-secret-1234567"
    assert list(settings.models) == ["gpt-5.6-luna", "scripted"]
    assert settings.server.default_model == "gpt-5.6-luna"
    assert settings.models["gpt-5.6-luna"].like in known_models()
    assert "sk-secret" not in repr(settings)


def test_openai_base_url_sets_the_url_of_the_built_in_provider() -> None:
    provider = load_settings({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://localhost:1/v1"}).providers["openai"]
    assert isinstance(provider, OpenAISettings)
    assert provider.base_url == "http://localhost:1/v1"


def test_the_documented_example(tmp_path: Path) -> None:
    settings = load_settings({**configured(tmp_path, EXAMPLE), "OPENAI_API_KEY": "secret"})
    assert settings.listen == Address(host="127.0.0.1", port=6000)
    assert settings.log_format == "text"
    key = key_of(settings, "openai")
    assert key.current() == "secret"
    assert settings.providers["openai"] == OpenAISettings(
        api_key=key, timeouts=Timeouts(connect=5.0, first_token=30.0, idle=60.5)
    )
    model = settings.models["fast"]
    assert (model.context_tokens, model.max_output_tokens, model.images, model.tools) == (400_000, 16_384, True, None)
    assert settings.server.default_model == "fast"
    assert settings.server.heartbeat_s == 20.0


@pytest.mark.parametrize(
    ("usd", "nano_usd"),
    [
        ("0.25", 250_000_000),
        ("0.1", 100_000_000),
        ("2.00", 2_000_000_000),
        ("0.000000001", 1),
        ("3", 3_000_000_000),
        ("1.100000003", 1_100_000_003),
        ("0", 0),
    ],
)
def test_prices_are_exact(tmp_path: Path, usd: str, nano_usd: int) -> None:
    text = f'[models.a]\nprovider = "scripted"\nname = "a"\nprices = {{ prompt = {usd} }}'
    assert load_settings(configured(tmp_path, text)).models["a"].prices == PriceSettings.model_construct(
        prompt=nano_usd, cached_prompt=None, completion=None
    )


def test_arguments_override_the_environment_and_the_environment_the_file(tmp_path: Path) -> None:
    environment = configured(tmp_path, 'listen = "127.0.0.1:1"\nlog_level = "debug"\ninsecure = true')
    assert load_settings(environment).listen.port == 1
    environment |= {"PARLEY_LISTEN": "127.0.0.1:2", "PARLEY_INSECURE": "0"}
    settings = load_settings(environment)
    assert (settings.listen.port, settings.insecure, settings.log_level) == (2, False, "debug")
    assert load_settings(environment, {"listen": "127.0.0.1:3", "log_level": None}).listen.port == 3


def test_an_empty_variable_counts_as_unset_except_that_of_the_metrics() -> None:
    settings = load_settings(
        {"PARLEY_LISTEN": "", "PARLEY_REDIS_URL": "", "PARLEY_CONFIG": "", "PARLEY_METRICS_LISTEN": ""}
    )
    assert settings.listen.port == 50051
    assert settings.metrics_listen is None


@pytest.mark.parametrize("word", ["1", "true", "YES", "on"])
def test_insecure_allows_any_address(word: str) -> None:
    settings = load_settings({"PARLEY_LISTEN": "0.0.0.0:50051", "PARLEY_INSECURE": word})
    assert settings.listen == Address(host="0.0.0.0", port=50051)


@pytest.mark.parametrize("text", ["localhost:1", "127.8.9.1:0", "[::1]:65535"])
def test_loopback_needs_no_permission(text: str) -> None:
    assert str(load_settings({"PARLEY_LISTEN": text}).listen) == text


def test_the_chat_page_is_off_unless_it_is_configured(tmp_path: Path) -> None:
    assert load_settings({}).ui_listen is None
    configuration = configured(tmp_path, 'ui_listen = "localhost:8081"\nui_hosts = "Chat.example, b.example"')
    settings = load_settings(configuration)
    assert str(settings.ui_listen) == "localhost:8081"
    assert settings.ui_hosts == ("chat.example", "b.example")
    assert load_settings({**configuration, "PARLEY_UI_LISTEN": ""}).ui_listen is None


def test_service_links_of_kubernetes_and_the_key_of_parley_chat_are_ignored() -> None:
    load_settings(
        {
            "PARLEY_API_KEY": "of parley chat",
            "PARLEY_SERVICE_HOST": "10.0.0.1",
            "PARLEY_SERVICE_PORT": "50051",
            "PARLEY_SERVICE_PORT_GRPC": "50051",
            "PARLEY_PORT": "tcp://10.0.0.1:50051",
            "PARLEY_PORT_50051_TCP": "tcp://10.0.0.1:50051",
            "PARLEY_PORT_50051_TCP_ADDR": "10.0.0.1",
            "PARLEY_WEB_SERVICE_HOST": "10.0.0.2",
        }
    )


def test_a_key_file_is_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n")
    text = '[providers.p]\nkind = "openai"\napi_key = "file:key"\n[models.m]\nprovider = "p"\nname = "n"'
    settings = load_settings(configured(tmp_path, text))
    assert key_of(settings, "p").current() == "from-a-file"
    assert settings.server.default_model == "m"


def test_a_key_variable_may_begin_with_parley(tmp_path: Path) -> None:
    text = '[providers.p]\nkind = "openai"\napi_key = "env:PARLEY_P_KEY"\n[models.m]\nprovider = "p"\nname = "n"'
    load_settings({**configured(tmp_path, text), "PARLEY_P_KEY": "x"})


def test_headers_may_come_from_the_environment_and_are_not_shown(tmp_path: Path) -> None:
    text = '[providers.p]\nkind = "openai"\nbase_url = "http://x/v1"\nheaders = { A = "env:PARLEY_A", B = "two" }\n'
    environment = configured(tmp_path, text + '[models.m]\nprovider = "p"\nname = "n"')
    settings = load_settings({**environment, "PARLEY_A": "secret"})
    provider = settings.providers["p"]
    assert isinstance(provider, OpenAISettings)
    assert provider.headers == {"A": "secret", "B": "two"}
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("reference", "credentials"),
    [("google:metadata", GoogleCredentials()), ("google:account.json", GoogleCredentials(Path("account.json")))],
)
def test_gemini_takes_credentials_of_google_cloud(
    tmp_path: Path, reference: str, credentials: GoogleCredentials
) -> None:
    (tmp_path / "account.json").write_text("{}")
    text = f'[providers.g]\nkind = "gemini"\nproject = "shop"\nlocation = "global"\napi_key = "{reference}"\n'
    provider = load_settings(configured(tmp_path, text + '[models.m]\nprovider = "g"\nname = "n"')).providers["g"]
    assert isinstance(provider, GeminiSettings)
    file = credentials.service_account
    assert provider.credentials == GoogleCredentials(file and tmp_path / file)
    assert provider.api_key is None


def test_a_model_may_have_all_its_abilities_configured(tmp_path: Path) -> None:
    text = """
[providers.p]
kind = "anthropic"
api_key = "env:KEY"
[models.m]
provider = "p"
name = "n"
like = "anthropic/claude-haiku-5-5"
fallback = ["o"]
efforts = ["low", "high"]
retires = 2027-01-31
extra_body = { service_tier = "auto", weight = 0.5 }
timeouts = { first_token = 9, first_token_total = 20 }
prices = { prompt = 1, cache_write = 1.25, completion = 5, tiers = [{ above = 100, prompt = 2, completion = 9 }] }
[models.o]
provider = "p"
name = "n"
[server]
default_model = "m"
summary_model = "o"
"""
    settings = load_settings({**configured(tmp_path, text), "KEY": "k"})
    model = settings.models["m"]
    assert (model.fallback, model.efforts, model.retires) == (("o",), ("low", "high"), date(2027, 1, 31))
    assert model.extra_body == {"service_tier": "auto", "weight": 0.5}
    assert type(model.extra_body["weight"]) is float
    assert model.timeouts == ModelTimeouts(first_token=9.0, first_token_total=20.0)
    assert model.prices is not None
    assert (model.prices.cache_write, model.prices.tiers[0].completion) == (1_250_000_000, 9_000_000_000)
    assert settings.server.summary_model == "o"


def test_a_script_is_passed_on_in_plain_values(tmp_path: Path) -> None:
    script = '{ text = "a", pace_s = 0.5, pauses = [{ after = 1, seconds = 1.5 }] }'
    text = f'[providers.p]\nkind = "scripted"\nscript = {script}\n[models.m]\nprovider = "p"\nname = "n"'
    provider = load_settings(configured(tmp_path, text)).providers["p"]
    assert isinstance(provider, ScriptedSettings)
    assert provider.script == {"text": "a", "pace_s": 0.5, "pauses": [{"after": 1, "seconds": 1.5}]}
    assert type(provider.script["pace_s"]) is float
    assert type(provider.script["pauses"][0]["seconds"]) is float


def test_settings_cannot_be_changed() -> None:
    settings = load_settings({})
    with pytest.raises(ValidationError):
        settings.insecure = True  # type: ignore[misc]


def test_stored_keys_need_encryption_keys(tmp_path: Path) -> None:
    file = tmp_path / "parley.toml"
    file.write_text('[providers.up]\nkind = "openai"\napi_key = "stored"\n[models.m]\nprovider = "up"\nname = "m"\n')
    environment = {"PARLEY_CONFIG": str(file)}
    with pytest.raises(SettingsError, match=r'providers\.up\.api_key: "stored" needs PARLEY_ENCRYPTION_KEYS'):
        load_settings(environment)
    encryption_keys = ("A" * 43 + "=", "-_" * 21 + "A=")
    settings = load_settings(environment | {"PARLEY_ENCRYPTION_KEYS": " , ".join(encryption_keys)})
    assert settings.encryption_keys == encryption_keys
    assert settings.providers["up"] == OpenAISettings(stored_key=True)
    assert encryption_keys[0] not in repr(settings)
