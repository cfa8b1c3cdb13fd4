"""The audit trail reveals rows and reports that were edited, removed, added or moved."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import classified, manifest, open_request, sign_request, use_cases, user
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from examples import examples
from service.lis.domain.report import CellReading
from service.lis.schemas import ReadCells, WithReason
from service.lis.storage import audit, audit_checks
from service.lis.storage.tables import AuditHeadRow, AuditRow, ReportRow
from service.lis.use_cases import UseCases


@pytest.fixture
def front(database_url: str, artefact: Path) -> Iterator[UseCases]:
    """Use cases with one signed and one cancelled specimen: six audit rows."""
    with use_cases(database_url) as opened:
        first = opened.open(open_request("BM-1"), user("m.muster")).id
        opened.add(first, [classified("PMO"), classified("EBO")], manifest(artefact), user("scanner"))
        change = CellReading(place=1, version=1, code="MYB", why="smaller")
        revision = opened.read(first, ReadCells(readings=[change]), user("m.muster")).revision
        opened.sign(first, sign_request(revision), user("dr.beispiel"))
        second = opened.open(open_request("BM-2"), user("m.muster")).id
        opened.cancel(second, WithReason(revision=1, reason="clotted"), user("m.muster"))
        yield opened


def checked(front: UseCases, known: audit.ChainEnd | None = None) -> tuple[audit.ChainEnd, list[audit.Mismatch]]:
    with front.database.reading() as session:
        end, found = audit.verify(session, known)
        return end, found + audit_checks.verify(session).mismatches


def faults(front: UseCases) -> list[int]:
    return [fault.number for fault in checked(front)[1]]


def test_what_was_done_is_written_down_with_who_and_under_which_model(front: UseCases, artefact: Path) -> None:
    with front.database.reading() as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.number)).all()
    assert [(row.number, row.actor, row.action) for row in rows] == [
        (1, "m.muster", "open"),
        (2, "scanner", "add"),
        (3, "m.muster", "read"),
        (4, "dr.beispiel", "sign"),
        (5, "m.muster", "open"),
        (6, "m.muster", "cancel"),
    ]
    model = manifest(artefact).sha256
    assert json.loads(rows[1].details)["model"] == model
    assert json.loads(rows[3].details)["models"] == [model]
    assert not any("Muster" in row.details or "P-BM" in row.details for row in rows), "nothing of the patient"


def test_an_untouched_trail_has_no_fault(front: UseCases) -> None:
    end, found = checked(front)
    assert (end.number, found) == (6, [])
    assert checked(front, end)[1] == []


@pytest.mark.parametrize("column", ["at", "actor", "action", "specimen_id", "details", "hash"])
@pytest.mark.parametrize("number", [1, 4, 6])
def test_an_edited_row_is_found(front: UseCases, column: str, number: int) -> None:
    with front.database.writing() as session:
        value = session.scalars(select(getattr(AuditRow, column)).where(AuditRow.number == number)).one()
        # The action alone decides which reports are looked at: it stays one of those that there are.
        edited = "cancel" if column == "action" and value != "cancel" else f"{'01'[value[0] == '0']}{value[1:]}"
        session.execute(update(AuditRow).where(AuditRow.number == number).values({column: edited}))
    assert number in faults(front)


def test_a_removed_row_is_found_wherever_it_stood(front: UseCases) -> None:
    for number, seen in ((6, 5), (4, 5), (1, 2)):
        with front.database.writing() as session:
            session.execute(delete(AuditRow).where(AuditRow.number == number))
        assert seen in faults(front)


def test_rows_that_changed_places_are_found(front: UseCases) -> None:
    with front.database.writing() as session:
        for old, new in ((1, -1), (4, 1), (-1, 4)):
            session.execute(update(AuditRow).where(AuditRow.number == old).values(number=new))
    assert {1, 4} <= set(faults(front))


def test_an_added_row_is_found(front: UseCases) -> None:
    with front.database.writing() as session:
        row = {"number": 7, "at": "", "actor": "m", "action": "open", "details": "{}", "hash": "0" * 64}
        session.execute(insert(AuditRow).values(row))
    assert 7 in faults(front)


def test_an_edited_or_removed_report_is_found(front: UseCases) -> None:
    with front.database.writing() as session:
        session.execute(update(ReportRow).values(document=func.replace(ReportRow.document, '"PMO"', '"MYB"')))
    assert faults(front) == [4]
    with front.database.writing() as session:
        session.execute(text("DELETE FROM outbox"))
        session.execute(delete(ReportRow))
    assert 4 in faults(front)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE reports SET version = 2",
        "UPDATE reports SET status = 'corrected'",
        "UPDATE reports SET specimen = (SELECT max(row) FROM specimens)",
        "UPDATE outbox SET message = 'another'",
        "UPDATE cells SET code = 'BLA' WHERE place = 2",
        "UPDATE cells SET code = suggested, read_by = NULL WHERE place = 1",
        "UPDATE cells SET read_by = 'nobody' WHERE place = 2",
        "UPDATE readings SET \"by\" = 'nobody'",
        "UPDATE readings SET why = 'another reason'",
        "DELETE FROM readings",
        "INSERT INTO reports (id, specimen, version, status, document, created_at) "
        "SELECT 'forged', specimen, 9, 'corrected', document, created_at FROM reports",
        "INSERT INTO readings (cell, \"by\", at, from_code, to_code) SELECT cell, 'x', at, 'PMO', 'BLA' FROM readings",
        "DELETE FROM audit_head",
    ],
)
def test_what_was_edited_beside_the_trail_is_found(front: UseCases, edit: str) -> None:
    assert faults(front) == []
    with front.database.writing() as session:
        session.execute(text(edit))
    assert faults(front) != []


def test_without_its_end_nothing_is_done_that_could_not_be_recorded(front: UseCases) -> None:
    with front.database.writing() as session:
        session.execute(text("DELETE FROM audit_head"))
    with pytest.raises(audit.AuditTrailBroken, match="audit verify"):
        front.open(open_request("BM-3"), user("m.muster"))
    assert front.list(None, "BM-3", None, 1).specimens == []


def rewritten(session: Session) -> None:
    """A new chain over edited rows, as a database administrator could write it."""
    rows = session.scalars(select(AuditRow).order_by(AuditRow.number)).all()
    rows[0].actor = "nobody"
    before = audit.BEGINNING
    for row in rows:
        row.hash = before = audit._hash(row, before)
    session.execute(update(AuditHeadRow).values(hash=before))


def test_a_whole_new_chain_is_found_by_an_end_that_was_kept_elsewhere(front: UseCases) -> None:
    end, _ = checked(front)
    with front.database.writing() as session:
        rewritten(session)
    assert checked(front)[1] == [], "nothing inside the database can show it"
    assert [fault.number for fault in checked(front, end)[1]] == [6]


def test_a_trail_cut_short_is_found_by_an_end_that_was_kept_elsewhere(front: UseCases) -> None:
    end, _ = checked(front)
    with front.database.writing() as session:
        session.execute(delete(AuditRow).where(AuditRow.number == 6))
        last = session.scalars(select(AuditRow).where(AuditRow.number == 5)).one()
        session.execute(update(AuditHeadRow).values(number=5, hash=last.hash))
    [fault] = checked(front)[1]  # the specimen is cancelled, and no row says so
    assert "data of specimen" in fault.what
    assert len(checked(front, end)[1]) == 2


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actor=st.text(min_size=1, max_size=30), detail=st.text(max_size=50), number=st.integers(-(2**40), 2**40))
def test_whatever_is_recorded_is_read_back_as_it_was(front: UseCases, actor: str, detail: str, number: int) -> None:
    actor, detail = (each.encode("utf-8", "replace").decode().replace("\0", "") for each in (actor, detail))
    with front.database.writing() as session:
        audit.record(session, user(actor), "look", None, detail=detail, number=number)
    assert faults(front) == []
