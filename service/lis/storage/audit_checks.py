"""Compares reports, messages, readings and classes of cells in the tables with the audit trail.

Not in the trail, and so not checked: patients' data of specimens, suggestions of the model, pictures.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.lis.storage.audit import Mismatch, digest, read_rows
from service.lis.storage.tables import AuditRow, CellRow, MessageRow, ReadingRow, ReportRow, SpecimenRow

#: Row number of a mismatch without a row in the trail.
NO_ROW = 0


def verify(session: Session) -> list[Mismatch]:
    """All reports, messages, readings and classes of cells that were edited, added or removed."""
    return [*_reports(session), *_readings(session)]


def _reports(session: Session) -> Iterator[Mismatch]:
    reports, messages = set[str](), set[str]()
    for row in read_rows(session, "report", "sign"):
        details = _read(row)
        report = str(details.get("report"))
        reports.add(report)
        yield from _report(session, row, report, details)
        sent = details.get("messages")
        for control_id, expected in sent.items() if isinstance(sent, dict) else ():
            messages.add(control_id)
            text = session.scalar(select(MessageRow.message).where(MessageRow.control_id == control_id))
            if text is None or digest(text) != expected:
                yield Mismatch(row.number, f"message {control_id} is missing or was edited")
    for extra in set(session.scalars(select(ReportRow.id))) - reports:
        yield Mismatch(NO_ROW, f"report {extra} is not in the audit trail")
    for extra in set(session.scalars(select(MessageRow.control_id))) - messages:
        yield Mismatch(NO_ROW, f"message {extra} is not in the audit trail")


def _report(session: Session, row: AuditRow, report: str, details: dict[str, Any]) -> Iterator[Mismatch]:
    wanted = select(ReportRow, SpecimenRow.id).join(SpecimenRow, SpecimenRow.row == ReportRow.specimen)
    found = session.execute(wanted.where(ReportRow.id == report)).one_or_none()
    if found is None:
        yield Mismatch(row.number, f"report {report} is missing")
        return
    stored, specimen_id = found
    if digest(stored.document) != details.get("report_sha256"):
        yield Mismatch(row.number, f"the text of report {report} was edited")
    recorded = (row.specimen_id, details.get("version"), details.get("status"))
    if (specimen_id, stored.version, stored.status) != recorded:
        yield Mismatch(row.number, f"specimen, version or status of report {report} differs from the audit record")


def _readings(session: Session) -> Iterator[Mismatch]:
    recorded: Counter[tuple[Any, ...]] = Counter()
    last: dict[tuple[str | None, int], str] = {}
    for row in read_rows(session, "read"):
        for place, before, after, why in _read(row).get("cells", ()):
            recorded[row.specimen_id, place, row.actor, before, after, why] += 1
            last[row.specimen_id, place] = after
    columns = (ReadingRow.by, ReadingRow.from_code, ReadingRow.to_code, ReadingRow.why)
    written = select(SpecimenRow.id, CellRow.place, *columns).select_from(ReadingRow)
    written = written.join(CellRow, CellRow.row == ReadingRow.cell).join(
        SpecimenRow, SpecimenRow.row == CellRow.specimen
    )
    stored = Counter(tuple(each) for each in session.execute(written))
    for specimen_id, place, *_ in (recorded - stored) + (stored - recorded):
        yield Mismatch(NO_ROW, f"readings of cell {place} of specimen {specimen_id} differ from the audit record")
    yield from _classes(session, last)


def _classes(session: Session, last: dict[tuple[str | None, int], str]) -> Iterator[Mismatch]:
    cells = select(SpecimenRow.id, CellRow.place, CellRow.code).join(SpecimenRow, SpecimenRow.row == CellRow.specimen)
    touched = or_(CellRow.read_by.is_not(None), CellRow.code != CellRow.suggested)
    found: dict[tuple[str | None, int], str] = {
        (specimen_id, place): code for specimen_id, place, code in session.execute(cells.where(touched))
    }
    for specimen_id, place in sorted(found.keys() | last.keys(), key=str):
        if found.get((specimen_id, place)) != last.get((specimen_id, place)):
            yield Mismatch(NO_ROW, f"the class of cell {place} of specimen {specimen_id} differs from the audit record")


def _read(row: AuditRow) -> dict[str, Any]:
    """Details of a row; empty if they are invalid, which the hash chain reports."""
    try:
        details = json.loads(row.details)
    except ValueError:
        return {}
    return details if isinstance(details, dict) else {}
