"""What a reader writes beside the cells: two assessments with their authors, and the draft of the comment."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns, empty."""
    for name in ("megakaryocyte_assessment", "cellularity", "assessed_by"):
        op.add_column("specimens", sa.Column(name, sa.JSON(), nullable=True))
    op.add_column("specimens", sa.Column("comment", sa.Text(), nullable=True))
