"""Private PostgreSQL and Redis servers on loopback, from installed binaries.

All calls block for 0.1 to 0.5 s; a test whose event loop must run meanwhile uses `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import redis

from tests import watchdog
from tests.needs import missing
from tests.ports import free_port
from tests.service import START_S, Service
from tests.threads import in_thread
from tests.tools import tool

HOST = "127.0.0.1"
USER = "parley"
POSTGRES_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # in the folder, so that a killed server leaves no shared memory
    "fsync": "off",  # only needed for power loss; writes of a killed process are kept by the kernel
    "lc_messages": "C",
}
REDIS_SETTINGS = {
    "bind": HOST,
    "daemonize": "no",
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "enable-debug-command": "local",
}


def require_postgres() -> Path:
    """The folder of PostgreSQL's programs. Skips the test if it is not installed; fails it in CI."""
    return _postgres_bin() or missing("PostgreSQL")


def require_redis() -> str:
    """The program. Skips the test if neither Redis nor Valkey is installed; fails it in CI."""
    return _redis_binary() or missing("Redis")


def initdb(folder: Path) -> Path:
    """Make a new cluster's files, for `PostgresServer(template=)`; takes about a second."""
    binaries = require_postgres()
    data = _postgres_folder(folder / "initdb")
    subprocess.run(
        [
            *_as_postgres(),
            str(binaries / "initdb"),
            *("--pgdata", str(data), "--username", USER, "--auth", "trust", "--encoding", "UTF8"),
            *("--locale", "C.UTF-8", "--no-sync", "--wal-segsize", "1"),
        ],
        check=True,
        capture_output=True,
    )
    return data


