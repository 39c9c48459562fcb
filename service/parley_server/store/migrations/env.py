"""Alembic's way in: runs the migrations on the connection that it is given, in that connection's transaction."""

from alembic import context
from parley_server.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
