"""Open pages of specimens, and an index that finds the read cells of a class."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table and the indexes."""
    op.create_table(
        "presences",
        sa.Column("page", sa.String(length=32), nullable=False),
        sa.Column("person", sa.String(length=200), nullable=False),
        sa.Column("specimen", ROW_NUMBER, nullable=False),
        sa.Column("place", sa.Integer(), nullable=True),
        sa.Column("code", sa.String(length=32), nullable=True),
        sa.Column("seen_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["specimen"], ["specimens.row"]),
        sa.PrimaryKeyConstraint("page", "person"),
    )
    op.create_index(op.f("ix_presences_specimen"), "presences", ["specimen"])
    op.create_index("cells_read", "cells", ["code", "read_at"])
