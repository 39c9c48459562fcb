"""The configuration: the only code that reads the environment and the TOML file. It imports no adapter."""

from parley_server.settings.change import Change, change_of
from parley_server.settings.faults import SettingsError, did_you_mean
from parley_server.settings.issuer_shape import IssuerSettings
from parley_server.settings.keys import ApiKey, GoogleCredentials
from parley_server.settings.load import load_settings
from parley_server.settings.model_shape import ModelSettings, ModelTimeouts, PriceSettings, TierSettings
from parley_server.settings.shape import (
    Address,
    AnthropicSettings,
    EndpointSettings,
    GeminiSettings,
    OpenAISettings,
    Profile,
    ProviderSettings,
    RetentionSettings,
    ScriptedSettings,
    ServerSettings,
    Settings,
    Switches,
    Timeouts,
    TlsSettings,
    ToolIds,
)
from parley_server.settings.source import SettingsSource
from parley_server.settings.tenant_shape import QuotaSettings, TenantLimitSettings, TenantSettings
from parley_server.settings.tracing import TracingSettings
from parley_server.settings.urls import is_sqlite, without_secrets

__all__ = [
    "Address",
    "AnthropicSettings",
    "ApiKey",
    "Change",
    "EndpointSettings",
    "GeminiSettings",
    "GoogleCredentials",
    "IssuerSettings",
    "ModelSettings",
    "ModelTimeouts",
    "OpenAISettings",
    "PriceSettings",
    "Profile",
    "ProviderSettings",
    "QuotaSettings",
    "RetentionSettings",
    "ScriptedSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "SettingsSource",
    "Switches",
    "TenantLimitSettings",
    "TenantSettings",
    "TierSettings",
    "Timeouts",
    "TlsSettings",
    "ToolIds",
    "TracingSettings",
    "change_of",
    "did_you_mean",
    "is_sqlite",
    "load_settings",
    "without_secrets",
]
