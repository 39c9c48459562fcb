"""Replicas with their leases, and which of them owns a reply."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("reply", sa.Column("owner", TEXT, nullable=False, server_default=sa.text("''")))
    active = sa.text("state IN ('PENDING', 'STREAMING')")
    op.create_index("reply_active_by_owner", "reply", ["owner"], sqlite_where=active, postgresql_where=active)
    op.create_table(
        "replica",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("lease_until_us", sa.BigInteger, nullable=False),
        sa.Column("start_time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="replica_pk"),
    )
    op.execute("UPDATE schema_release SET release = 2")
