"""What stands in the tables, held against the audit trail: reports, messages, and what people said of cells.

Knows which actions recorded what. Does not know hashes of rows (`audit`). Not covered, because the trail does not hold
it: patients' data of specimens, suggestions of the model, and pictures.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.lis.storage.audit import Fault, digest, rows
from service.lis.storage.tables import AuditRow, CellRow, MessageRow, ReadingRow, ReportRow, SpecimenRow

#: Row number of a fault that no row of the trail speaks of.
NO_ROW = 0


def verify(session: Session) -> list[Fault]:
    """Every report, message, reading and class of a cell that is not as the trail says, was added, or is missing."""
    return [*_reports(session), *_readings(session)]


def _reports(session: Session) -> Iterator[Fault]:
    reports, messages = set[str](), set[str]()
    for row in rows(session, "report", "sign"):
        details = _read(row)
        report = str(details.get("report"))
        reports.add(report)
        yield from _report(session, row, report, details)
        sent = details.get("messages")
        for control_id, expected in sent.items() if isinstance(sent, dict) else ():
            messages.add(control_id)
            text = session.scalar(select(MessageRow.message).where(MessageRow.control_id == control_id))
            if text is None or digest(text) != expected:
                yield Fault(row.number, f"speaks of message {control_id}, which is missing or was edited")
    for extra in set(session.scalars(select(ReportRow.id))) - reports:
        yield Fault(NO_ROW, f"speaks of report {extra}: it was added by another hand")
    for extra in set(session.scalars(select(MessageRow.control_id))) - messages:
        yield Fault(NO_ROW, f"speaks of message {extra}: it was added by another hand")


def _report(session: Session, row: AuditRow, report: str, details: dict[str, Any]) -> Iterator[Fault]:
    wanted = select(ReportRow, SpecimenRow.id).join(SpecimenRow, SpecimenRow.row == ReportRow.specimen)
    found = session.execute(wanted.where(ReportRow.id == report)).one_or_none()
    if found is None:
        yield Fault(row.number, f"speaks of report {report}, which is missing")
        return
    stands, specimen_id = found
    if digest(stands.document) != details.get("report_sha256"):
        yield Fault(row.number, f"speaks of report {report}, whose text was edited")
    said = (row.specimen_id, details.get("version"), details.get("status"))
    if (specimen_id, stands.version, stands.status) != said:
        yield Fault(row.number, f"speaks of report {report}, which now stands elsewhere or as something else")


def _readings(session: Session) -> Iterator[Fault]:
    told: Counter[tuple[Any, ...]] = Counter()
    last: dict[tuple[str | None, int], str] = {}
    for row in rows(session, "read"):
        for place, before, after, why in _read(row).get("cells", ()):
            told[row.specimen_id, place, row.actor, before, after, why] += 1
            last[row.specimen_id, place] = after
    columns = (ReadingRow.by, ReadingRow.from_code, ReadingRow.to_code, ReadingRow.why)
    written = select(SpecimenRow.id, CellRow.place, *columns).select_from(ReadingRow)
    written = written.join(CellRow, CellRow.row == ReadingRow.cell).join(
        SpecimenRow, SpecimenRow.row == CellRow.specimen
    )
    stand = Counter(tuple(each) for each in session.execute(written))
    for specimen_id, place, *_ in (told - stand) + (stand - told):
        yield Fault(NO_ROW, f"says what stands of cell {place} of specimen {specimen_id}: a reading was edited")
    yield from _classes(session, last)


def _classes(session: Session, last: dict[tuple[str | None, int], str]) -> Iterator[Fault]:
    cells = select(SpecimenRow.id, CellRow.place, CellRow.code).join(SpecimenRow, SpecimenRow.row == CellRow.specimen)
    touched = or_(CellRow.read_by.is_not(None), CellRow.code != CellRow.suggested)
    found: dict[tuple[str | None, int], str] = {
        (specimen_id, place): code for specimen_id, place, code in session.execute(cells.where(touched))
    }
    for specimen_id, place in sorted(found.keys() | last.keys(), key=str):
        if found.get((specimen_id, place)) != last.get((specimen_id, place)):
            yield Fault(NO_ROW, f"says what cell {place} of specimen {specimen_id} stands under: its class was edited")


def _read(row: AuditRow) -> dict[str, Any]:
    """What a row says; nothing where it was edited beyond reading, which its hash has shown already."""
    try:
        details = json.loads(row.details)
    except ValueError:
        return {}
    return details if isinstance(details, dict) else {}
