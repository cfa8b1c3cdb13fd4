"""The second reader: required by a setting, another person than the signer, and only for the cells that they saw."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import classified, manifest, open_request, sign_request, use_cases, user
from sqlalchemy import select

from service.auth.identity import Actor, Identity
from service.errors import NotReviewed, StaleRevision, WrongState
from service.lis.domain.report import CellReading
from service.lis.schemas import ConfirmCells, ReadCells, Specimen, WithReason
from service.lis.storage import audit
from service.lis.storage.tables import AuditRow
from service.lis.use_cases import UseCases

SIGNER, SECOND = user("dr.beispiel"), user("e.muster")


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url, needs_second_reader=True) as opened:
        yield opened


def with_cells(front: UseCases, artefact: Path) -> Specimen:
    opened = front.open(open_request(), SIGNER)
    front.add(opened.id, [classified("NGS"), classified("EBO")], manifest(artefact), user("scanner"))
    return front.get(opened.id)


def confirm(front: UseCases, found: Specimen, reader: Actor = SECOND) -> Specimen:
    return front.confirm(found.id, ConfirmCells(revision=found.revision), reader)


def test_a_specimen_is_signed_after_another_person_confirmed_it(front: UseCases, artefact: Path) -> None:
    found = with_cells(front, artefact)
    assert found.second_reading is not None
    assert (found.second_reading.required, found.second_reading.current) == (True, False)
    with pytest.raises(NotReviewed, match="no second reader"):
        front.sign(found.id, sign_request(found.revision), SIGNER)
    confirmed = confirm(front, found)
    assert confirmed.second_reading is not None and confirmed.revision == found.revision
    assert (confirmed.second_reading.by, confirmed.second_reading.current) == ("e.muster", True)
    report = front.sign(found.id, sign_request(found.revision), SIGNER)
    assert (report.signed_by, report.second_reader) == ("dr.beispiel", "e.muster")
    with front.database.reading() as session:
        [row] = session.scalars(select(AuditRow).where(AuditRow.action == "second-reading")).all()
        assert (row.actor, json.loads(row.details)["cells"]) == ("e.muster", 2)
        assert audit.verify(session)[1] == []


def subject(name: str, subject: str) -> Actor:
    return Actor(name, Identity(kind="token", issuer="https://login.example", subject=subject))


@pytest.mark.parametrize(
    ("reader", "signer"),
    [
        (SIGNER, SIGNER),
        (SIGNER, user("Dr.Beispiel")),
        (SIGNER, subject("dr.beispiel", "7")),
        (subject("dr.beispiel", "7"), subject("dr.neuername", "7")),
    ],
)
def test_one_person_is_not_both(front: UseCases, artefact: Path, reader: Actor, signer: Actor) -> None:
    found = with_cells(front, artefact)
    confirm(front, found, reader)
    with pytest.raises(NotReviewed, match="same person"):
        front.sign(found.id, sign_request(found.revision), signer)
    confirm(front, found)
    assert front.sign(found.id, sign_request(found.revision), signer).second_reader == "e.muster"


def test_a_change_of_the_cells_ends_the_confirmation(front: UseCases, artefact: Path) -> None:
    found = confirm(front, with_cells(front, artefact))
    front.read(found.id, ReadCells(readings=[CellReading(place=1, version=1, code="NGS")]), SIGNER)
    changed = front.get(found.id)
    assert changed.second_reading is not None and not changed.second_reading.current
    with pytest.raises(NotReviewed, match="as they are now"):
        front.sign(found.id, sign_request(changed.revision), SIGNER)
    front.add(found.id, [classified("LYT")], manifest(artefact), user("scanner"))
    with pytest.raises(StaleRevision):
        confirm(front, changed)
    again = confirm(front, front.get(found.id))
    front.sign(found.id, sign_request(again.revision), SIGNER)
    with pytest.raises(WrongState, match="confirmed only while"):
        confirm(front, front.get(found.id))


def test_an_amendment_without_changed_cells_keeps_the_confirmation(front: UseCases, artefact: Path) -> None:
    found = confirm(front, with_cells(front, artefact))
    front.sign(found.id, sign_request(found.revision), SIGNER)
    amended = front.amend(found.id, WithReason(revision=found.revision + 1, reason="the comment was wrong"), SIGNER)
    assert front.sign(found.id, sign_request(amended.revision), SIGNER).second_reader == "e.muster"


def test_there_is_nothing_to_confirm_without_cells(front: UseCases) -> None:
    with pytest.raises(NotReviewed, match="no cell"):
        confirm(front, front.open(open_request(), SIGNER))


def test_without_the_setting_nobody_is_asked(database_url: str, artefact: Path) -> None:
    with use_cases(database_url) as front:
        found = with_cells(front, artefact)
        assert found.second_reading is None
        assert front.sign(found.id, sign_request(found.revision), SIGNER).second_reader is None
