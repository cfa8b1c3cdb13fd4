"""The key under which the audit trail digests values that a change replaced."""

from secrets import token_hex

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table, and a key of this database's own."""
    op.create_table(
        "audit_key",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    table = sa.table("audit_key", sa.column("id"), sa.column("key"))
    op.bulk_insert(table, [{"id": 1, "key": token_hex(32)}])
