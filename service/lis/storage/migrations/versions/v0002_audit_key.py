"""The key of the audit trail's digests of replaced values."""

from secrets import token_hex

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table, and a random key."""
    op.create_table(
        "audit_key",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    table = sa.table("audit_key", sa.column("id"), sa.column("key"))
    op.bulk_insert(table, [{"id": 1, "key": token_hex(32)}])
