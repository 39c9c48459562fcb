"""`parley status` and `parley check --connect`: what they print, and their exit statuses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from parley_server import cli
from parley_server.core.secret import Secret
from parley_server.core.store_types import KeyPlace
from parley_server.secrets.fernet import FernetCipher, new_encryption_key
from parley_server.store.migrate import migrate

from tests.integration.process.test_start import command
from tests.integration.served import tenant
from tests.issuer import ISSUER, Issuer, served
from tests.ports import free_port
from tests.processes import ServerProcess
from tests.upstream import Upstream
from tests.upstream import refusal as http_refusal

MARK = "sk-MARK-9f1e0a77"
TENANTS = tenant("shop", "key-of-shop") + tenant("ops", "key-of-ops", roles=["admin"])


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of Parley from the environment, since commands that run in this process would read them."""
    for name in [each for each in os.environ if each.startswith("PARLEY_")]:
        monkeypatch.delenv(name)


async def parley(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(command, folder, *arguments, **environment)
    assert "Traceback" not in done.stderr
    assert MARK not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


async def test_status_prints_a_database_or_a_server_and_exits_with_0(tmp_path):
    async with ServerProcess(tmp_path, toml=TENANTS, forked=True) as server:
        database = {"PARLEY_DATABASE_URL": server.environment["PARLEY_DATABASE_URL"]}
        status, out, err = await parley(tmp_path, "status", **database)
        assert (status, out, err) == (0, "database  SQLite, schema release 3\n\nno problems\n", "")
        ask = ("status", "--server", server.address)
        status, out, err = await parley(tmp_path, *ask, PARLEY_API_KEY="key-of-shop")
        assert (status, out) == (2, "")
        assert err.startswith("parley status: error: ")
        status, out, err = await parley(tmp_path, *ask, "--json", PARLEY_API_KEY="key-of-ops")
        assert (status, err) == (0, "")
        answer = json.loads(out)
        assert answer["replica"]["mode"] == "MODE_STANDALONE"
        assert (answer["database"]["kind"], answer["problems"]) == ("SQLite", [])
        assert answer["replica"]["readers"] == 0, "fields with default values are printed, too"


def test_status_of_a_database_with_a_problem_exits_with_1(tmp_path, monkeypatch, capsys):
    url = f"sqlite+aiosqlite:///{tmp_path / 'parley.db'}"
    migrate(url)
    with closing(sqlite3.connect(tmp_path / "parley.db")) as database:
        texts = [name for _, name, kind, needed, default, _ in database.execute("PRAGMA table_info(reply)")
                 if kind == "TEXT" and needed and default is None]  # fmt: skip
        fixed = {"state": "STREAMING", "id": "r", "model": "fast", "input_message_ids": "[]", "labels": "{}"}
        row = {name: fixed.get(name, "") for name in texts}
        numbers = ("epoch", "last_sequence", "create_time_us", "first_token_time_us", "end_time_us")
        row |= dict.fromkeys(numbers, 1)
        columns, values = ", ".join(row), ", ".join("?" * len(row))
        database.execute(f"INSERT INTO reply ({columns}) VALUES ({values})", list(row.values()))
        database.commit()
    monkeypatch.setenv("PARLEY_DATABASE_URL", url)
    assert cli.main(["status"]) == 1
    lines = capsys.readouterr().out.splitlines()
    [running] = [line.split() for line in lines if line.startswith("  fast ")]
    assert running[:5] == ["fast", "1", "1", "1", "1"]
    assert lines[-2] == "problems"
    assert re.fullmatch(r"  a reply of the model fast has run for \d+ s, and the time limit is 600 s", lines[-1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "there is no database at "),
        (["--server", "127.0.0.1:{port}"], "no Parley server at 127.0.0.1:{port}"),
        (["--server", "127.0.0.1:{port}", "--certificate", "client.pem"], "--certificate and --key need each other"),
        (["--server", "127.0.0.1:{port}", "--ca", "missing.pem"], "missing.pem"),
    ],
)
def test_status_of_a_missing_database_or_server_exits_with_2(tmp_path, monkeypatch, capsys, arguments, words):
    port = str(free_port())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARLEY_DATABASE_URL", "sqlite+aiosqlite:///parley.db")
    assert cli.main(["status", *(each.replace("{port}", port) for each in arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words.replace("{port}", port) in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "parley.db").exists()


# --- parley check --connect


def configuration(folder: Path, provider: str, jwks: str) -> Path:
    path = folder / "parley.toml"
    path.write_text(
        f"""
[providers.up]
kind = "openai"
base_url = "{provider}"
api_key = "env:UPSTREAM_KEY"
[providers.claude]
kind = "anthropic"
base_url = "{provider.removesuffix("/v1")}"
api_key = "stored"
[providers.typewriter]
kind = "scripted"
[models.fast]
provider = "up"
name = "fast-1"
[server]
default_model = "fast"
[identity.corp]
issuer = "{ISSUER}"
audience = ["parley"]
jwks = "{jwks}"
tenant = "shop"
{TENANTS}"""
    )
    return path


def with_stored_key(folder: Path, encryption_key: str) -> str:
    url = f"sqlite+aiosqlite:///{folder / 'parley.db'}"
    migrate(url)
    token = FernetCipher([encryption_key]).encrypt(KeyPlace("claude", ""), Secret(f"{MARK}-stored"))
    with closing(sqlite3.connect(folder / "parley.db")) as database:
        database.execute("INSERT INTO provider_key VALUES ('claude', '', ?, '', 1)", [token])
        database.commit()
    return url


def findings(out: str) -> dict[str, tuple[str, str]]:
    """The state and the text of each finding, by name."""
    found = re.findall(r"^(ok|fault) +\d+ ms +(\S+(?: \S+)*?)  +(.*)$", out, re.MULTILINE)
    return {name: (state, text) for state, name, text in found}


async def test_check_connect_checks_each_connection_of_a_server(tmp_path):
    async with Upstream() as provider, Upstream() as issuer:
        issuer.reply_with(served(Issuer("one").jwks()))
        provider.reply_with(served(b"{}"))
        key = new_encryption_key()
        environment = {
            "PARLEY_CONFIG": str(configuration(tmp_path, provider.url, issuer.url)),
            "PARLEY_DATABASE_URL": await asyncio.to_thread(with_stored_key, tmp_path, key),
            "PARLEY_ENCRYPTION_KEYS": key,
            "UPSTREAM_KEY": f"{MARK}-configured",
        }
        status, out, err = await parley(tmp_path, "check", "--connect", **environment)
        assert (status, err) == (0, "")
        assert findings(out) == {
            "database": ("ok", "reachable, schema release 3"),
            "keys of corp": ("ok", "the keys can be read"),
            "stored keys": ("ok", "1, all can be decrypted"),
            "provider up": ("ok", "accepts the key"),
            "provider claude": ("ok", "accepts the key"),
            "provider typewriter": ("ok", "not asked: it has no server, or no key for all tenants"),
        }
        sent = {name: request.headers[name] for request in provider.requests for name in ("authorization", "x-api-key")
                if name in request.headers}  # fmt: skip
        assert sent == {"authorization": f"Bearer {MARK}-configured", "x-api-key": f"{MARK}-stored"}
        assert {request.method for request in provider.requests} == {"GET"}

        issuer.reply_with(served(b"gone", 404))
        provider.reply_with(http_refusal(401))
        status, out, err = await parley(
            tmp_path, "check", "--connect", **environment | {"PARLEY_ENCRYPTION_KEYS": new_encryption_key()}
        )
        assert (status, err) == (1, "")
        found = findings(out)
        assert {name for name, (state, _) in found.items() if state == "fault"} == {
            "keys of corp", "stored keys", "provider up", "provider claude",
        }  # fmt: skip
        assert found["keys of corp"][1] == "the keys cannot be read: the URL answered HTTP 404"
        assert found["stored keys"][1] == "PARLEY_ENCRYPTION_KEYS does not decrypt claude for all tenants"
        assert "refuses this key" in found["provider up"][1]


def test_stored_keys_that_a_server_would_ignore_are_a_fault(tmp_path, monkeypatch, capsys):
    """As after a restore without the encryption keys."""
    monkeypatch.setenv("PARLEY_DATABASE_URL", with_stored_key(tmp_path, new_encryption_key()))
    assert cli.main(["check", "--connect"]) == 1
    assert findings(capsys.readouterr().out)["stored keys"] == (
        "fault",
        "1 in the database, which are ignored: PARLEY_ENCRYPTION_KEYS is not set",
    )


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("key", ["schl\u00fcssel", "one\ntwo"])
def test_a_key_that_no_header_can_hold_is_a_fault(tmp_path, monkeypatch, capsys, kind, key):
    (tmp_path / "parley.toml").write_text(
        f"""
[providers.up]
kind = "{kind}"
base_url = "http://127.0.0.1:{free_port()}"
api_key = "env:UPSTREAM_KEY"
[models.fast]
provider = "up"
name = "fast-1"
"""
    )
    monkeypatch.setenv("PARLEY_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'parley.db'}")
    monkeypatch.setenv("UPSTREAM_KEY", f"{MARK}{key}")
    assert cli.main(["check", "--connect", "--config", str(tmp_path / "parley.toml")]) == 1
    printed = capsys.readouterr()
    assert findings(printed.out)["provider up"] == ("fault", "no usable API key is configured for the provider up")
    assert MARK not in printed.out + printed.err


async def test_check_connect_reports_an_unusable_database_or_redis_as_a_fault(
    tmp_path, shared_redis, empty_postgres_url
):
    (tmp_path / "parley.toml").write_text("")
    environment = {"PARLEY_DATABASE_URL": empty_postgres_url, "PARLEY_REDIS_URL": shared_redis.url()}
    shared_redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    status, out, _ = await parley(tmp_path, "check", "--connect", **environment)
    found = findings(out)
    assert (status, found["database"][0], found["Redis"][0]) == (1, "fault", "fault")
    assert "run `parley migrate`" in found["database"][1]
    assert "set its maxmemory-policy to noeviction" in found["Redis"][1]

    shared_redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    unreachable = {"PARLEY_DATABASE_URL": f"postgresql+asyncpg://ada@127.0.0.1:{free_port()}/parley"}
    status, out, _ = await parley(tmp_path, "check", "--connect", **environment | unreachable)
    found = findings(out)
    assert (status, found["database"][0], found["Redis"][0]) == (1, "fault", "ok")
    assert re.fullmatch(r"reachable, (Redis|Valkey) [\d.]+, maxmemory-policy noeviction", found["Redis"][1])
