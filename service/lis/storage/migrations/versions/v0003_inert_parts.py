"""The inert parts of a model."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; models that are stored already have no inert parts."""
    op.add_column("models", sa.Column("inert", sa.JSON(), server_default="[]", nullable=False))
