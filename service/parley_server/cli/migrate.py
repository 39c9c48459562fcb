"""`parley migrate`: brings the database's schema to this release."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext

from parley_server.cli.options import read_settings
from parley_server.errors import StorageUnavailable
from parley_server.exit_status import CANNOT_RUN
from parley_server.settings import is_sqlite
from parley_server.store.engine.location import StoreUnusable, sqlite_path
from parley_server.store.engine.lock import DatabaseLock
from parley_server.store.migrate import SCHEMA_RELEASE, migrate


def run(options: argparse.Namespace) -> int:
    """Migrate, on SQLite under the database's lock; the exit status."""
    url = read_settings(options).database_url
    try:
        # On PostgreSQL, `migrate` takes a lock in the database itself.
        with DatabaseLock(sqlite_path(url)) if is_sqlite(url) else nullcontext():
            migrate(url)
    except (StoreUnusable, StorageUnavailable) as error:
        print(f"parley migrate: {error}", file=sys.stderr)
        return CANNOT_RUN
    print(f"the schema is at release {SCHEMA_RELEASE}")
    return 0
