"""Builds indexes of large PostgreSQL tables after the migration, so that running servers can write meanwhile."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection, text
from sqlalchemy.schema import CreateIndex

from parley_server.store.schema import BUILT_LATER

logger = logging.getLogger("parley.store")

BUILD_LOCK = 0x5061726C657A
"""The key of the advisory lock that lets one process at a time build indexes."""
POLL_S = 0.2
REPLACED = ("reply_by_conversation",)
"""Indexes of earlier releases whose columns another index begins with."""

_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def build_indexes(connection: Connection) -> None:
    """Build what is missing, and again what an interrupted build has left invalid; then drop what is replaced.

    The connection must be in autocommit. The lock is polled: a statement that waits for it would have a snapshot, and
    CREATE INDEX CONCURRENTLY in another process waits for snapshots."""
    while not connection.execute(_LOCK, {"key": BUILD_LOCK}).scalar_one():
        time.sleep(POLL_S)
    for index in BUILT_LATER:
        valid = connection.execute(_VALID, {"name": index.name}).scalar()
        if valid:
            continue
        logger.info("index_build_started", extra={"fields": {"index": index.name}})
        if valid is False:
            connection.execute(text(f"DROP INDEX CONCURRENTLY {index.name}"))
        create = str(CreateIndex(index).compile(dialect=connection.dialect))
        connection.execute(text(create.replace("INDEX", "INDEX CONCURRENTLY", 1)))
    for name in REPLACED:
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
