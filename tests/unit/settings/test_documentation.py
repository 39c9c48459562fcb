"""docs/configuration.md documents every key with its default and every metric of the code, and its example loads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from parley_server.providers.known_models import UNKNOWN
from parley_server.providers.openai.profile import PROFILES
from parley_server.providers.resolved import resolved_model
from parley_server.providers.scripted.script import Script
from parley_server.settings import (
    AnthropicSettings,
    GeminiSettings,
    IssuerSettings,
    ModelSettings,
    OpenAISettings,
    PriceSettings,
    QuotaSettings,
    RetentionSettings,
    ScriptedSettings,
    ServerSettings,
    Settings,
    Switches,
    TenantLimitSettings,
    TenantSettings,
    Timeouts,
    TlsSettings,
    load_settings,
)
from parley_server.telemetry.metrics import Metrics
from pydantic import BaseModel

PAGE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
TABLES = {
    "timeouts",
    "switches",
    "prices",
    "server",
    "tls",
    "retention",
    "providers",
    "models",
    "tenants",
    "identity",
    "limits",
    "quotas",
}
READ_FROM_OTHER_KEYS = {"credentials", "stored_key"}
MODEL_DEFAULTS = (
    "context_tokens",
    "max_output_tokens",
    "images",
    "image_urls",
    "tools",
    "json_schema",
    "prefill",
    "sampling",
    "reasoning",
    "reasoning_summary",
    "cache_min",
    "api",
)


def row(key: str) -> list[str]:
    """The cells of the table row that begins with this key."""
    (found,) = re.findall(rf"^\| `{re.escape(key)}` \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


def keys() -> list[str]:
    shapes: dict[type[BaseModel], str] = {
        ServerSettings: "",
        TlsSettings: "",
        RetentionSettings: "",
        ModelSettings: "",
        PriceSettings: "prices.",
        Timeouts: "timeouts.",
        Switches: "switches.",
        OpenAISettings: "",
        AnthropicSettings: "",
        GeminiSettings: "",
        ScriptedSettings: "",
        TenantSettings: "",
        TenantLimitSettings: "limits.",
        QuotaSettings: "quotas.",
        IssuerSettings: "",
    }
    names = [prefix + name for shape, prefix in shapes.items() for name in shape.model_fields if name not in TABLES]
    return sorted(set(names) - READ_FROM_OTHER_KEYS)


@pytest.mark.parametrize("key", keys())
def test_every_key_has_a_row(key: str) -> None:
    assert f"\n| `{key}` |" in PAGE  # the same key may be in two tables


@pytest.mark.parametrize("key", [name for name in Settings.model_fields if name not in TABLES | {"tracing"}])
def test_every_scalar_has_a_row_with_its_variable(key: str) -> None:
    assert row(f"PARLEY_{key.upper()}")[0] == f"`{key}`"


@pytest.mark.parametrize("name", [name for name in ServerSettings.model_fields if not name.endswith("_model")])
def test_defaults_of_the_server_are_those_of_the_code(name: str) -> None:
    default = ServerSettings.model_fields[name].default
    documented = row(name)[1].split()[0].strip("`")
    assert documented == str(default).lower() if isinstance(default, bool | str) else float(documented) == default


@pytest.mark.parametrize("name", MODEL_DEFAULTS)
def test_defaults_of_models_are_those_of_the_code(name: str) -> None:
    entry = ModelSettings(provider="p", name="x")
    model = resolved_model("a", entry, OpenAISettings(base_url="http://x/v1"), UNKNOWN, is_default=False)
    assert row(name)[1].split()[0].strip("`") == str(getattr(model, name)).lower()


@pytest.mark.parametrize("key", ["listen", "metrics_listen", "database_url", "log_level", "log_format"])
def test_defaults_of_scalars_are_those_of_the_code(key: str) -> None:
    assert row(f"PARLEY_{key.upper()}")[2] == f"`{getattr(load_settings({}), key)}`"


def test_switches_of_profiles_are_those_of_the_code() -> None:
    for name in Switches.model_fields:
        values = [cell.strip("`") for cell in row(f"switches.{name}")[1:]]
        assert values == [str(getattr(each, name)).lower() for each in PROFILES.values()], name


def test_every_switch_and_profile_can_be_set() -> None:
    assert OpenAISettings.model_fields["profile"].annotation == Literal[*PROFILES] | None


def test_the_example_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "parley.toml").write_text(example)
    (tmp_path / "anthropic.key").write_text("k")
    settings = load_settings({"PARLEY_CONFIG": str(tmp_path / "parley.toml"), "OPENAI_API_KEY": "k"})
    assert settings.server.drain_grace_s == 60.0


def test_every_option_of_a_script_is_documented() -> None:
    (paragraph,) = re.findall(r"^The options of `script`.*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    assert [name for name in Script.__struct_fields__ if f"`{name}`" not in paragraph] == []


def test_every_metric_is_documented() -> None:
    families: list[Any] = [family for family in Metrics().registry.collect() if family.name.startswith("parley_")]
    names = [family.name + ("_total" if family.type == "counter" else "") for family in families]
    assert [name for name in names if f"`{name}`" not in PAGE] == []
