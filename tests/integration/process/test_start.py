"""A refused start exits with status 2 and prints the reason and a solution on standard error."""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import parley
import pytest
from parley_server.store.migrate import SCHEMA_RELEASE

from tests.integration.process.watching import script, text_of
from tests.processes import PARLEY, ServerProcess, clean_environment


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `parley` with these arguments in a folder until it ends."""
    environment = {"PARLEY_METRICS_LISTEN": "", "PARLEY_LISTEN": "127.0.0.1:0"} | environment
    return subprocess.run(
        [PARLEY, *arguments],
        env=clean_environment(**environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The standard error of a refused command."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def messages(output: str) -> list[str]:
    """The lines that are not JSON logs."""
    return [line for line in output.splitlines() if not line.startswith("{")]


async def test_a_second_server_on_the_same_file_reports_the_first(tmp_path) -> None:
    async with ServerProcess(tmp_path) as first:
        again = {"PARLEY_DATABASE_URL": first.environment["PARLEY_DATABASE_URL"]}
        for name in ("serve", "migrate"):
            output = refusal(command(tmp_path, name, **again))
            assert output.count("\n") == 1
            assert output.startswith(f"parley {name}: the database is in use by process {first.pid} on ")
        assert await first.health() == "SERVING", "the first server stopped"
        await first.kill9()
        async with ServerProcess(tmp_path) as next_one:
            assert await next_one.terminate() == 0


def test_all_faults_of_a_configuration_are_reported_at_once(tmp_path) -> None:
    (tmp_path / "wrong.toml").write_text('[server]\nheartbeat_s = 0\n[models.fast]\nprovider = "missing"\nname = "x"\n')
    faults = {"PARLEY_CONFIG": str(tmp_path / "wrong.toml"), "PARLEY_LOG_LEVEL": "loud", "PARLEY_LISTN": "x"}
    for name in ("serve", "check", "migrate"):
        output = refusal(command(tmp_path, name, **faults))
        for words in ("heartbeat_s", "missing", "PARLEY_LOG_LEVEL", "PARLEY_LISTN"):
            assert words in output
        assert "faults:\n" in output
    assert not list(tmp_path.glob("*.db*")), "a database was created"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[providers.p]\nkind = "scripted"\nscript = { pace = 1 }\n[models.m]\nprovider = "p"\nname = "m"\n', "pace"),
        ('[tls]\ncertificate = "no.pem"\nkey = "no.key"\n', "no.pem"),
        ('[tls]\ncertificate = "text.pem"\nkey = "text.pem"\n', "must be a PEM"),
        ("[tenants.shop]\n", "tenants"),
        ("[server\n", "line 1"),
    ],
)
def test_faults_found_by_a_component_are_reported_the_same_way(tmp_path, toml: str, words: str) -> None:
    (tmp_path / "wrong.toml").write_text(toml)
    (tmp_path / "text.pem").write_text("This is no certificate.")
    for name in ("serve", "check"):
        output = refusal(command(tmp_path, name, "--config", "wrong.toml"))
        assert words in output
        assert "configuration" in output or output.startswith(f"parley {name}: ")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite+aiosqlite:///no/such/folder/parley.db", "no/such/folder"),
        ("postgresql+asyncpg://parley:secret@127.0.0.1:1/parley", "127.0.0.1"),
        ("sqlite+aiosqlite:///:memory:", "file"),
        ("sqlite+aiosqlite:///text.db", "text.db"),
    ],
)
def test_an_unusable_database_is_refused_with_its_reason(tmp_path, url: str, words: str) -> None:
    (tmp_path / "text.db").write_text("This is no database." * 100)
    for name in ("serve", "migrate"):
        output = refusal(command(tmp_path, name, PARLEY_DATABASE_URL=url))
        assert words in output
        assert "secret" not in output


def test_without_credentials_only_loopback_is_allowed(tmp_path) -> None:
    assert "PARLEY_INSECURE" in refusal(command(tmp_path, "serve", PARLEY_LISTEN="0.0.0.0:0"))


def test_a_port_in_use_is_reported(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        last = refusal(command(tmp_path, "serve", "--listen", address)).splitlines()[-1]
        assert last == f"parley serve: cannot listen on {address}: the port is in use"
        last = refusal(command(tmp_path, "serve", PARLEY_METRICS_LISTEN=address)).splitlines()[-1]
        assert f"metrics on {address}: the address is in use" in last
        assert "PARLEY_METRICS_LISTEN" in last
    assert command(tmp_path, "migrate").returncode == 0, "a failed start has kept the database locked"


async def test_two_servers_do_not_share_a_port(tmp_path) -> None:
    other = {"PARLEY_DATABASE_URL": "sqlite+aiosqlite:///other.db"}
    async with ServerProcess(tmp_path) as first:
        output = refusal(command(tmp_path, "serve", "--listen", first.address, **other))
        assert output.splitlines()[-1] == f"parley serve: cannot listen on {first.address}: the port is in use"
        assert await first.health() == "SERVING"


def put_release(database: Path, release: int) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE schema_release SET release = ?", (release,))


async def test_a_schema_one_release_newer_is_served_and_two_newer_is_refused(tmp_path) -> None:
    migrated = command(tmp_path, "migrate")
    assert (migrated.returncode, migrated.stdout) == (0, f"the schema is at release {SCHEMA_RELEASE}\n")
    database = tmp_path / "parley.db"
    put_release(database, SCHEMA_RELEASE + 2)
    output = refusal(command(tmp_path, "serve"))
    assert f"schema release {SCHEMA_RELEASE + 2}" in output
    assert "start a newer server" in output
    put_release(database, SCHEMA_RELEASE + 1)
    async with ServerProcess(tmp_path) as server, parley.Client(server.address) as client:
        assert text_of(await client.create_reply(script("Hello.", delay_s=0))) == "Hello."
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT release FROM schema_release").fetchall() == [(SCHEMA_RELEASE + 1,)]


async def test_serve_migrates_a_database_without_a_schema(tmp_path) -> None:
    with closing(sqlite3.connect(tmp_path / "parley.db")) as connection, connection:
        connection.execute("CREATE TABLE unrelated (x)")
    async with ServerProcess(tmp_path) as server:
        assert server.rows("SELECT release FROM schema_release") == [(SCHEMA_RELEASE,)]
        assert await server.terminate() == 0
    again = command(tmp_path, "migrate")
    assert (again.returncode, again.stdout) == (0, f"the schema is at release {SCHEMA_RELEASE}\n")


def test_commands_have_help_and_version(tmp_path) -> None:
    usage = command(tmp_path, "--help")
    assert usage.returncode == 0
    for name in ("serve", "chat", "migrate", "check"):
        assert re.search(rf"^ +{name} ", usage.stdout, re.MULTILINE)
        assert command(tmp_path, name, "--help").returncode == 0
    version = command(tmp_path, "--version")
    assert (version.returncode, version.stdout) == (0, "parley 0.1.0\n")
    assert refusal(command(tmp_path)).startswith("usage: parley")
    assert "invalid choice" in refusal(command(tmp_path, "sever"))
    checked = command(tmp_path, "check")
    assert (checked.returncode, checked.stdout.splitlines()) == (
        0,
        [
            "the configuration is valid: 1 model, scripted by default",
            "database: SQLite at sqlite+aiosqlite:///parley.db; relay: in process; workers: 1",
            "access: open, every caller is accepted",
            f"{'model':10}{'of':20}{'context':9}{'output':8}{'takes':30}US dollars per million tokens",
            f"{'scripted':10}{'scripted: scripted':20}{'-':9}{'-':8}{'tools, json_schema, sampling':30}not known",
        ],
    )


def test_check_shows_limits_abilities_prices_and_retirement_of_each_model(tmp_path) -> None:
    (tmp_path / "parley.toml").write_text("""
