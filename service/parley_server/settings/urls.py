"""The URLs of the database and of the relay, checked before anything opens them. No fault ever shows a part of one."""

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
# The grammar of SQLAlchemy's `make_url`, where a password ends at the first @.
_POSTGRESQL = re.compile(
    r"postgresql\+asyncpg://(?:[^:/@]*(?::[^@]*)?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:?@\[\]\s]*)(?::(?P<port>[0-9]{1,5}))?/(?P<database>[^?/]+)(?:\?(?P<query>.*))?"
)
# What of `asyncpg.connect` and of SQLAlchemy's dialect can be written as text.
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
# Limits and retries are the relay's own: an option of the URL would win over them.
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
    """Whether the database is a file, which one process has to itself."""
    return database_url.startswith("sqlite")


def check_database_url(url: str) -> str:
    """The URL, if it can be one of a SQLite file or of a PostgreSQL database; raises ValueError."""
    if url.startswith(("postgres:", "postgresql")):
        return _check_postgresql(url)
    if not _SQLITE.fullmatch(url):
        raise ValueError(f'must be "sqlite+aiosqlite:///PATH" of a file, or {POSTGRESQL_FORM}')
    if ":memory:" in url:
        raise ValueError("must name a file: a database in memory cannot be shared between connections")
    return url


def check_redis_url(url: str) -> str:
    """The URL, if it can be one of a Redis or Valkey server; raises ValueError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"must be {REDIS_FORM}") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or port == 0 or parts.fragment:
        raise ValueError(f"must be {REDIS_FORM}")
    if not re.fullmatch(r"/?|/[0-9]{1,5}", parts.path):
        raise ValueError("what follows the host must be the number of a database, such as /0")
    options = _options(parts.query, _REDIS_OPTIONS)
    if options and parts.scheme != "rediss":
        raise ValueError(f"{min(options)} takes TLS: the URL begins with rediss://")
    return url


def without_secrets(url: str) -> str:
    """The URL without its user, its password and its options, to be shown."""
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
    """The options after the question mark, all of which are known. A name can be a password that was cut: no fault
    shows it unless it is near to one that is known."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in known:
            payload = "ssl" if name == "sslmode" and "ssl" in known else ""
            near = f"; did you mean {payload}?" if payload else did_you_mean(name, known)
            raise ValueError(f"has an option that is not known{near or ': ' + ', '.join(known)}")
    return options
