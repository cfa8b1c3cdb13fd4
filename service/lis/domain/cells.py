"""The cells of a specimen: added once, suggested by a model, read by people, counted by the database.

All functions run in the caller's transaction. Functions that change something need a locked specimen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, case, func, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from model.contract import CellClass, Manifest
from service.auth.identity import Actor
from service.errors import CellsChanged, CellState, CellTaken, Conflict, InvalidReading, UnknownSpecimen
from service.lis.domain import specimens
from service.lis.domain.differential import NOT_ACCEPTED, ClassifiedCell, CountingRules, Tally
from service.lis.domain.report import CellReading, Patient
from service.lis.storage import audit
from service.lis.storage.digests import cells_digest
from service.lis.storage.states import State
from service.lis.storage.tables import CellRow, ModelRow, ReadingRow, SpecimenRow


@dataclass(frozen=True, slots=True)
class CellCounts:
    """Counts of one specimen, its models (most recent first), their classes, and the unsupported class codes."""

    tally: Tally
    models: tuple[ModelRow, ...]
    classes: tuple[CellClass, ...]
    unsupported: tuple[str, ...]


def picture_hashes(session: Session, specimen: SpecimenRow) -> set[str]:
    """SHA-256 of every picture of the specimen, also of removed cells."""
    return set(session.scalars(select(CellRow.sha256).where(CellRow.specimen == specimen.row)))


def _present(session: Session, specimen: SpecimenRow, new: Sequence[ClassifiedCell]) -> list[CellRow]:
    """Existing cells with one of these pictures or keys."""
    keys = [cell.key for cell in new if cell.key]
    either = or_(CellRow.sha256.in_([cell.sha256 for cell in new]), CellRow.key.in_(keys))
    return list(session.scalars(select(CellRow).where(CellRow.specimen == specimen.row, either)))


def check_same_cell(cell: CellRow, sha256: str, key: str | None) -> CellRow:
    """The existing cell, if picture and key are the same.

    Raises:
        CellTaken: its key belongs to another picture, its picture has another key, or the cell was removed.
    """
    if cell.removed_at is not None:
        raise CellTaken(f"this picture or key belonged to cell {cell.place}, which was removed from the specimen")
    if cell.sha256 != sha256:
        raise CellTaken("this key belongs to another picture of the specimen; use a new key")
    if key is not None and cell.key != key:
        raise CellTaken(f"this picture is already cell {cell.place} of the specimen, with another key")
    return cell


def add(
    session: Session, specimen: SpecimenRow, new: Sequence[ClassifiedCell], manifest: Manifest, actor: Actor
) -> list[CellRow | CellTaken]:
    """Add cells to a locked specimen, each picture once. Returns the new or existing cell, or an error, for each.

    Raises:
        Conflict: the specimen's cells were classified with another class list.
    """
    _check_classes(session, specimen, manifest)
    there = _present(session, specimen, new)
    last = session.scalar(select(func.max(CellRow.place)).where(CellRow.specimen == specimen.row)) or 0
    by_picture = {cell.sha256: cell for cell in there}
    by_key = {cell.key: cell for cell in there if cell.key}
    outcome: list[CellRow | CellTaken] = []
    added: list[CellRow] = []
    for cell in new:
        row = by_picture.get(cell.sha256) or (by_key.get(cell.key) if cell.key else None)
        if row is None:
            row = by_picture[cell.sha256] = _row(specimen, last + len(added) + 1, cell, manifest)
            added.append(row)
            if cell.key:
                by_key[cell.key] = row
        try:
            outcome.append(check_same_cell(row, cell.sha256, cell.key))
        except CellTaken as error:
            outcome.append(error)
    if added:
        session.add_all(added)
        specimen.cells += len(added)
        specimen.revision += 1
        session.flush()
        places = [added[0].place, added[-1].place]
        model = {"model": manifest.sha256, "manifest": manifest.digest}
        digest = cells_digest(specimen, added)
        audit.record_change(session, actor, "add", specimen, places=places, **model, cells_digest=digest)
    return outcome


def read(session: Session, specimen: SpecimenRow, readings: Sequence[CellReading], actor: Actor) -> list[CellRow]:
    """Store a person's readings of a locked specimen: all or none.

    Raises:
        UnknownSpecimen: there is no cell at a place.
        CellsChanged: cells were read by someone else in the meantime.
        InvalidReading: an unknown class, a cell twice, or a change without a reason.
    """
    wanted = select(CellRow).where(counted_in(specimen), CellRow.place.in_([reading.place for reading in readings]))
    cells = {cell.place: cell for cell in session.scalars(wanted)}
    codes = {cell_class.code for cell_class in models_and_classes(session, specimen)[1]}
    if len({reading.place for reading in readings}) < len(readings):
        raise InvalidReading("the request reads a cell twice; send one reading per cell")
    _check_versions(readings, cells)
    for reading in readings:
        _check(reading, cells.get(reading.place), codes)
    now = datetime.now(UTC)
    written = [(cells[reading.place], reading) for reading in readings]
    changes = [[reading.place, cell.code, reading.code, reading.why] for cell, reading in written]
    session.execute(insert(ReadingRow), [_reading(cell, reading, actor, now) for cell, reading in written])
    for cell, reading in written:
        cell.code, cell.version, cell.read_by, cell.read_at = reading.code, cell.version + 1, actor.name, now
    specimen.revision += 1
    audit.record_change(session, actor, "read", specimen, cells=changes, at=now.isoformat())
    return [cell for cell, _ in written]


def remove(session: Session, specimen: SpecimenRow, place: int, reason: str, actor: Actor) -> None:
    """Remove a cell from a locked specimen. Its row stays for the audit trail; it is not counted or listed.

    Raises:
        UnknownSpecimen: there is no cell at this place, or it was removed before.
    """
    get(session, specimen, place).removed_at = datetime.now(UTC)
    specimen.cells -= 1
    specimen.revision += 1
    audit.record_change(session, actor, "remove", specimen, place=place, reason=reason)


def also_elsewhere(session: Session, specimen: SpecimenRow, pictures: Sequence[str]) -> dict[str, list[str]]:
    """Ids of the specimens of other patients that have one of these pictures, by picture."""
    wanted = (
        select(CellRow.sha256, SpecimenRow)
        .join(SpecimenRow, SpecimenRow.row == CellRow.specimen)
        .where(CellRow.sha256.in_(pictures), SpecimenRow.row != specimen.row, CellRow.removed_at.is_(None))
        .order_by(SpecimenRow.row)
    )
    patient = Patient.model_validate(specimen.patient)
    found: dict[str, list[str]] = {}
    for sha256, other in session.execute(wanted):
        if other.state != State.ERASED and not specimens.same_patient(other, patient):
            found.setdefault(sha256, []).append(other.id)
    return found


def counted_in(specimen: SpecimenRow) -> ColumnElement[bool]:
    """The specimen's cells without the removed ones, as an SQL condition."""
    return and_(CellRow.specimen == specimen.row, CellRow.removed_at.is_(None))


