"""Digest keys of specimens, removed cells, and the numbers of patients, to find their specimens by."""

import json
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add columns and table; fill them from the stored specimens."""
    op.add_column("specimens", sa.Column("digest_key", sa.String(length=64), nullable=True))
    op.add_column("cells", sa.Column("removed_at", sa.DateTime(), nullable=True))
    op.create_index(op.f("ix_cells_sha256"), "cells", ["sha256"])
    numbers = op.create_table(
        "patient_numbers",
        sa.Column("number", sa.String(length=200), nullable=False),
        sa.Column("specimen", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["specimen"], ["specimens.row"]),
        sa.PrimaryKeyConstraint("number", "specimen"),
    )
    connection = op.get_bind()
    specimens = sa.table("specimens", *(sa.column(name) for name in ("row", "patient", "digest_key")))
    for row, patient in connection.execute(sa.select(specimens.c.row, specimens.c.patient)).all():
        connection.execute(sa.update(specimens).where(specimens.c.row == row).values(digest_key=token_hex(32)))
        document = json.loads(patient) if isinstance(patient, str) else patient
        for number in sorted(set(_numbers(document))):
            connection.execute(numbers.insert().values(number=number, specimen=row))


def _numbers(patient: dict[str, Any]) -> Iterator[str]:
    yield patient["identifier"]
    for each in patient.get("numbers") or ():
        yield each["number"]
