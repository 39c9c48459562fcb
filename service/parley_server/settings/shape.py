"""The shape of a valid configuration: immutable values with their defaults and bounds, units in their names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from parley_server.settings.issuer_shape import IssuerSettings
from parley_server.settings.keys import ApiKey, GoogleCredentials
from parley_server.settings.model_shape import ModelSettings
from parley_server.settings.tenant_shape import TenantSettings
from parley_server.settings.tracing import TracingSettings
from parley_server.settings.values import Count, Number, Plain, Seconds, Shape

KIB = 1024
MIB = 1024 * KIB
MAX_WORKERS = 64
FIRST_TOKEN_S = 30.0
REASONING_FIRST_TOKEN_S = 120.0

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


Profile = Literal["openai", "azure", "openrouter", "mistral", "deepseek", "xai", "groq", "generic"]
ToolIds = Literal["long", "short"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]


class Address(Shape):
    """A host and a port to listen on; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port` or `[ipv6]:port`; raises ValueError."""
        matched = _ADDRESS.fullmatch(text)
        port = int(matched["port"]) if matched else 0
        if matched is None or port > 65_535 or (matched["ipv6"] and not _is_ipv6(matched["ipv6"])):
            raise ValueError(f'must be "host:port" or "[ipv6]:port" (got "{text}")')
        return cls(host=matched["ipv6"] or matched["host"], port=port)


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


class Timeouts(Shape):
    """Time limits of a provider's call, in seconds: to connect, until the first token of an attempt (None: 30, or 120
    for a model that reasons), between two tokens. `first_token_total` limits all attempts together (None: 1.5 times the
    limit of one attempt)."""

    connect: Seconds = 5.0
    first_token: Seconds | None = None
    first_token_total: Seconds | None = None
    idle: Seconds = 60.0

    def first_token_s(self, *, reasoning: bool) -> float:
        """The limit until the first token, for a model that reasons or does not."""
        usual_s = REASONING_FIRST_TOKEN_S if reasoning else FIRST_TOKEN_S
        return usual_s if self.first_token is None else self.first_token


class Switches(Shape):
    """What one endpoint of OpenAI's dialect accepts and needs. The defaults are those of the profile `generic`.

    In a configuration, only the switches that are set count; the others come from the profile
    (`providers.openai.profile`).

    max_tokens_field: the field of the output limit.
    ask_usage: send `stream_options.include_usage`, until the server refuses that field by name.
    no_store: send `store: false`. no_obfuscation: send `stream_options.include_obfuscation: false`.
    cache_key: send `prompt_cache_key`.
    system_anywhere: system messages may follow the first message.
    alternate: user and assistant messages must alternate strictly.
    prefill: the last message may be the assistant's.
    tool_id: ids of tool calls have 1 to 40 of A-Z, a-z, 0-9, _ and - ("long"), or 9 letters and digits ("short").
    replay_reasoning: in conversations with tools, send back the reasoning of answers as `reasoning_content`
    ("content"), or the `reasoning_details` of the unfinished tool turn ("details").
    done_is_finish: `[DONE]` completes an answer that has neither a finish reason nor usage.
    auth: the header that holds the key, `Authorization: Bearer` or `api-key`.
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    ask_usage: bool = True
    no_store: bool = False
    no_obfuscation: bool = False
    cache_key: bool = False
    system_anywhere: bool = False
    alternate: bool = True
    prefill: bool = True
    tool_id: ToolIds = "short"
    replay_reasoning: Literal["none", "details", "content"] = "none"
    done_is_finish: bool = False
    auth: Literal["bearer", "api-key"] = "bearer"


class EndpointSettings(Shape):
    """What endpoints of all vendors have. `api_key` None: no key is sent, or with `stored_key` one from the database.
    `headers` are added to each request; their values are left out of the `repr`, because they may be secret.

    account: names the account that owns the key, so that a renewed key counts as the same account (empty: each key is
    an account). retries: further attempts for a model that has no fallback left. retry_silence: repeat an attempt that
    had no first token in time.
    """

    base_url: str
    api_key: ApiKey | None = None
    stored_key: bool = False
    headers: Annotated[dict[str, str], Field(repr=False)] = Field(default={})
    account: Annotated[str, Field(max_length=256)] = ""
    timeouts: Timeouts = Timeouts()
    retries: Annotated[int, Field(ge=0, le=10)] = 3
    retry_silence: bool = False


class OpenAISettings(EndpointSettings):
    """An endpoint that speaks OpenAI's chat completions, its Responses API, or both. `profile` None: the profile of the
    host of `base_url`."""

    kind: Literal["openai"] = "openai"
    base_url: str = "https://api.openai.com/v1"
    profile: Profile | None = None
    switches: Switches = Switches()


class AnthropicSettings(EndpointSettings):
    """An endpoint that speaks Anthropic's Messages API of the given version."""

    kind: Literal["anthropic"] = "anthropic"
    base_url: str = "https://api.anthropic.com"
    version: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = "2026-10-21"


class GeminiSettings(EndpointSettings):
    """An endpoint that speaks Google's generateContent API: the Gemini API, or Vertex AI if `project` and `location`
    are set. `base_url` empty: Google's address for that. At most one of `api_key` and `credentials` is set: both come
    from the key `api_key` of the configuration."""

    kind: Literal["gemini"] = "gemini"
    base_url: str = ""
    project: Annotated[str, Field(max_length=128)] = ""
    location: Annotated[str, Field(max_length=64)] = ""
    credentials: GoogleCredentials | None = None


class ScriptedSettings(Shape):
    """A provider without a vendor, which plays a script. The provider checks the options in `script`."""

    kind: Literal["scripted"] = "scripted"
    script: Annotated[dict[str, Any], Plain] = Field(default={})


ProviderSettings = OpenAISettings | AnthropicSettings | GeminiSettings | ScriptedSettings


class ServerSettings(Shape):
    """The table `[server]`; docs/configuration.md describes each key."""

    default_model: str = ""
    summary_model: str = ""
    max_replies: Count = 4000
    max_prompt_bytes: Annotated[int, Field(ge=MIB)] = 256 * MIB
    max_readers_per_reply: Count = 100
    time_limit_s: Seconds = 600.0
    orphan_ttl_s: Annotated[Number, Field(ge=0, le=86_400)] = 300.0
    disconnect_cancel_s: Seconds = 10.0
    heartbeat_s: Annotated[Number, Field(ge=1, le=60)] = 15.0
    checkpoint_interval_s: Annotated[Number, Field(ge=0.01, le=0.1)] = 0.1
    reconcile_interval_s: Annotated[Number, Field(ge=0.1, le=60)] = 3.0
    lease_s: Annotated[Number, Field(ge=1, le=60)] = 12.0
    sweep_interval_s: Annotated[Number, Field(ge=0.1, le=60)] = 3.0
    relay_heartbeat_s: Annotated[Number, Field(ge=0.1, le=60)] = 3.0
    relay_retention_s: Annotated[Number, Field(ge=60, le=86_400)] = 600.0
    drain_pause_s: Annotated[Number, Field(ge=0, le=600)] = 0.5
    drain_grace_s: Annotated[Number, Field(ge=0, le=3600)] = 30.0
    ended_logs_ttl_s: Annotated[Number, Field(ge=0, le=60)] = 60.0
    ended_logs_max_bytes: Annotated[int, Field(ge=0, le=64 * MIB)] = 64 * MIB
    connection_age_s: Annotated[Number, Field(ge=10, le=86_400)] = 1200.0
    connection_grace_s: Annotated[Number, Field(ge=1, le=86_400)] = 900.0
    keepalive_s: Annotated[Number, Field(ge=5, le=7200)] = 30.0
    least_ping_interval_s: Annotated[Number, Field(ge=0.1, le=300)] = 10.0
    streams_per_connection: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    metadata_bytes: Annotated[int, Field(ge=8 * KIB, le=MIB)] = 16 * KIB
    max_input_text_bytes: Annotated[int, Field(ge=KIB, le=2 * MIB)] = 2 * MIB
    max_images_bytes: Annotated[int, Field(ge=0, le=3 * MIB)] = 3 * MIB
    max_reply_bytes: Annotated[int, Field(ge=KIB, le=2 * MIB)] = 2 * MIB
    reflection: bool = True
    limits_without_redis: Literal["local", "refuse"] = "local"
    hold_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024


class RetentionSettings(Shape):
    """How many days are kept; 0: for ever. `conversations_days` count from the last activity, `usage_days` from the day
    of the acceptance; sums of usage are always kept."""

    conversations_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    usage_days: Annotated[int, Field(ge=0, le=36_500)] = 0


class TlsSettings(Shape):
    """Paths of PEM files. With `client_ca`, clients must present a certificate that it has signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Settings(Shape):
    """A whole valid configuration. `server.default_model` names one of `models`, and `server.summary_model`, unless it
    is empty. `ui_listen` None: no chat page; `ui_hosts` are names that browsers may use for it besides those of
    loopback. `tracing` None: no traces. Several `workers`, or a relay (`redis_url`), require a PostgreSQL database.
    `encryption_keys` encrypt stored API keys, the newest first. They and the URLs, which may contain passwords, are
    left out of the `repr`."""

    listen: Address = Address(host="127.0.0.1", port=50051)
    metrics_listen: Address | None = Address(host="127.0.0.1", port=9464)
    ui_listen: Address | None = None
    ui_hosts: tuple[str, ...] = ()
    database_url: Annotated[str, Field(repr=False)] = "sqlite+aiosqlite:///parley.db"
    redis_url: Annotated[str | None, Field(repr=False)] = None
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    insecure: bool = False
    plaintext: bool = False
    encryption_keys: Annotated[tuple[str, ...], Field(repr=False)] = ()
    log_level: LogLevel = "info"
    log_format: LogFormat = "json"
    genai_metrics: bool = False
    tracing: TracingSettings | None = None
    server: ServerSettings
    retention: RetentionSettings = RetentionSettings()
    tls: TlsSettings | None
    providers: dict[str, ProviderSettings]
    models: dict[str, ModelSettings]
    tenants: dict[str, TenantSettings] = Field(default={})
    identity: dict[str, IssuerSettings] = Field(default={})

    @property
    def is_open(self) -> bool:
        """Whether there is no credential: every caller is accepted."""
        return is_open(self.tenants, self.identity)


def is_open(tenants: Mapping[str, TenantSettings], issuers: Mapping[str, IssuerSettings]) -> bool:
    """Whether neither a tenant has a credential nor is there an issuer of tokens."""
    return not issuers and not any(tenant.has_credential for tenant in tenants.values())