providers.up = { kind = "openai", base_url = "http://localhost:1/v1" }
models.small = { provider = "up", name = "m", like = "anthropic/claude-haiku-5-5", context_tokens = 9, tools = false }
models.old = { provider = "up", name = "gpt-1", retires = 2026-01-31 }
server.default_model = "small"
""")
    checked = command(tmp_path, "check", "--config", "parley.toml")
    rows = [re.split(r"  +", line) for line in checked.stdout.splitlines()[4:]]
    assert rows[0] == [
        *("small", "up: m", "9", "128000", "images, json_schema, reasoning"),
        "prompt 0.1, cached 0.01, written 0.125, completion 0.5",
    ]
    assert rows[1] == ["", "above 100000 tokens: prompt 0.5, cached 0.05, written 0.625, completion 2.5"]
    assert rows[-1] == ["warning: old: gpt-1 was to be turned off by its vendor on 2026-01-31"]


def test_check_shows_the_tenants_and_issuers_that_have_access(tmp_path) -> None:
    issuer = '[identity.corp]\nissuer = "i"\naudience = ["a"]\nsecret = "env:SECRET"\ntenant = "bank"\n'
    tables = f'[tenants.shop]\napi_keys_sha256 = ["{"a" * 64}"]\n[tenants.bank]\n{issuer}'
    (tmp_path / "parley.toml").write_text(tables)
    checked = command(tmp_path, "check", "--config", "parley.toml", SECRET="s" * 32)
    assert checked.stdout.splitlines()[2] == "access: tenants shop, bank; tokens of corp"


def test_check_warns_of_quotas_of_cost_over_models_without_prices(tmp_path) -> None:
    warning = "warning: tenants.default: its quotas of cost do not limit models without prices: scripted"
    for quotas, warnings in (("tokens_per_day = 5", []), ("cost_per_month = 0.5", [warning])):
        (tmp_path / "parley.toml").write_text(f"[tenants.default]\nquotas = {{ {quotas} }}\n")
        checked = command(tmp_path, "check", "--config", "parley.toml")
        assert [line for line in checked.stdout.splitlines() if "quotas" in line] == warnings


def test_check_shows_addresses_without_secrets(tmp_path) -> None:
    urls = {
        "PARLEY_DATABASE_URL": "postgresql+asyncpg://u:secret@db.example.org:5432/parley?ssl=require",
        "PARLEY_REDIS_URL": "rediss://:secret@redis.example.org/2",
        "PARLEY_WORKERS": "3",
    }
    checked = command(tmp_path, "check", **urls)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.splitlines()[1] == (
        "database: PostgreSQL at postgresql+asyncpg://db.example.org:5432/parley; "
        "relay: Redis at rediss://redis.example.org/2; workers: 3"
    )
    assert shutil.which("parley", path=str(Path(PARLEY).parent)) == PARLEY
