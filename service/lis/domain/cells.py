"""The cells of a specimen: added once, suggested by a model, read by people, counted by the database.

Knows cells' rows and their versions. Does not know pictures or how they were classified. Everything here runs within
the caller's transaction, with the specimen locked wherever something changes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, case, func, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from model.contract import CellClass, Manifest
from service.auth.identity import Actor
from service.errors import CellTaken, Conflict, InvalidReading, StaleRevision, UnknownSpecimen
from service.lis.domain.differential import CountingRules, SentCell, Tally
from service.lis.storage import audit
from service.lis.storage.tables import CellRow, ModelRow, ReadingRow, SpecimenRow


@dataclass(frozen=True, slots=True)
class Reading:
    """What a person says of one cell, having seen its `version`; to its own class it is a confirmation."""

    place: int
    version: int
    code: str
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """What there is to count in one specimen, and under which classes: those of the models, most recent first."""

    tally: Tally
    models: tuple[ModelRow, ...]
    classes: tuple[CellClass, ...]
    unsupported: tuple[str, ...]


def pictures(session: Session, specimen: SpecimenRow) -> set[str]:
    """The hashes of the pictures that are there."""
    return set(session.scalars(select(CellRow.sha256).where(CellRow.specimen == specimen.row)))


def _present(session: Session, specimen: SpecimenRow, new: Sequence[SentCell]) -> list[CellRow]:
    """The cells that are there already under one of these pictures or keys."""
    keys = [cell.key for cell in new if cell.key]
    either = or_(CellRow.sha256.in_([cell.sha256 for cell in new]), CellRow.key.in_(keys))
    return list(session.scalars(select(CellRow).where(CellRow.specimen == specimen.row, either)))


def matching(cell: CellRow, sha256: str, key: str | None) -> CellRow:
    """The cell that was sent again.

    Raises:
        CellTaken: it is not the same: its key stands for another picture, or its picture under another key.
    """
    if cell.sha256 != sha256:
        raise CellTaken("this key stands for another picture of this specimen")
    if key is not None and cell.key != key:
        raise CellTaken(f"this picture is cell {cell.place} of this specimen already, under another key")
    return cell


def add(
    session: Session, specimen: SpecimenRow, new: Sequence[SentCell], manifest: Manifest, by: Actor
) -> list[CellRow | CellTaken]:
    """Add cells to a locked specimen, each picture once; in their place, what stands there for each of them.

    Raises:
        Conflict: the specimen has cells that were classified under another list of classes.
    """
    _check_classes(session, specimen, manifest)
    there = _present(session, specimen, new)
    by_picture = {cell.sha256: cell for cell in there}
    by_key = {cell.key: cell for cell in there if cell.key}
    outcome: list[CellRow | CellTaken] = []
    added = []
    for cell in new:
        row = by_picture.get(cell.sha256) or (by_key.get(cell.key) if cell.key else None)
        if row is None:
            specimen.cells += 1
            row = by_picture[cell.sha256] = _row(specimen, cell, manifest)
            added.append(row)
            if cell.key:
                by_key[cell.key] = row
        try:
            outcome.append(matching(row, cell.sha256, cell.key))
        except CellTaken as error:
            outcome.append(error)
    if added:
        session.add_all(added)
        specimen.revision += 1
        session.flush()
        places = [added[0].place, added[-1].place]
        audit.record(session, by, "add", specimen.id, places=places, model=manifest.sha256, revision=specimen.revision)
    return outcome


def read(session: Session, specimen: SpecimenRow, readings: Sequence[Reading], by: Actor) -> list[CellRow]:
    """Write down what a person says of cells of a locked specimen: all of it or nothing.

    Raises:
        UnknownSpecimen: a place where there is no cell.
        StaleRevision: somebody read a cell meanwhile.
        InvalidReading: not a class, a cell twice, or a change without a reason.
    """
    wanted = select(CellRow).where(
        CellRow.specimen == specimen.row, CellRow.place.in_([reading.place for reading in readings])
    )
    cells = {cell.place: cell for cell in session.scalars(wanted)}
    codes = {cell_class.code for cell_class in counted_under(session, specimen)[1]}
    if len({reading.place for reading in readings}) < len(readings):
        raise InvalidReading("a cell is read twice in one request")
    for reading in readings:
        _check(reading, cells.get(reading.place), codes)
    now = datetime.now(UTC)
    written = [(cells[reading.place], reading) for reading in readings]
    changes = [[reading.place, cell.code, reading.code, reading.why] for cell, reading in written]
    session.execute(insert(ReadingRow), [_reading(cell, reading, by, now) for cell, reading in written])
    for cell, reading in written:
        cell.code, cell.version, cell.read_by, cell.read_at = reading.code, cell.version + 1, by.name, now
    specimen.revision += 1
    audit.record(session, by, "read", specimen.id, cells=changes, revision=specimen.revision)
    return [cell for cell, _ in written]


def counted(session: Session, specimen: SpecimenRow, rules: CountingRules) -> Counted:
    """How often each class stands in a specimen now. Counted by the database: 500 cells or 50,000, one row a class."""
    models, classes, unsupported = counted_under(session, specimen)
    is_read = CellRow.read_by.is_not(None)
    groups = session.execute(
        select(CellRow.code, is_read, func.count(), func.sum(case((waiting(rules, unsupported), 1), else_=0)))
        .where(CellRow.specimen == specimen.row)
        .group_by(CellRow.code, is_read)
    ).all()
    codes: dict[str, int] = {}
    for code, _, count, _ in groups:
        codes[code] = codes.get(code, 0) + count
    read_by_person = sum(count for _, was_read, count, _ in groups if was_read)
    tally = Tally(codes, read_by_person, sum(int(waits) for *_, waits in groups))
    return Counted(tally, models, classes, unsupported)


def waiting(rules: CountingRules, unsupported: Sequence[str]) -> ColumnElement[bool]:
    """`CountingRules.waits` as a condition on cells."""
    doubtful = or_(CellRow.probability < rules.review_below, CellRow.code.in_(list(unsupported)))
    return CellRow.read_by.is_(None) & doubtful


def listed(
    session: Session,
    specimen: SpecimenRow,
    *,
    code: str | None,
    only: ColumnElement[bool] | None,
    after: int,
    limit: int,
) -> Sequence[CellRow]:
    """A page of cells in the order in which they came; `after` is the place of the last one of the page before."""
    wanted = [CellRow.specimen == specimen.row, CellRow.place > after]
    if code is not None:
        wanted.append(CellRow.code == code)
    if only is not None:
        wanted.append(only)
    return session.scalars(select(CellRow).where(*wanted).order_by(CellRow.place).limit(limit)).all()


def at(session: Session, specimen: SpecimenRow, place: int) -> CellRow:
    """One cell.

    Raises:
        UnknownSpecimen: there is none at this place.
    """
    wanted = select(CellRow).where(CellRow.specimen == specimen.row, CellRow.place == place)
    cell = session.scalars(wanted).one_or_none()
    if cell is None:
        raise UnknownSpecimen("cell")
    return cell


def readings_of(session: Session, cell: CellRow) -> Sequence[ReadingRow]:
    """What people said of a cell, the first first."""
    return session.scalars(select(ReadingRow).where(ReadingRow.cell == cell.row).order_by(ReadingRow.row)).all()


def counted_under(
    session: Session, specimen: SpecimenRow
) -> tuple[tuple[ModelRow, ...], tuple[CellClass, ...], tuple[str, ...]]:
    """The models of a specimen's cells, most recent first; their classes; and what any of them does not support."""
    latest = (
        select(CellRow.model, func.max(CellRow.place).label("place"))
        .where(CellRow.specimen == specimen.row)
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


def know_model(session: Session, manifest: Manifest) -> None:
    """Write a model down before its first cells, and what its manifest says of it by now."""
    known = session.get(ModelRow, manifest.sha256)
    if known is not None and known.unsupported == list(manifest.unsupported) and known.version == manifest.version:
        return  # and no other specimen waits for this one, as for whoever writes the row
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(
        dialect.insert(ModelRow)
        .values(
            sha256=manifest.sha256,
            name=manifest.name,
            version=manifest.version,
            classes=[cell_class.model_dump() for cell_class in manifest.classes],
            unsupported=list(manifest.unsupported),
        )
        # Of one graph a later manifest may claim less: what it says now holds for the cells that are here, too.
        .on_conflict_do_update(
            index_elements=[ModelRow.sha256],
            set_={"name": manifest.name, "version": manifest.version, "unsupported": list(manifest.unsupported)},
        )
    )


def _check_classes(session: Session, specimen: SpecimenRow, manifest: Manifest) -> None:
    _, classes, _ = counted_under(session, specimen)
    if classes and classes != manifest.classes:
        raise Conflict("this specimen's cells were classified under another list of classes than the model has now")


def _row(specimen: SpecimenRow, cell: SentCell, manifest: Manifest) -> CellRow:
    assert cell.suggestion is not None, "cells are never deleted, so what was there is there"
    code, probability = cell.suggestion.top[0]
    return CellRow(
        specimen=specimen.row,
        place=specimen.cells,
        key=cell.key,
        sha256=cell.sha256,
        model=manifest.sha256,
        suggested=code,
        probability=probability,
        top=[list(pair) for pair in cell.suggestion.top],
        code=code,
        version=1,
        added_at=datetime.now(UTC),
    )


def _check(reading: Reading, cell: CellRow | None, codes: Iterable[str]) -> None:
    if cell is None:
        raise UnknownSpecimen(f"cell {reading.place}")
    if reading.version != cell.version:
        raise StaleRevision(f"cell {reading.place}", reading.version, cell.version)
    if reading.code not in codes:
        raise InvalidReading(f"cell {reading.place} cannot be {reading.code}: there is no such class")
    if reading.code != cell.code and not reading.why:
        raise InvalidReading(f"cell {reading.place} becomes {reading.code} instead of {cell.code}: say why")


def _reading(cell: CellRow, reading: Reading, by: Actor, now: datetime) -> Mapping[str, object]:
    return {
        "cell": cell.row,
        "by": by.name,
        "at": now,
        "from_code": cell.code,
        "to_code": reading.code,
        "why": reading.why,
    }
