"""Confirmations of second readers, and the key of the pseudonyms in training lists."""

from secrets import token_hex

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create both tables, and a random key."""
    op.create_table(
        "second_readings",
        sa.Column("row", ROW_NUMBER, autoincrement=True, nullable=False),
        sa.Column("specimen", ROW_NUMBER, nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("identity", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("cells", sa.Integer(), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("last_place", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["specimen"], ["specimens.row"]),
        sa.PrimaryKeyConstraint("row"),
    )
    op.create_index(op.f("ix_second_readings_specimen"), "second_readings", ["specimen"])
    op.create_table(
        "pseudonym_key",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    table = sa.table("pseudonym_key", sa.column("id"), sa.column("key"))
    op.bulk_insert(table, [{"id": 1, "key": token_hex(32)}])
