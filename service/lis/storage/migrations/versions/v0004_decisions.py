"""The model's decision on each cell, its reasons, the prediction set, and the manifest with the thresholds."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns; cells that are stored already have no decision."""
    op.add_column("cells", sa.Column("manifest", sa.String(length=64), nullable=True))
    op.add_column("cells", sa.Column("decision", sa.String(length=8), nullable=True))
    op.add_column("cells", sa.Column("reasons", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("cells", sa.Column("prediction_set", sa.JSON(), server_default="[]", nullable=False))