def count(session: Session, specimen: SpecimenRow, rules: CountingRules) -> CellCounts:
    """Counts per class. The database counts: the result has one row per class, however many cells there are."""
    models, classes, unsupported = models_and_classes(session, specimen)
    is_read = CellRow.read_by.is_not(None)
    groups = session.execute(
        select(CellRow.code, is_read, func.count(), func.sum(case((needs_review(rules, unsupported), 1), else_=0)))
        .where(counted_in(specimen))
        .group_by(CellRow.code, is_read)
    ).all()
    codes: dict[str, int] = {}
    for code, _, count, _ in groups:
        codes[code] = codes.get(code, 0) + count
    read_by_person = sum(count for _, was_read, count, _ in groups if was_read)
    tally = Tally(codes, read_by_person, sum(int(waits) for *_, waits in groups))
    return CellCounts(tally, models, classes, unsupported)


def needs_review(rules: CountingRules, unsupported: Sequence[str]) -> ColumnElement[bool]:
    """`CountingRules.needs_review` as an SQL condition."""
    doubtful = or_(
        CellRow.probability < rules.review_below,
        CellRow.code.in_(list(unsupported)),
        CellRow.decision.in_(NOT_ACCEPTED),
    )
    return CellRow.read_by.is_(None) & doubtful


def list_page(
    session: Session,
    specimen: SpecimenRow,
    *,
    code: str | None,
    only: ColumnElement[bool] | None,
    after: int,
    limit: int,
) -> Sequence[CellRow]:
    """A page of cells in the order they were added; `after` is the last place of the previous page."""
    wanted = [counted_in(specimen), CellRow.place > after]
    if code is not None:
        wanted.append(CellRow.code == code)
    if only is not None:
        wanted.append(only)
    return session.scalars(select(CellRow).where(*wanted).order_by(CellRow.place).limit(limit)).all()


