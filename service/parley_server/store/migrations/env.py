"""Alembic's entry point: runs the migrations in the current transaction of the connection that `upgrade` passes."""

from alembic import context
from parley_server.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
