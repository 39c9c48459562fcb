"""Schema releases: reads a database's release, checks that this code can use it, and migrates.

A migration only adds to the schema, so that the previous release of the code runs on the new schema during a rollout.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import URL, Connection, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from parley_server.private_files import close_to_others, open_private
from parley_server.settings import is_sqlite
from parley_server.store.engine.location import StoreUnusable, postgresql_url, sqlite_path
from parley_server.store.engine.sqlite import open_engine
from parley_server.store.later_indexes import build_indexes
from parley_server.store.schema import schema_release as release_table

if TYPE_CHECKING:
    from alembic.config import Config

logger = logging.getLogger("parley.store")

SCHEMA_RELEASE = 3
SQLITE_SUFFIXES = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite creates beside a database."""
OLDEST_POSTGRESQL = 14
CONNECT_S = 5.0
MIGRATION_LOCK = 0x5061726C6579  # "Parley" in ASCII
"""The key of the advisory lock that lets one process at a time migrate a PostgreSQL database."""
TABLE_LOCK_S = 10
"""Limit of a migration's wait for a table lock. While it waits, later statements on the table queue behind it."""

T = TypeVar("T")


def schema_release(url: str) -> int | None:
    """The schema release of a database; None if it has no schema. Raises StoreUnusable."""
    if not is_sqlite(url):
        return _on_postgresql(postgresql_url(url), _release)
    path = sqlite_path(url)
    if not path.exists():
        return None
    engine = open_engine(path, read_only=True)
    try:
        with engine.connect() as connection:
            return _release(connection)
    except DBAPIError as error:
        raise _unusable(str(path), error) from error


def check_schema(release: int | None) -> None:
    """Raise StoreUnusable unless the release is this code's own or the next one."""
    if release is None or release < SCHEMA_RELEASE:
        found = "has no schema" if release is None else f"has schema release {release}"
        raise StoreUnusable(f"the database {found}, and this server needs {SCHEMA_RELEASE}: run `parley migrate`")
    if release > SCHEMA_RELEASE + 1:
        raise StoreUnusable(
            f"the database has schema release {release}, and this server has {SCHEMA_RELEASE} "
            f"and runs on {SCHEMA_RELEASE + 1} at most: start a newer server"
        )


def migrate(url: str) -> None:
    """Bring a database to this code's schema in one transaction; on PostgreSQL, then build indexes of large tables
    without blocking writes. A newer schema is left unchanged.

    Must not be called in a thread that runs an event loop. Raises StoreUnusable."""
    if not is_sqlite(url):
        location = postgresql_url(url)
        _on_postgresql(location, _upgrade_alone)
        _on_postgresql(location, _build_indexes, isolation="AUTOCOMMIT")
        return
    path = sqlite_path(url)
    if not path.parent.is_dir():
        raise StoreUnusable(f"the folder {path.parent} of the database does not exist")
    make_private(path)
    # Checked first, because `upgrade` imports Alembic, which would delay each start of a server.
    release = schema_release(url)
    if release is not None and release >= SCHEMA_RELEASE:
        return
    try:
        with open_engine(path, read_only=False).begin() as connection:
            upgrade(connection)
    except DBAPIError as error:
        raise _unusable(str(path), error) from error


def make_private(path: Path) -> None:
    """Create a SQLite file if there is none, and restrict it and the files beside it to their owner.

    SQLite creates `-wal` and `-shm` with the permissions of the database. Must not be called while this process has the
    database open. Raises StoreUnusable."""
    try:
        os.close(open_private(path))
        beside = (path.with_name(path.name + suffix) for suffix in SQLITE_SUFFIXES)
        shared = [str(each) for each in (path, *beside) if each.exists() and not close_to_others(each)]
    except OSError as error:
        raise _unusable(str(path), error) from error
    if shared:
        logger.warning("database_owner_differed", extra={"fields": {"paths": shared}})


def upgrade(connection: Connection) -> None:
    """Run all missing migrations in the connection's current transaction."""
    from alembic import command

    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _configuration() -> Config:
    from alembic.config import Config

    configuration = Config()
    # Alembic reads options with configparser, for which a percent sign in the path begins a reference.
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return configuration


def _release(connection: Connection) -> int | None:
    if not inspect(connection).has_table(release_table.name):
        return None
    release: int = connection.execute(select(release_table.c.release)).scalar_one()
    return release


def _upgrade_alone(connection: Connection) -> None:
    connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
    release = _release(connection)  # another process may have migrated while this one waited for the lock
    if release is None or release < SCHEMA_RELEASE:
        # Only now: the wait for the advisory lock above has no limit, since another migration may take long.
        connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_LOCK_S}s'"))
        upgrade(connection)


def _build_indexes(connection: Connection) -> None:
    if _release(connection) == SCHEMA_RELEASE:
        build_indexes(connection)


def _on_postgresql(url: URL, work: Callable[[Connection], T], *, isolation: str = "READ COMMITTED") -> T:
    try:
        return asyncio.run(_connected(url, work, isolation))
    except (DBAPIError, OSError) as error:
        raise _unusable(url.render_as_string(hide_password=True), error) from error


async def _connected(url: URL, work: Callable[[Connection], T], isolation: str) -> T:
    from sqlalchemy.ext.asyncio import create_async_engine

    # No limit of a statement's time: a migration may rewrite a large table, and must not fail on a limit of the role.
    settings = {"application_name": "parley migrate", "jit": "off", "statement_timeout": "0"}
    engine = create_async_engine(
        url, isolation_level=isolation, connect_args={"timeout": CONNECT_S, "server_settings": settings}
    )
    try:
        async with engine.begin() as connection:
            version = connection.dialect.server_version_info or ()
            if version < (OLDEST_POSTGRESQL,):
                raise StoreUnusable(f"the database is PostgreSQL {version[0]}: {OLDEST_POSTGRESQL} or newer is needed")
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _unusable(name: str, error: DBAPIError | OSError) -> StoreUnusable:
    problem = error.orig if isinstance(error, DBAPIError) else error
    return StoreUnusable(f"the database {name} cannot be opened: {str(problem) or type(problem).__name__}")