def get(session: Session, specimen: SpecimenRow, place: int) -> CellRow:
    """The cell at a place.

    Raises:
        UnknownSpecimen: there is no cell at this place, or it was removed.
    """
    cell = session.scalars(select(CellRow).where(counted_in(specimen), CellRow.place == place)).one_or_none()
    if cell is None:
        raise UnknownSpecimen("cell")
    return cell


def list_readings(session: Session, cell: CellRow) -> Sequence[ReadingRow]:
    """Readings of a cell, oldest first."""
    return session.scalars(select(ReadingRow).where(ReadingRow.cell == cell.row).order_by(ReadingRow.row)).all()


def models_and_classes(
    session: Session, specimen: SpecimenRow
) -> tuple[tuple[ModelRow, ...], tuple[CellClass, ...], tuple[str, ...]]:
    """Models of the specimen's cells (most recent first), their classes, and class codes that any does not support."""
    latest = (
        select(CellRow.model, func.max(CellRow.place).label("place"))
        .where(counted_in(specimen))
        .group_by(CellRow.model)
        .subquery()
    )
    rows = session.scalars(
        select(ModelRow).join(latest, ModelRow.sha256 == latest.c.model).order_by(latest.c.place.desc())
    ).all()
    if not rows:
        return (), (), ()
    classes = tuple(CellClass.model_validate(entry) for entry in rows[0].classes)
    open_codes = {code for row in rows for code in row.unsupported}
    return tuple(rows), classes, tuple(each.code for each in classes if each.code in open_codes)


def register_model(session: Session, manifest: Manifest) -> None:
    """Store a model before its first cells, or update what its manifest says about it."""
    # A later manifest of the same graph may support fewer classes: that holds for existing cells too.
    latest = {
        "name": manifest.name,
        "version": manifest.version,
        "unsupported": list(manifest.unsupported),
        "inert": list(manifest.inert),
    }
    known = session.get(ModelRow, manifest.sha256)
    if known is not None and all(getattr(known, column) == value for column, value in latest.items()):
        return  # no write: other specimens do not wait for this transaction
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(
        dialect.insert(ModelRow)
        .values(sha256=manifest.sha256, classes=[cell_class.model_dump() for cell_class in manifest.classes], **latest)
        .on_conflict_do_update(index_elements=[ModelRow.sha256], set_=latest)
    )


def _check_classes(session: Session, specimen: SpecimenRow, manifest: Manifest) -> None:
    _, classes, _ = models_and_classes(session, specimen)
    if classes and classes != manifest.classes:
        raise Conflict(
            "the specimen's cells were classified with another class list than the current model's; open a new specimen"
        )


def _row(specimen: SpecimenRow, place: int, cell: ClassifiedCell, manifest: Manifest) -> CellRow:
    assert cell.top is not None, "rows of cells are never deleted: a known picture has one"
    code, probability = cell.top[0]
    return CellRow(
        specimen=specimen.row,
        place=place,
        key=cell.key,
        sha256=cell.sha256,
        model=manifest.sha256,
        suggested=code,
        probability=probability,
        top=[list(pair) for pair in cell.top],
        manifest=manifest.digest,
        decision=cell.decision,
        reasons=[reason.model_dump() for reason in cell.reasons],
        prediction_set=list(cell.prediction_set),
        code=code,
        version=1,
        added_at=datetime.now(UTC),
    )


def _check_versions(readings: Sequence[CellReading], cells: Mapping[int, CellRow]) -> None:
    seen = {reading.place: reading.version for reading in readings}
    changed = [cell for place, cell in sorted(cells.items()) if cell.version != seen[place]]
    if changed:
        states = [CellState(cell.place, cell.version, cell.code, cell.read_by, cell.read_at) for cell in changed]
        raise CellsChanged(seen[changed[0].place], states)


def _check(reading: CellReading, cell: CellRow | None, codes: Iterable[str]) -> None:
    if cell is None:
        raise UnknownSpecimen(f"cell {reading.place}")
    if reading.code not in codes:
        raise InvalidReading(f"cell {reading.place}: unknown class {reading.code}; see GET /classes")
    if reading.code != cell.code and not reading.why:
        raise InvalidReading(
            f"cell {reading.place}: `why` is missing; a change from {cell.code} to {reading.code} needs a reason"
        )


def _reading(cell: CellRow, reading: CellReading, actor: Actor, now: datetime) -> Mapping[str, object]:
    return {
        "cell": cell.row,
        "by": actor.name,
        "at": now,
        "from_code": cell.code,
        "to_code": reading.code,
        "why": reading.why,
    }
