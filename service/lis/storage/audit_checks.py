"""Compares specimens, cells, readings, reports and messages in the tables with the audit trail.

Not in the trail, and so not checked: files of pictures, names and class lists of models, ids of received messages,
times and reasons of messages that still wait, and what earlier versions recorded without a digest.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.lis.storage.audit import Mismatch
from service.lis.storage.audit_record import (
    AuditRecord,
    RecordedCells,
    RecordedMessage,
    RecordedReading,
    RecordedReport,
    RecordedSpecimen,
    read_record,
)
from service.lis.storage.digests import cells_digest, digest, findings_digest, outcome_digest, specimen_digest
from service.lis.storage.states import MessageState
from service.lis.storage.tables import CellRow, MessageRow, ReadingRow, ReportRow, SpecimenRow

#: Row number of a mismatch without a row in the trail.
NO_ROW = 0
_PAGE = 500
_UNSETTLED = (MessageState.WAITING, MessageState.HELD)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mismatches; what was erased or expired, a line each; specimens without a digest, of earlier versions."""

    mismatches: list[Mismatch]
    erased: list[str]
    uncovered: int


def verify(session: Session) -> Comparison:
    """Compare the tables with the trail: everything that was edited, added or removed beside it."""
    record = read_record(session)
    found = [
        *_specimens(session, record),
        *_reports(session, record.reports),
        *_messages(session, record.messages),
        *_readings(session, record.readings),
        *_classes(session, record.last_readings),
        *_removed(session, record),
    ]
    return Comparison(found, record.erased, sum(each.digest is None for each in record.specimens.values()))


def _specimens(session: Session, record: AuditRecord) -> Iterator[Mismatch]:
    unseen = dict(record.specimens)
    for specimen in session.scalars(select(SpecimenRow).execution_options(yield_per=_PAGE)):
        recorded = unseen.pop(specimen.id, None)
        if recorded is None:
            yield Mismatch(NO_ROW, f"specimen {specimen.id} is not in the audit trail")
            continue
        if recorded.digest is not None and recorded.digest != specimen_digest(specimen):
            yield Mismatch(
                recorded.row,
                f"the data of specimen {specimen.id} were edited: patient, order, numbers, collection time, target, "
                "megakaryocytes, state or counts",
            )
        if recorded.digest is not None and recorded.findings != findings_digest(specimen):
            yield Mismatch(recorded.row, f"assessments or comment of specimen {specimen.id} were edited")
        yield from _cells(session, specimen, recorded)
    for specimen_id, recorded in unseen.items():
        yield Mismatch(recorded.row, f"specimen {specimen_id} is missing")


def _cells(session: Session, specimen: SpecimenRow, recorded: RecordedSpecimen) -> Iterator[Mismatch]:
    found = session.scalars(select(CellRow).where(CellRow.specimen == specimen.row))
    cells = {cell.place: cell for cell in found}
    for added in recorded.cells:
        yield from _cells_of_one_row(specimen, added, cells)
    for place in cells:
        yield Mismatch(NO_ROW, f"cell {place} of specimen {specimen.id} is not in the audit trail")


def _cells_of_one_row(specimen: SpecimenRow, added: RecordedCells, cells: dict[int, CellRow]) -> Iterator[Mismatch]:
    """Compare the cells of one row, and take them out of `cells`."""
    found = []
    for place in range(added.first, added.last + 1):
        if place in cells:
            found.append(cells.pop(place))
        else:
            yield Mismatch(added.row, f"cell {place} of specimen {specimen.id} is missing")
    is_whole = len(found) == added.last + 1 - added.first
    if is_whole and added.digest is not None and added.digest != cells_digest(specimen, found):
        yield Mismatch(
            added.row,
            f"pictures or suggestions of cells {added.first} to {added.last} of specimen {specimen.id} were edited",
        )


def _reports(session: Session, recorded: Mapping[str, RecordedReport]) -> Iterator[Mismatch]:
    unseen = dict(recorded)
    wanted = select(ReportRow, SpecimenRow.id).join(SpecimenRow, SpecimenRow.row == ReportRow.specimen)
    for stored, specimen_id in session.execute(wanted.execution_options(yield_per=_PAGE)):
        expected = unseen.pop(stored.id, None)
        if expected is None:
            yield Mismatch(NO_ROW, f"report {stored.id} is not in the audit trail")
            continue
        if digest(stored.document) != expected.sha256:
            yield Mismatch(expected.row, f"the text of report {stored.id} was edited")
        if (specimen_id, stored.version, stored.status) != (expected.specimen_id, expected.version, expected.status):
            yield Mismatch(
                expected.row, f"specimen, version or status of report {stored.id} differs from the audit record"
            )
    for report, expected in unseen.items():
        yield Mismatch(expected.row, f"report {report} is missing")


