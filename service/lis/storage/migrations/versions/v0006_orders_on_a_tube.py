"""Several orders on one tube, merged patients, and the person who counted the megakaryocytes."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns. `number` stays unique: the label of a tube with several orders is in `label`."""
    op.add_column("specimens", sa.Column("label", sa.String(length=200), server_default="", nullable=False))
    op.add_column("specimens", sa.Column("merged_at", sa.DateTime(), nullable=True))
    op.add_column("specimens", sa.Column("counted_by", sa.JSON(), nullable=True))
    specimens = sa.table("specimens", sa.column("label"), sa.column("number"))
    op.get_bind().execute(sa.update(specimens).values(label=specimens.c.number))
    op.create_index(op.f("ix_specimens_label"), "specimens", ["label"])
