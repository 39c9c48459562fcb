"""All faults of a configuration are reported at once, with their place and without a secret."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from parley_server.settings import SettingsError, load_settings

from tests.tools import tool

MODEL = '[models.m]\nprovider = "scripted"\nname = "n"\n'


def faults_of(folder: Path, text: str = "", environment: dict[str, str] | None = None) -> list[str]:
    path = folder / "parley.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings({"PARLEY_CONFIG": str(path), **(environment or {})})
    return caught.value.faults


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = """
colour = "red"
log_level = "loud"
[tenants.shop]
role = ["client"]
[providers.openai]
kind = "openai"
api_key = "env:ABSENT"
[providers.openai.timeouts]
connect = -1
conect = 5
[providers.other]
kind = "opnai"
[models.fast]
provider = "opnai"
name = "x"
fallback = ["slow"]
prices = { prompt = -0.5 }
[server]
default_model = "fats"
max_replys = 3
heartbeat_s = 90
"""
    environment = {"PARLEY_LISTEN": "nowhere", "PARLEY_LOGLEVEL": "info", "PARLEY_ENCRYPTION_KEYS": "pw"}
    assert faults_of(tmp_path, text, environment) == [
        "colour: unknown key",
        "PARLEY_LOGLEVEL: unknown variable; did you mean PARLEY_LOG_LEVEL?",
        'PARLEY_LISTEN: must be "host:port" or "[ipv6]:port" (got "nowhere")',
        'log_level: must be debug, info, warning or error (got "loud")',
        "PARLEY_ENCRYPTION_KEYS: must be keys that `parley encryption-key` makes, with commas between them",
        "providers.openai.api_key: the environment variable ABSENT is not set",
        "providers.openai.timeouts.connect: must be greater than 0 (got -1)",
        "providers.openai.timeouts.conect: unknown key; did you mean connect?",
        'providers.other.kind: must be "openai", "anthropic", "gemini" or "scripted"; did you mean openai?',
        "models.fast.prices.prompt: must be zero or more",
        'models.fast.provider: no provider has the name "opnai"; did you mean openai?',
        "server.heartbeat_s: must be at most 60 (got 90)",
        "server.max_replys: unknown key; did you mean max_replies?",
        "tenants.shop.role: unknown key; did you mean roles?",
    ]


OPENAI = '[providers.p]\nkind = "openai"\n'
ANTHROPIC = '[providers.p]\nkind = "anthropic"\n'
GEMINI = '[providers.p]\nkind = "gemini"\n'
TIERS = "prices = { prompt = 1, completion = 1, tiers = [%s] }"
TIER = "{ above = %s, prompt = 2, completion = 2 }"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("fallback = 1", "fallback: unknown key"),
        ('listn = "a"', "listn: unknown key; did you mean listen?"),
        ("listen = 5", "listen: must be a string"),
        ('insecure = "perhaps"', "insecure: must be 1 or 0, true or false"),
        ('encryption_keys = "k"', "encryption_keys: must be keys that `parley encryption-key` makes"),
        ('database_url = "sqlite+aiosqlite:///:memory:"', "database_url: must name a file"),
        ('database_url = "mysql://u:secret@h/d"', 'database_url: must be "sqlite+aiosqlite:///PATH" of a file, or "p'),
        (
            'redis_url = "redis://:secret@h"',
            "redis_url: a relay needs PostgreSQL, because only one process",
        ),
        ("workers = 2", "workers: several workers cannot share a SQLite file: set PARLEY_REDIS_URL, and PARLEY_DATA"),
        ("workers = true", "workers: must be a whole number from 1 to 64"),
        ("workers = 1.0", "workers: must be a whole number from 1 to 64"),
        ("providers = 5", "providers: must be a table of one or more tables"),
        ("[providers]\np = 5", "providers.p: must be a table"),
        ("[providers.p]\nbase_url = 5", "providers.p.kind: is required"),
        ('[providers.p]\nkind = "openai"\nbase_url = "ftp://u:secret@x"', "providers.p.base_url: must be an http or"),
        (OPENAI + 'base_url = "https://u:secret@x/v1"', "providers.p.base_url: must not contain a user or a password"),
        (OPENAI + 'base_url = "https://secret@x/v1"', "providers.p.base_url: must not contain a user or a password"),
        (OPENAI + 'base_url = "https://x/v1?key=secret"', "providers.p.base_url: must not have a query or a frag"),
        (OPENAI + 'base_url = "https://x/v1?"', "providers.p.base_url: must not have a query or a fragment"),
        (OPENAI + 'base_url = "https://x/v1#secret"', "providers.p.base_url: must not have a query or a fragment"),
        (OPENAI + 'base_url = "https://x/v1/chat/completions"', "providers.p.base_url: must end before /chat/comp"),
        (OPENAI + 'base_url = "https://x/v1/responses/"', "providers.p.base_url: must end before /responses"),
        (OPENAI + 'base_url = "https://x:70000/v1"', "providers.p.base_url: must be an http or https URL with a host"),
        (
            ANTHROPIC + 'base_url = "https://x/v1"',
            "providers.p.base_url: must end before /v1, which the server appends",
        ),
        (ANTHROPIC + 'base_url = "https://u:secret@x"', "providers.p.base_url: must not contain a user or a password"),
        (ANTHROPIC + 'version = "now"', "providers.p.version: must match"),
        (ANTHROPIC, 'providers.p.api_key: is required for the vendor\'s own address, such as "env:ANTHROPIC_API_KEY"'),
        (OPENAI, 'providers.p.api_key: is required for the vendor\'s own address, such as "env:OPENAI_API_KEY"'),
        (GEMINI, 'providers.p.api_key: is required for the vendor\'s own address, such as "env:GEMINI_API_KEY"'),
        (
            GEMINI + 'base_url = "https://eu-aiplatform.googleapis.com"',
            "providers.p.api_key: is required for the vendor",
        ),
        (GEMINI + 'base_url = "https://x/v1/models"', "providers.p.base_url: must end before /models"),
        (GEMINI + 'project = "shop"', 'providers.p.location: is required with project, such as "global"'),
        (GEMINI + 'location = "global"', "providers.p.project: is required with location"),
        (GEMINI + 'api_key = "google:metadata"', 'providers.p.api_key: "google:" needs project and location'),
        (GEMINI + 'api_key = "google:none.json"', 'providers.p.api_key: must be "google:metadata" or "google:PATH" of'),
        (GEMINI + "credentials = 5", "providers.p.credentials: unknown key; did you mean api_key?"),
        (OPENAI + 'api_key = "google:metadata"', 'providers.p.api_key: "google:" is only for providers of kind "gem'),
        (OPENAI + "headers = 5", "providers.p.headers: must be a table (got 5)"),
        (OPENAI + "headers = { x = 5 }", "providers.p.headers.x: must be a string"),
        (OPENAI + 'headers = { x = "secret\\n" }', "providers.p.headers.x: must be printable ASCII characters"),
        (
            OPENAI + 'headers = { x = "env:ABSENT" }',
            "providers.p.headers.x: the environment variable ABSENT is not set",
        ),
        (OPENAI + 'headers = { "a b" = "x" }', "providers.p.headers: contains a name that HTTP does not allow"),
        (OPENAI + 'headers = { Host = "x" }', "providers.p.headers.Host: is set by the server"),
        (OPENAI + 'headers = { user-agent = "x" }', "providers.p.headers.user-agent: is set by the server"),
        (
            OPENAI + 'headers = { Authorization = "secret" }',
            "providers.p.headers.Authorization: is set by the server; put the key into api_key",
        ),
        (OPENAI + "retries = 11", "providers.p.retries: must be at most 10 (got 11)"),
        (MODEL + 'fallback = ["m"]', "models.m.fallback: must not contain the model itself"),
        (MODEL + 'fallback = ["n"]', 'models.m.fallback: no model has the alias "n"'),
        (MODEL + f"fallback = {[str(n) for n in range(8)]}", "models.m.fallback: must have at most 7 items"),
        (
            MODEL + 'fallback = ["o", "o"]\n[models.o]\nprovider = "scripted"\nname = "n"',
            'models.m.fallback: contains "o" twice',
        ),
        (MODEL + "fallback = 5", "models.m.fallback: must be an array (got 5)"),
        (MODEL + 'api = "completions"', "models.m.api: must be 'chat' or 'responses' (got \"completions\")"),
        (MODEL + 'api = "chat"', 'models.m.api: only models of providers of kind "openai" have a choice of API'),
        (MODEL + "extra_body = { messages = [] }", "models.m.extra_body: must not contain messages, which the server"),
        (MODEL + "extra_body = { a = [2027-01-01] }", "models.m.extra_body: must contain only what JSON can express"),
        (MODEL + "extra_body = { a = { b = inf } }", "models.m.extra_body: must contain only what JSON can express"),
        (MODEL + "efforts = [1]", "models.m.efforts.0: must be a string (got 1)"),
        (MODEL + 'retires = "soon"', "models.m.retires: must be a date, such as 2027-01-31"),
        (MODEL + "timeouts = { connect = 5 }", "models.m.timeouts.connect: unknown key"),
        (MODEL + "timeouts = { idle = 0 }", "models.m.timeouts.idle: must be greater than 0 (got 0)"),
        (MODEL + TIERS % f"{TIER % 9}, {TIER % 9}", "models.m.prices.tiers: must be in ascending order of `above`"),
        (
            MODEL + TIERS % "{ above = 9, promt = 2 }",
            "models.m.prices.tiers.0.promt: unknown key; did you mean prompt?",
        ),
        (MODEL + TIERS % (TIER % 0), "models.m.prices.tiers.0.above: must be greater than 0 (got 0)"),
        (MODEL + "prices = { tiers = 5 }", "models.m.prices.tiers: must be an array (got 5)"),
        (MODEL + '[server]\nsummary_model = "mm"', 'server.summary_model: no model has the alias "mm"; did you mean m'),
        (OPENAI + 'profile = "opnai"', "providers.p.profile: must be 'openai', 'azure'"),
        (OPENAI + "switches = { alternat = true }", "providers.p.switches.alternat: unknown key; did you mean alter"),
        (OPENAI + "switches = { alternate = 1 }", "providers.p.switches.alternate: must be true or false (got 1)"),
        (OPENAI + 'switches = { tool_id = "9" }', "providers.p.switches.tool_id: must be 'long' or 'short' (got \"9"),
        (MODEL + "max_output_tokens = 2147483648", "models.m.max_output_tokens: must be at most 2147483647"),
        (MODEL + "prices = { prompt = 1000000.1 }", "models.m.prices.prompt: must be at most 1000000000000000"),
        ('[providers.p]\nkind = "openai"\nbase_url = 5', "providers.p.base_url: must be a string (got 5)"),
        ('[providers.p]\nkind = "openai"\napi_key = "sk-secret"', 'providers.p.api_key: must be "env:NAME" or "file'),
        ('[providers.p]\nkind = "openai"\napi_key = "stored"', 'providers.p.api_key: "stored" needs PARLEY_ENCRYPTION'),
        ('[providers.p]\nkind = "openai"\napi_key = "file:none"', "providers.p.api_key: the file none cannot be read"),
        ('[providers.p]\nkind = "scripted"\napi_key = "x-secret"', "providers.p.api_key: unknown key"),
        ('[providers.p]\nkind = "scripted"', "models: [providers] requires at least one [models.ALIAS]"),
        ('[models."a b"]\nprovider = "scripted"\nname = "n"', "models.a b: a name has 1 to 128 letters, digits and"),
        ('[models.m]\nname = "n"', "models.m.provider: is required"),
        ('[models.m]\nprovider = "scripted"\nname = ""', "models.m.name: must not be empty"),
        (MODEL + "images = 1", "models.m.images: must be true or false (got 1)"),
        (MODEL + "context_tokens = 1.5", "models.m.context_tokens: must be a whole number (got 1.5)"),
        (MODEL + 'context_tokens = "9"', "models.m.context_tokens: must be a whole number"),
        (MODEL + "prices = 5", "models.m.prices: must be a table (got 5)"),
        (MODEL + "prices = { prompt = inf }", "models.m.prices.prompt: must be zero or more"),
        (MODEL + "prices = { prompt = true }", "models.m.prices.prompt: must be a number of US dollars"),
        (MODEL + "prices = { prompt = 0.0000000001 }", "models.m.prices.prompt: must have at most 9 decimal places"),
        (MODEL + '[models.o]\nprovider = "scripted"\nname = "n"', "server.default_model: is required if there are"),
        (
            MODEL + '[server]\ndefault_model = "mm"',
            'server.default_model: no model has the alias "mm"; did you mean m?',
        ),
        ("server = 5", "server: must be a table (got 5)"),
        ("[server]\ntime_limit_s = nan", "server.time_limit_s: must be greater than 0 (got NaN)"),
        ("[server]\norphan_ttl_s = inf", "server.orphan_ttl_s: must be at most 86400 (got Infinity)"),
        ("[server]\norphan_ttl_s = nan", "server.orphan_ttl_s: must be at least 0 (got NaN)"),
        ("[server]\ntime_limit_s = true", "server.time_limit_s: must be a number (got true)"),
        ("[server]\ncheckpoint_interval_s = 0.2", "server.checkpoint_interval_s: must be at most 0.1 (got 0.2)"),
        ("[server]\nlease_s = 0.5", "server.lease_s: must be at least 1 (got 0.5)"),
        ("[server]\nsweep_interval_s = 61", "server.sweep_interval_s: must be at most 60 (got 61)"),
        ("[server]\nrelay_heartbeat_s = 0", "server.relay_heartbeat_s: must be at least 0.1 (got 0)"),
        ("[server]\nrelay_retention_s = 5", "server.relay_retention_s: must be at least 60 (got 5)"),
        ("[tls]\ncertificate = 'c.pem'", "tls.key: is required"),
        ("[tls]\ncertificate = 'c.pem'\nkey = 'k.pem'", "tls.certificate: the file "),
        ("tls = 5", "tls: must be a table (got 5)"),
    ],
)
def test_each_fault_is_reported(tmp_path: Path, text: str, fault: str) -> None:
    faults = faults_of(tmp_path, text)
    assert any(line.startswith(fault) for line in faults), faults
    assert "secret" not in "\n".join(faults)


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"PARLEY_LISTEN": "0.0.0.0:50051"}, "listen: 0.0.0.0:50051 is not loopback and there are no credentials"),
        ({"PARLEY_LISTEN": "example.org:1"}, "listen: example.org:1 is not loopback"),
        ({"PARLEY_LISTEN": "::1:5"}, 'PARLEY_LISTEN: must be "host:port"'),
        ({"PARLEY_LISTEN": "[::g]:5"}, 'PARLEY_LISTEN: must be "host:port"'),
        ({"PARLEY_LISTEN": "127.0.0.1:65536"}, 'PARLEY_LISTEN: must be "host:port"'),
        ({"PARLEY_UI_HOSTS": "chat.example:8080"}, "PARLEY_UI_HOSTS: must be names of hosts without ports"),
        ({"PARLEY_METRICS_LISTEN": "off"}, 'PARLEY_METRICS_LISTEN: must be "host:port"'),
        ({"PARLEY_INSECURE": "maybe"}, "PARLEY_INSECURE: must be 1 or 0, true or false"),
        ({"PARLEY_LOG_FORMAT": "jsn"}, 'PARLEY_LOG_FORMAT: must be json or text (got "jsn"); did you mean json?'),
        ({"PARLEY_ENCRYPTION_KEYS": "secret"}, "PARLEY_ENCRYPTION_KEYS: must be keys that"),
        ({"PARLEY_DATABASE_URL": "postgresql://u:secret@h/d"}, "PARLEY_DATABASE_URL: must begin with postgresql+asyn"),
        ({"PARLEY_REDIS_URL": "redis://:secret@h"}, "redis_url: a relay needs PostgreSQL, because only one process"),
        ({"PARLEY_REDIS_URL": "redis:///0"}, "PARLEY_REDIS_URL: must be "),
        ({"PARLEY_WORKERS": "0"}, "PARLEY_WORKERS: must be a whole number from 1 to 64"),
        ({"PARLEY_WORKERS": "65"}, "PARLEY_WORKERS: must be a whole number from 1 to 64"),
        ({"PARLEY_WORKERS": "two"}, "PARLEY_WORKERS: must be a whole number from 1 to 64"),
        (
            {"PARLEY_WORKERS": "2", "PARLEY_DATABASE_URL": "postgresql+asyncpg://u:secret@h/d"},
            "workers: several workers need a relay: set PARLEY_REDIS_URL",
        ),
        ({"PARLEY_WORKERS": "2", "PARLEY_REDIS_URL": "http://secret"}, "PARLEY_REDIS_URL: must be "),
        ({"PARLEY_REDIS_URL": "redis://h", "PARLEY_DATABASE_URL": "mysql://secret"}, "PARLEY_DATABASE_URL: must be "),
        (
            {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "https://u:secret@x/v1"},
            "OPENAI_BASE_URL: must not contain a user or a password",
        ),
        ({"PARLEY_FOO_BAR_BAZ": "secret"}, "PARLEY_FOO_BAR_BAZ: unknown variable"),
    ],
)
def test_a_fault_names_its_variable(tmp_path: Path, environment: dict[str, str], fault: str) -> None:
    (line,) = faults_of(tmp_path, "", environment)
    assert line.startswith(fault)
    assert "secret" not in line


def test_a_fault_names_its_argument() -> None:
    with pytest.raises(SettingsError, match=r'  --log-level: must be debug, info, warning or error \(got "x"\)'):
        load_settings({}, {"log_level": "x"})


def test_unreadable_files_are_faults(tmp_path: Path) -> None:
    (line,) = faults_of(tmp_path, "a = \n")
    assert line == f"{tmp_path}/parley.toml: Invalid value (at line 1, column 5)"
    (tmp_path / "latin").write_bytes(b"# \xe9")
    for name, problem in (("absent", "No such file or directory"), ("latin", "is not UTF-8 text")):
        with pytest.raises(SettingsError) as caught:
            load_settings({"PARLEY_CONFIG": str(tmp_path / name)})
        assert caught.value.faults == [f"{tmp_path / name}: {problem}"]


def test_the_message_contains_all_faults() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"PARLEY_LISTEN": "a", "PARLEY_INSECURE": "b"})
    assert str(caught.value).splitlines() == [
        "the configuration has 2 faults:",
        '  PARLEY_LISTEN: must be "host:port" or "[ipv6]:port" (got "a")',
        "  PARLEY_INSECURE: must be 1 or 0, true or false",
    ]


def make_certificate(folder: Path, name: str) -> None:
    command = [tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"]
    subprocess.run([*command, "-subj", f"/CN={name}", *files], check=True, capture_output=True)


def test_certificates_are_read_at_the_start(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_certificate(tmp_path, name)
    table = '[tls]\ncertificate = "one.pem"\nkey = "{}.key"\nclient_ca = "{}"'
    (tmp_path / "good.toml").write_text(table.format("one", "two.pem"))
    settings = load_settings({"PARLEY_CONFIG": str(tmp_path / "good.toml")})
    assert settings.tls is not None
    assert settings.tls.client_ca == tmp_path / "two.pem"
    assert faults_of(tmp_path, table.format("two", "one.key")) == [
        "tls.certificate, tls.key: must be a PEM certificate and its own key, without a password",
        "tls.client_ca: must be PEM certificates",
    ]
