"""The shape of a valid configuration: immutable values with units in their names, and the bounds of each."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

KIB = 1024
MIB = 1024 * KIB
NANO_USD = 1_000_000_000
MAX_WORKERS = 64

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


class _Shape(BaseModel):
    """Immutable, strict about types, closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def _number(value: Any) -> Any:
    """TOML's numbers are read as `Decimal`, so that prices stay exact; everything else wants floats."""
    if isinstance(value, Decimal):
        return float(value)
    return value


def _plain(value: Any) -> Any:
    """The same without `Decimal` at any depth."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return _number(value)


def _nano_usd(value: Any) -> Any:
    """US dollars as an exact count of billionths."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("must be a number of US dollars")  # noqa: TRY004 - pydantic collects ValueError alone
    nano_usd = Decimal(str(value)) * NANO_USD
    if not nano_usd.is_finite() or nano_usd < 0:
        raise ValueError("must be zero or more")
    if nano_usd != int(nano_usd):
        raise ValueError("must have at most 9 decimal places")
    return int(nano_usd)


Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=86_400)]
NanoUsd = Annotated[int, BeforeValidator(_nano_usd), Field(le=10**18)]
Count = Annotated[int, Field(gt=0)]


class Address(_Shape):
    """A host and a port to listen on; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
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


class Timeouts(_Shape):
    """Limits of a provider's call, in seconds: to connect, until the first token of an attempt (None: as long as suits
    the model), between two tokens."""

    connect: Seconds = 5.0
    first_token: Seconds | None = None
    idle: Seconds = 60.0


class OpenAISettings(_Shape):
    """An endpoint that speaks OpenAI's chat completions. `api_key` is the key itself, already looked up."""

    kind: Literal["openai"] = "openai"
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    timeouts: Timeouts = Timeouts()


class ScriptedSettings(_Shape):
    """The provider that needs no vendor: a typewriter. `script` holds its own options, checked by the provider."""

    kind: Literal["scripted"] = "scripted"
    script: Annotated[dict[str, Any], BeforeValidator(_plain)] = {}


ProviderSettings = OpenAISettings | ScriptedSettings


class PriceSettings(_Shape):
    """Prices for a million tokens in billionths of a US dollar (written in US dollars); None is not known."""

    prompt: NanoUsd | None = None
    cached_prompt: NanoUsd | None = None
    completion: NanoUsd | None = None


class ModelSettings(_Shape):
    """What an alias stands for. 0 tokens: not known, so not checked."""

    provider: str
    name: Annotated[str, Field(min_length=1, max_length=256)]
    context_tokens: Annotated[int, Field(ge=0)] = 0
    max_output_tokens: Annotated[int, Field(ge=0)] = 0
    images: bool = False
    tools: bool = True
    reasoning: bool = False
    prices: PriceSettings = PriceSettings()


class ServerSettings(_Shape):
    """The engine's tunables; docs/configuration.md says what each is for."""

    default_model: str = ""
    max_replies: Count = 4000
    max_prompt_bytes: Annotated[int, Field(ge=MIB)] = 256 * MIB
    max_readers_per_reply: Count = 100
    time_limit_s: Seconds = 600.0
    orphan_ttl_s: Annotated[float, BeforeValidator(_number), Field(ge=0, le=86_400)] = 300.0
    disconnect_cancel_s: Seconds = 10.0
    heartbeat_s: Annotated[float, BeforeValidator(_number), Field(ge=1, le=60)] = 15.0
    checkpoint_interval_s: Annotated[float, BeforeValidator(_number), Field(ge=0.01, le=0.1)] = 0.1
    reconcile_interval_s: Annotated[float, BeforeValidator(_number), Field(ge=0.1, le=60)] = 3.0
    lease_s: Annotated[float, BeforeValidator(_number), Field(ge=1, le=60)] = 12.0
    sweep_interval_s: Annotated[float, BeforeValidator(_number), Field(ge=0.1, le=60)] = 3.0
    relay_heartbeat_s: Annotated[float, BeforeValidator(_number), Field(ge=0.1, le=60)] = 3.0
    relay_retention_s: Annotated[float, BeforeValidator(_number), Field(ge=60, le=86_400)] = 600.0
    drain_pause_s: Annotated[float, BeforeValidator(_number), Field(ge=0, le=600)] = 0.5
    drain_grace_s: Annotated[float, BeforeValidator(_number), Field(ge=0, le=3600)] = 30.0
    ended_logs_ttl_s: Annotated[float, BeforeValidator(_number), Field(ge=0, le=60)] = 60.0
    ended_logs_max_bytes: Annotated[int, Field(ge=0, le=64 * MIB)] = 64 * MIB
    connection_age_s: Annotated[float, BeforeValidator(_number), Field(ge=10, le=86_400)] = 1200.0
    connection_grace_s: Annotated[float, BeforeValidator(_number), Field(ge=1, le=86_400)] = 900.0
    keepalive_s: Annotated[float, BeforeValidator(_number), Field(ge=5, le=7200)] = 30.0
    least_ping_interval_s: Annotated[float, BeforeValidator(_number), Field(ge=0.1, le=300)] = 10.0
    streams_per_connection: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    metadata_bytes: Annotated[int, Field(ge=8 * KIB, le=MIB)] = 16 * KIB
    max_input_text_bytes: Annotated[int, Field(ge=KIB, le=2 * MIB)] = 2 * MIB
    max_images_bytes: Annotated[int, Field(ge=0, le=3 * MIB)] = 3 * MIB
    max_reply_bytes: Annotated[int, Field(ge=KIB, le=2 * MIB)] = 2 * MIB


class TlsSettings(_Shape):
    """PEM files. With `client_ca`, clients must show a certificate that it has signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Settings(_Shape):
    """A whole valid configuration. `server.default_model` names one of `models`; several `workers`, or a relay
    (`redis_url`), come with a PostgreSQL database alone. The URLs may hold passwords and are not part of the `repr`."""

    listen: Address
    metrics_listen: Address | None
    database_url: Annotated[str, Field(repr=False)]
    redis_url: Annotated[str | None, Field(repr=False)] = None
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    insecure: bool
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["json", "text"]
    server: ServerSettings
    tls: TlsSettings | None
    providers: dict[str, ProviderSettings]
    models: dict[str, ModelSettings]
