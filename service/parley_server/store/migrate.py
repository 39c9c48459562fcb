"""Schema releases: which one a database has, which ones this code runs on, and the way up.

A migration only adds to what the release before it needs, so the code of one release runs on the schema of the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DBAPIError

from parley_server.store.location import StoreUnusable, sqlite_path
from parley_server.store.schema import schema_release as release_table
from parley_server.store.sqlite import open_engine

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA_RELEASE = 1


def schema_release(url: str) -> int | None:
    """The release of the schema of a database; None where it has none yet. Raises StoreUnusable."""
    path = sqlite_path(url)
    if not path.exists():
        return None
    engine = open_engine(path, read_only=True)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(release_table.name):
                return None
            release: int = connection.execute(select(release_table.c.release)).scalar_one()
            return release
    except DBAPIError as error:
        raise _unusable(path, error) from error


def check_schema(release: int | None) -> None:
    """Pass this code's own release and the next one. Raises StoreUnusable for all others."""
    if release is None or release < SCHEMA_RELEASE:
        found = "has no schema" if release is None else f"has schema release {release}"
        raise StoreUnusable(f"the database {found}, and this server needs {SCHEMA_RELEASE}: run `parley migrate`")
    if release > SCHEMA_RELEASE + 1:
        raise StoreUnusable(
            f"the database has schema release {release}, and this server knows {SCHEMA_RELEASE} "
            f"and runs on {SCHEMA_RELEASE + 1} at most: start a newer server"
        )


def migrate(url: str) -> None:
    """Bring a database up to this code's schema, in one transaction; a newer one stays. Raises StoreUnusable."""
    release = schema_release(url)
    if release is not None and release >= SCHEMA_RELEASE:
        return
    path = sqlite_path(url)
    if not path.parent.is_dir():
        raise StoreUnusable(f"the folder {path.parent} of the database does not exist")
    try:
        with open_engine(path, read_only=False).begin() as connection:
            upgrade(connection)
    except DBAPIError as error:
        raise _unusable(path, error) from error


def upgrade(connection: Connection) -> None:
    """Run all migrations that are missing in the connection's own transaction."""
    from alembic import command

    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _configuration() -> Config:
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return configuration


def _unusable(path: Path, error: DBAPIError) -> StoreUnusable:
    return StoreUnusable(f"the database {path} cannot be opened: {error.orig}")