async def query_postgres(url: str, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """The rows of one statement, on a new connection; `url` as in `PARLEY_DATABASE_URL`."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), ssl=False, timeout=START_S)
    try:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


class PostgresServer(Service):
    """A PostgreSQL cluster in `folder` with the superuser `parley`, who needs no password.

    template: files of `initdb` to copy, which is faster than a new `initdb`. settings: as in postgresql.conf. The end
    of the `with` stops the server and deletes the folder.
    """

    def __init__(
        self, folder: Path, *, template: Path | None = None, port: int = 0, settings: dict[str, str] | None = None
    ) -> None:
        super().__init__(folder, port=port)
        self._template = template
        self._data: Path | None = None
        self._settings = POSTGRES_SETTINGS | (settings or {})
        self._made = 0

    @property
    def data(self) -> Path:
        """The folder of the cluster, after the first start."""
        assert self._data is not None
        return self._data

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            self._data = None

    def url(self, database: str = "postgres", *, port: int = 0) -> str:
        """The value for `PARLEY_DATABASE_URL`; `port` of a proxy, if any."""
        return f"postgresql+asyncpg://{USER}@{HOST}:{port or self.port}/{database}"

    def create_database(self, name: str = "", *, template: str = "template1") -> str:
        """Create a database as a copy of `template`, which must have no connections; returns its name."""
        self._made += 1
        name = name or f"db{self._made}"
        self.rows(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Close the connections of a database, then remove it."""
        self.rows(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def rows(self, query: str, *arguments: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of one statement, on a new connection; `$1` is the first argument. Blocks the caller."""
        return in_thread(lambda: asyncio.run(self.query(query, *arguments, database=database)))

    async def query(self, query: str, *arguments: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """As `rows`, without blocking."""
        return await query_postgres(self.url(database), query, *arguments)

    def connections(self, database: str) -> int:
        """The number of connections to a database."""
        ((count,),) = self.rows("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", database)
        return int(count)

    def _prepare(self) -> None:
        if self._data is None:
            made = self._template or initdb(self.folder)
            self._data = self._make_folder()
            subprocess.run(["cp", "-a", "--reflink=auto", f"{made}/.", str(self._data)], check=True)

    def _make_folder(self) -> Path:
        """Create the empty folder of the cluster."""
        return _postgres_folder(self.folder / "data")

    def _command(self) -> list[str]:
        binaries = require_postgres()
        settings = [f"--{name}={value}" for name, value in {**self._settings, "port": str(self.port)}.items()]
        return [*_as_postgres(), str(binaries / "postgres"), "-D", str(self.data), *settings]

    def _ready(self) -> bool:
        """Checks as pg_ctl does: the postmaster has written the status `ready` with its process id."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and int(lines[0]) == self.pid and lines[7].strip() == "ready"

    def _stop_signal(self, mode: str) -> signal.Signals:
        return {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "smart": signal.SIGTERM}[mode]


class RedisServer(Service):
    """A Redis or Valkey in `folder`. A restart loses its data, unless `settings` have `appendonly="yes"`.

    password: required of every client. tls: also listen on a port with TLS, with a certificate of the authority
    `folder / "ca.pem"`. settings: as in redis.conf. The end of the `with` stops the server and deletes the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str = "",
        tls: bool = False,
        port: int = 0,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port=port)
        self.password = password
        self.tls_port = free_port() if tls else 0
        self._settings = REDIS_SETTINGS | (settings or {})

    def url(self, *, port: int = 0, tls: bool | None = None) -> str:
        """The value for `PARLEY_REDIS_URL`, by default with TLS if the server has it; `port` of a proxy, if any."""
        secret = f":{quote(self.password)}@" if self.password else ""
        if self.tls_port if tls is None else tls:
            authority = self.folder / "ca.pem"
            return f"rediss://{secret}{HOST}:{port or self.tls_port}/0?ssl_ca_certs={authority}"
        return f"redis://{secret}{HOST}:{port or self.port}/0"

    def command(self, *words: str | int | bytes) -> Any:
        """The answer to a command, with text as `str`. Blocks the caller."""
        with redis.Redis(
            host=HOST, port=self.port, password=self.password or None, decode_responses=True, socket_timeout=START_S
        ) as client:
            return client.execute_command(*words)

    def clear(self) -> None:
        """Delete all keys and scripts, and restore the memory settings."""
        self.command("FLUSHALL")
        self.command("SCRIPT", "FLUSH")
        for name, value in {"maxmemory": "0", "maxmemory-policy": self._settings["maxmemory-policy"]}.items():
            self.command("CONFIG", "SET", name, value)

    def _prepare(self) -> None:
        if self.tls_port and not (self.folder / "server.pem").exists():
            _make_certificates(self.folder)

    def _command(self) -> list[str]:
        binary = require_redis()
        settings = {**self._settings, "port": str(self.port), "dir": str(self.folder)}
        if self.password:
            settings["requirepass"] = self.password
        if self.tls_port:
            settings |= {
                "tls-port": str(self.tls_port),
                "tls-cert-file": str(self.folder / "server.pem"),
                "tls-key-file": str(self.folder / "server.key"),
                "tls-ca-cert-file": str(self.folder / "ca.pem"),
                "tls-auth-clients": "no",
            }
        return [binary, *(word for name, value in settings.items() for word in (f"--{name}", value))]

    def _ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))  # while it loads its files: -LOADING
        except OSError:
            return False

    def _stop_signal(self, mode: str) -> signal.Signals:
        return {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}[mode]


def _postgres_bin() -> Path | None:
    packaged = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    for found in sorted(packaged, key=lambda path: float(path.parts[-3]), reverse=True):
        return found.parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


def _redis_binary() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return [] if os.geteuid() else ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _postgres_folder(folder: Path) -> Path:
    """Create the folder of a cluster: this one, or as root a folder that belongs to the user `postgres`.

    The user `postgres` cannot enter folders that pytest creates as root. Their modes cannot be changed for long, since
    every new run of pytest resets them, and PostgreSQL then stops with an error."""
    if os.geteuid():
        folder.mkdir(parents=True, mode=0o700)
        return folder
    account = pwd.getpwnam("postgres")
    own = Path(tempfile.mkdtemp(prefix="parley-postgres-"))
    watchdog.remove_at_end(own)
    os.chown(own, account.pw_uid, account.pw_gid)
    return own


def _make_certificates(folder: Path) -> None:
    """Create a certificate authority, and a server certificate for loopback."""
    extension = folder / "names"
    extension.write_text(f"subjectAltName=IP:{HOST},DNS:localhost")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", extension.name)
    for command in (
        ("req", "-x509", *key, "-days", "30", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem"),
        ("req", *key, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"),
        ("x509", "-req", "-in", "server.csr", "-days", "30", *sign, "-out", "server.pem"),
    ):
        subprocess.run([tool("openssl"), *command], cwd=folder, check=True, capture_output=True)
