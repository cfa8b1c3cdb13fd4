"""A laboratory for tests: a manifest of the 21 classes, cells without pictures, and use cases over a database."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from model.contract import CLASSES, Manifest, read_manifest
from service.auth.identity import Actor, Identity
from service.lis.domain.differential import ClassifiedCell, CountingRules
from service.lis.domain.report import DEFAULT_CONTENT, Patient, Report, ReportContent
from service.lis.domain.signing import Channel
from service.lis.schemas import OpenSpecimen, SignSpecimen
from service.lis.storage.database import Database, Timeouts
from service.lis.use_cases import UseCases

CODES = tuple(cell_class.code for cell_class in CLASSES)


def plainly(report: Report, _earlier: object, _examples: object, control_id: str) -> str:
    """A message in plain text."""
    return f"{control_id} {report.number} {report.status} {report.version}"


PLAIN = Channel("plain", plainly, timedelta(hours=1))


def manifest(artefact: Path) -> Manifest:
    """The manifest beside a test's artefact."""
    return read_manifest(artefact.with_suffix(".json"))


def user(name: str) -> Actor:
    """An actor that a front end names."""
    return Actor(name, Identity(kind="named", key="front", key_id="0" * 8))


@contextmanager
def use_cases(
    url: str,
    *,
    channels: Sequence[Channel] = (PLAIN,),
    content: ReportContent = DEFAULT_CONTENT,
    needs_second_reader: bool = False,
    **rules: object,
) -> Iterator[UseCases]:
    """Use cases over a migrated database."""
    database = Database(url, timeouts=Timeouts(lock_s=60, statement_s=60))  # a loaded machine is no fault
    try:
        database.migrate()
        rules_of = CountingRules(**rules)  # type: ignore[arg-type]
        yield UseCases(database, rules_of, channels, content, needs_second_reader=needs_second_reader)
    finally:
        database.close()


def classified(
    code: str, *, name: str | None = None, key: str | None = None, probability: float = 0.95
) -> ClassifiedCell:
    """A classified cell; another name is another picture."""
    digest = sha256((name or f"{code} {random.random()}").encode()).hexdigest()
    return ClassifiedCell(digest, key, ((code, probability), ("NIF" if code != "NIF" else "ART", 1 - probability)))


def open_request(number: str = "BM-1", **more: object) -> OpenSpecimen:
    """A request to open a specimen."""
    fields = {"number": number, "patient": Patient(identifier=f"P-{number}", family="Muster")} | more
    return OpenSpecimen(**fields)  # type: ignore[arg-type]


def sign_request(revision: int, **more: object) -> SignSpecimen:
    """A request to sign a revision, with however few cells."""
    return SignSpecimen(revision=revision, **({"accept_below_target": True} | more))  # type: ignore[arg-type]


#: Columns that migrations added, by migration.
_ADDED = {
    "0003": ["models.inert"],
    "0004": ["cells.manifest", "cells.decision", "cells.reasons", "cells.prediction_set"],
    "0005": ["specimens.placer_number", "specimens.filler_number"],
    "0006": ["specimens.label", "specimens.merged_at", "specimens.counted_by"],
    "0007": ["specimens.digest_key", "cells.removed_at"],
    "0011": [f"specimens.{name}" for name in ("megakaryocyte_assessment", "cellularity", "assessed_by", "comment")],
}
#: Tables that migrations created.
_CREATED = {
    "0002": ["audit_key"],
    "0007": ["patient_numbers"],
    "0009": ["second_readings", "pseudonym_key"],
    "0010": ["presences"],
}


def return_to(session: Session, version: str) -> None:
    """Undo the migrations after a version, as an older database has it."""
    for column in (column for migration, added in _ADDED.items() if migration > version for column in added):
        table, name = column.split(".")
        session.execute(text(f"DROP INDEX IF EXISTS ix_{table}_{name}"))
        session.execute(text(f"ALTER TABLE {table} DROP COLUMN {name}"))
    for table in (table for migration, created in _CREATED.items() if migration > version for table in created):
        session.execute(text(f"DROP TABLE {table}"))
    if version < "0010":
        session.execute(text("DROP INDEX cells_read"))
    if version < "0007":
        session.execute(text("DROP INDEX ix_cells_sha256"))
    session.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
