"""Checks the URLs of the database and of Redis before anything opens them. No fault contains a part of a URL."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import parse_qsl, unquote, urlsplit

from parley_server.settings.faults import did_you_mean

POSTGRESQL_FORM = '"postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE"'
REDIS_FORM = (
    '"redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER]" or, with TLS, "rediss://..."; '
    "in a password, / ? # and @ are written %2F %3F %23 and %40"
)

_SQLITE = re.compile(r"sqlite\+aiosqlite:///[^?]+")
# The grammar of SQLAlchemy's `make_url`: a password ends at the first @.
_POSTGRESQL = re.compile(
    r"postgresql\+asyncpg://(?:[^:/@]*(?::[^@]*)?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:?@\[\]\s]*)(?::(?P<port>[0-9]{1,5}))?/(?P<database>[^?/]+)(?:\?(?P<query>.*))?"
)
# The options of `asyncpg.connect` and of SQLAlchemy's dialect that can be written as text.
_POSTGRESQL_OPTIONS = (
    "host",
    "port",
    "user",
    "password",
    "passfile",
    "service",
    "servicefile",
    "ssl",
    "target_session_attrs",
    "krbsrvname",
    "gsslib",
    "prepared_statement_cache_size",
)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# The relay sets time limits and retries itself; options of the URL would override them.
_REDIS_OPTIONS = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ciphers",
)


def is_sqlite(database_url: str) -> bool:
    """Whether the database is a SQLite file, which only one process can use."""
    return database_url.startswith("sqlite")


def check_database_url(url: str) -> str:
    """Return the URL of a SQLite file or of a PostgreSQL database. Raises ValueError for any other."""
    if url.startswith(("postgres:", "postgresql")):
        return _check_postgresql(url)
    if not _SQLITE.fullmatch(url):
        raise ValueError(f'must be "sqlite+aiosqlite:///PATH" of a file, or {POSTGRESQL_FORM}')
    if ":memory:" in url:
        raise ValueError("must name a file: connections cannot share a database in memory")
    return url


def check_redis_url(url: str) -> str:
    """Return the URL of a Redis or Valkey server. Raises ValueError for any other."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"must be {REDIS_FORM}") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or port == 0 or parts.fragment:
        raise ValueError(f"must be {REDIS_FORM}")
    if not re.fullmatch(r"/?|/[0-9]{1,5}", parts.path):
        raise ValueError("the path must be the number of a database, such as /0")
    options = _options(parts.query, _REDIS_OPTIONS)
    if options and parts.scheme != "rediss":
        raise ValueError(f"{min(options)} requires TLS: the URL must begin with rediss://")
    return url


def without_secrets(url: str) -> str:
    """The URL without user, password and options, for log lines and terminals."""
    if is_sqlite(url):
        return url
    return re.sub(r"://(?:.*@)?", "://", url.partition("?")[0])


def _check_postgresql(url: str) -> str:
    if not url.startswith("postgresql+asyncpg://"):
        raise ValueError(f"must begin with postgresql+asyncpg://, as in {POSTGRESQL_FORM}")
    matched = _POSTGRESQL.fullmatch(url)
    if matched is None or not unquote(matched["database"]).strip():
        raise ValueError(f"must be {POSTGRESQL_FORM}; an @ in the password is written %40")
    if matched["port"] and not 0 < int(matched["port"]) <= 65_535:
        raise ValueError("the port must be from 1 to 65535")
    options = _options(matched["query"] or "", _POSTGRESQL_OPTIONS)
    if "ssl" in options and options["ssl"] not in _SSL_MODES:
        raise ValueError(f"ssl must be {', '.join(_SSL_MODES[:-1])} or {_SSL_MODES[-1]}")
    if not options.get("prepared_statement_cache_size", "0").isdecimal():
        raise ValueError("prepared_statement_cache_size must be a whole number")
    return url


def _options(query: str, known: Collection[str]) -> dict[str, str]:
    """The options of the query. Raises ValueError for an unknown name; the text contains the name only if it resembles
    a known one, because it may be part of a password that contains a question mark."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in known:
            hint = "; did you mean ssl?" if name == "sslmode" and "ssl" in known else did_you_mean(name, known)
            raise ValueError(f"has an unknown option{hint or '; known are ' + ', '.join(known)}")
    return options
