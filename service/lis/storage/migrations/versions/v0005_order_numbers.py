"""The order's numbers of each specimen, indexed, so that a message that names no specimen finds it."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

COLUMNS = ("placer_number", "filler_number")


def upgrade() -> None:
    """Add the columns, and fill them from the stored orders."""
    for column in COLUMNS:
        op.add_column("specimens", sa.Column(column, sa.String(length=200), nullable=True))
        op.create_index(op.f(f"ix_specimens_{column}"), "specimens", [column])
    specimens = sa.table("specimens", sa.column("row"), sa.column("order"), *(sa.column(name) for name in COLUMNS))
    connection = op.get_bind()
    for row, order in connection.execute(sa.select(specimens.c.row, specimens.c.order)).all():
        document = json.loads(order) if isinstance(order, str) else order
        values = {name: document[name] for name in COLUMNS if document.get(name)}
        if values:
            connection.execute(sa.update(specimens).where(specimens.c.row == row).values(values))
