"""Changes of a specimen, and what cannot be changed once a report was sent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import classified, manifest, open_request, sign_request, use_cases, user

from service.errors import ReportedAlready
from service.lis.domain.report import Order, Patient
from service.lis.schemas import ChangeSpecimen, ReportSpecimen, WithReason
from service.lis.use_cases import UseCases

ANOTHER = Patient(identifier="P-2")


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url) as opened:
        yield opened


def counted(front: UseCases, artefact: Path) -> tuple[str, int]:
    opened = front.open(open_request("BM-1"), user("m.muster"))
    revision, *_ = front.add(opened.id, [classified("PMO")], manifest(artefact), user("scanner"))
    return opened.id, revision


def test_what_is_absent_stays_and_what_is_null_is_emptied(front: UseCases) -> None:
    specimen = front.open(open_request("BM-1"), user("m.muster")).id
    front.change(specimen, ChangeSpecimen(revision=1, megakaryocytes=4, target_cells=300), user("m.muster"))
    kept = front.change(specimen, ChangeSpecimen(revision=2, order=Order(placer_number="ORD-1")), user("m.muster"))
    assert (kept.megakaryocytes, kept.target_cells, kept.order.placer_number) == (4, 300, "ORD-1")
    emptied = front.change(
        specimen, ChangeSpecimen(revision=3, megakaryocytes=None, target_cells=None), user("m.muster")
    )
    assert (emptied.megakaryocytes, emptied.target_cells) == (None, 300)
    assert front.audit_trail(specimen).entries[-1].details["fields"] == ["megakaryocytes"]


def test_a_specimen_changes_its_patient_until_a_report_went_out(front: UseCases, artefact: Path) -> None:
    specimen, revision = counted(front, artefact)
    mended = Patient(identifier="P-3")
    assert front.change(specimen, ChangeSpecimen(revision=revision, patient=mended), user("m.muster")).patient == mended
    front.sign(specimen, sign_request(revision + 1), user("dr.beispiel"))
    front.amend(specimen, WithReason(revision=revision + 2, reason="another patient's"), user("dr.beispiel"))
    with pytest.raises(ReportedAlready, match="open another specimen"):
        front.change(specimen, ChangeSpecimen(revision=revision + 3, patient=ANOTHER), user("dr.beispiel"))
    named = mended.model_copy(update={"family": "Beispiel"})
    assert (
        front.change(specimen, ChangeSpecimen(revision=revision + 3, patient=named), user("dr.beispiel")).patient
        == named
    )


def test_a_specimen_with_a_preliminary_report_is_signed_and_not_cancelled(front: UseCases, artefact: Path) -> None:
    specimen, revision = counted(front, artefact)
    front.preliminary(specimen, ReportSpecimen(revision=revision), user("m.muster"))
    with pytest.raises(ReportedAlready, match="sign the specimen"):
        front.cancel(specimen, WithReason(revision=revision + 1, reason="clotted"), user("m.muster"))
    assert front.sign(specimen, sign_request(revision + 1, comment="clotted"), user("dr.beispiel")).comment == "clotted"


def test_what_a_later_manifest_of_the_same_graph_does_not_claim_is_not_claimed(front: UseCases, artefact: Path) -> None:
    specimen, _ = counted(front, artefact)
    model = manifest(artefact)
    assert "PMO" not in front.differential(specimen).unsupported
    less = model.model_copy(update={"unsupported": (*model.unsupported, "PMO")})
    front.add(specimen, [classified("EBO")], less, user("scanner"))
    found = front.differential(specimen)
    assert "PMO" in found.unsupported and found.waiting_review == 1
