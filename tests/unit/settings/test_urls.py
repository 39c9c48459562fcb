"""Valid and invalid URLs of databases and relays. No fault shows a password."""

from __future__ import annotations

import pytest
from parley_server.settings import SettingsError, load_settings, without_secrets
from sqlalchemy import make_url

PG = "postgresql+asyncpg://"


@pytest.mark.parametrize(
    "url",
    [
        PG + "localhost/parley",
        PG + "u:secret@db.example.org:5432/parley",
        PG + "u:s%40c%2Fret@db:5432/parley",
        PG + "u:se/cr?et@db/parley",
        PG + "u:s:c#r+t@db/parley-1_x",
        PG + "u@[::1]:5432/parley?ssl=require",
        PG + "u:secret@/parley?host=/var/run/postgresql",
        PG + "u:secret@/parley?host=a:5432&host=b:5432&target_session_attrs=read-write&ssl=verify-full",
        PG + "h/parley?prepared_statement_cache_size=0",
    ],
)
def test_valid_postgresql_urls(url: str) -> None:
    settings = load_settings(
        {"PARLEY_DATABASE_URL": url, "PARLEY_REDIS_URL": "redis://:secret@h", "PARLEY_WORKERS": "4"}
    )
    assert (settings.database_url, settings.redis_url, settings.workers) == (url, "redis://:secret@h", 4)
    parsed = make_url(url)
    assert (parsed.drivername, (parsed.database or "")[:6]) == ("postgresql+asyncpg", "parley")
    assert "secret" not in repr(settings)
    assert "secret" not in without_secrets(url)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgres://u:secret@h/d", "must begin with postgresql+asyncpg://"),
        ("postgresql+psycopg://u:secret@h/d", "must begin with postgresql+asyncpg://"),
        (PG + "h", "must be "),
        (PG + "h/", "must be "),
        (PG + "h/%20", "must be "),
        (PG + "u:se@cret@h/d", "must be "),
        (PG + "h:0/d", "the port must be from 1 to 65535"),
        (PG + "h:65536/d", "the port must be from 1 to 65535"),
        (PG + "h:5432x/d", "must be "),
        (PG + "h/d?sslmode=require", "has an unknown option; did you mean ssl?"),
        (PG + "h/d?sl=require", "has an unknown option; did you mean ssl?"),
        (PG + "u@h/d?secret@h/d", "has an unknown option; known are host, port, user,"),
        (PG + "h/d?ssl=secret", "ssl must be disable, allow, prefer, require, verify-ca or verify-full"),
        (PG + "h/d?prepared_statement_cache_size=x", "prepared_statement_cache_size must be a whole number"),
    ],
)
def test_invalid_postgresql_urls(url: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"PARLEY_DATABASE_URL": url})
    (line,) = caught.value.faults
    assert line.startswith(f"PARLEY_DATABASE_URL: {fault}")
    assert "secret" not in line
    assert "cret" not in line.replace("secret", "")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://h:6379/",
        "redis://h:6379/15",
        "redis://u:secret@h:6379/0",
        "redis://:se%40cret@[::1]:6379/0",
        "rediss://u:secret@h:6380/0?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
    ],
)
def test_valid_redis_urls(url: str) -> None:
    settings = load_settings({"PARLEY_DATABASE_URL": PG + "h/d", "PARLEY_REDIS_URL": url})
    assert settings.redis_url == url
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("secret", "must be "),
        ("http://:secret@h", "must be "),
        ("redis://", "must be "),
        ("redis://:secret@", "must be "),
        ("redis://h:0", "must be "),
        ("redis://h:70000", "must be "),
        ("redis://:sec#ret@h", "must be "),
        ("redis://:sec/ret@h", "must be "),
        ("redis://:sec/re:t@h", "must be "),
        ("redis://h/d", "the path must be the number of a database"),
        ("redis://h/0/1", "the path must be the number of a database"),
        ("redis://h/0?socket_timeout=9", "has an unknown option; known are ssl_ca_certs, "),
        ("rediss://h/0?ssl_ca_cert=x", "has an unknown option; did you mean ssl_ca_certs?"),
        ("redis://h/0?ssl_ca_certs=x", "ssl_ca_certs requires TLS: the URL must begin with rediss://"),
    ],
)
def test_invalid_redis_urls(url: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"PARLEY_DATABASE_URL": PG + "h/d", "PARLEY_REDIS_URL": url})
    (line,) = caught.value.faults
    assert line.startswith(f"PARLEY_REDIS_URL: {fault}")
    assert "secret" not in line
    assert "ret@" not in line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite+aiosqlite:////data/a@b.db", "sqlite+aiosqlite:////data/a@b.db"),
        (PG + "u:secret@h:5432/d?password=secret", PG + "h:5432/d"),
        (PG + "h/d", PG + "h/d"),
        ("rediss://:secret@h:1/2?ssl_password=secret", "rediss://h:1/2"),
    ],
)
def test_a_shown_url_has_no_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