def _messages(session: Session, recorded: Mapping[str, RecordedMessage]) -> Iterator[Mismatch]:
    unseen = dict(recorded)
    wanted = select(MessageRow, SpecimenRow).join(SpecimenRow, SpecimenRow.row == MessageRow.specimen)
    for stored, specimen in session.execute(wanted.execution_options(yield_per=_PAGE)):
        expected = unseen.pop(stored.control_id, None)
        if expected is None:
            yield Mismatch(NO_ROW, f"message {stored.control_id} is not in the audit trail")
            continue
        for what in _message_faults(specimen, stored, expected):
            yield Mismatch(expected.row, f"{what} of message {stored.control_id} differs from the audit record")
    for control_id, expected in unseen.items():
        yield Mismatch(expected.row, f"message {control_id} is missing")


def _message_faults(specimen: SpecimenRow, stored: MessageRow, expected: RecordedMessage) -> Iterator[str]:
    if digest(stored.message) != (digest("") if expected.is_empty else expected.sha256):
        yield "the text"
    if expected.state is not None and stored.state != expected.state:
        yield f"the state ({stored.state} instead of {expected.state})"
    elif expected.is_empty and not (stored.reply is None and stored.reason is None):
        yield "the erased reply or reason"
    elif expected.outcome is not None and expected.outcome != outcome_digest(specimen, stored):
        yield "the reply or reason"


def _readings(session: Session, recorded: Counter[tuple[Any, ...]]) -> Iterator[Mismatch]:
    columns = (ReadingRow.by, ReadingRow.from_code, ReadingRow.to_code, ReadingRow.why)
    written = select(SpecimenRow.id, CellRow.place, *columns).select_from(ReadingRow)
    written = written.join(CellRow, CellRow.row == ReadingRow.cell).join(
        SpecimenRow, SpecimenRow.row == CellRow.specimen
    )
    stored: Counter[tuple[Any, ...]] = Counter(tuple(each) for each in session.execute(written))
    for specimen_id, place, *_ in (recorded - stored) + (stored - recorded):
        yield Mismatch(NO_ROW, f"readings of cell {place} of specimen {specimen_id} differ from the audit record")


def _classes(session: Session, recorded: Mapping[tuple[str | None, int], RecordedReading]) -> Iterator[Mismatch]:
    """Compare class, reader and time of each cell with its last reading."""
    columns = (CellRow.place, CellRow.code, CellRow.suggested, CellRow.read_by, CellRow.read_at, CellRow.version)
    cells = select(SpecimenRow.id, *columns).join(SpecimenRow, SpecimenRow.row == CellRow.specimen)
    is_touched = or_(CellRow.read_by.is_not(None), CellRow.code != CellRow.suggested, CellRow.version != 1)
    unseen = dict(recorded)
    for specimen_id, place, code, _, by, at, version in session.execute(cells.where(is_touched)):
        last = unseen.pop((specimen_id, place), None)
        if last is None or (code, by, version) != (last.code, last.by, last.count + 1) or not _is_time(at, last.at):
            yield Mismatch(NO_ROW, _CELL.format(place, specimen_id))
    for missing in unseen:
        yield Mismatch(NO_ROW, _CELL.format(missing[1], missing[0]))


_CELL = "class or reader of cell {} of specimen {} differs from the audit record"


def _is_time(stored: datetime | None, recorded: str | None) -> bool:
    return recorded is None or (stored is not None and stored.astimezone(UTC).isoformat() == recorded)


def _removed(session: Session, record: AuditRecord) -> Iterator[Mismatch]:
    wanted = select(SpecimenRow.id, CellRow.place).join(SpecimenRow, SpecimenRow.row == CellRow.specimen)
    stored = {(each.id, each.place) for each in session.execute(wanted.where(CellRow.removed_at.is_not(None)))}
    for specimen_id, place in sorted(stored ^ record.removed, key=str):
        yield Mismatch(NO_ROW, f"the removal of cell {place} of specimen {specimen_id} differs from the audit record")
