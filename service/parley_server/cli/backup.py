"""`parley backup`: copies a SQLite database, also while a server uses it."""

from __future__ import annotations

import argparse
import sys

from parley_server.cli.options import read_settings
from parley_server.exit_status import CANNOT_RUN
from parley_server.settings import is_sqlite
from parley_server.store.engine.location import StoreUnusable, sqlite_path
from parley_server.store.engine.sqlite_backup import back_up

FAILED = 1


def run(options: argparse.Namespace) -> int:
    """Write the copy; the exit status: 1 if it could not be written completely."""
    url = read_settings(options).database_url
    if not is_sqlite(url):
        print("parley backup: the database is PostgreSQL: use pg_dump (docs/backup.md)", file=sys.stderr)
        return CANNOT_RUN
    try:
        size = back_up(sqlite_path(url), options.file)
    except StoreUnusable as error:
        print(f"parley backup: {error}", file=sys.stderr)
        return CANNOT_RUN
    except OSError as error:
        print(f"parley backup: {error}", file=sys.stderr)
        return FAILED
    print(f"{options.file}: {size} bytes, checked")
    return 0
