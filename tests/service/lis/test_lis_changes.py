"""What may be changed of a specimen, and what may not once a report of it went out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import by, desk, manifest, sent, signing, wish

from service.errors import ReportedAlready
from service.lis.domain.report import Order, Patient
from service.lis.schemas import ChangeSpecimen, ReportSpecimen, WithReason
from service.lis.use_cases import UseCases

ANOTHER = Patient(identifier="P-2")


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with desk(database_url) as opened:
        yield opened


def counted(front: UseCases, artefact: Path) -> tuple[str, int]:
    opened = front.open(wish("BM-1"), by("m.muster"))
    revision, *_ = front.add(opened.id, [sent("PMO")], manifest(artefact), by("scanner"))
    return opened.id, revision


def test_what_is_absent_stays_and_what_is_null_is_emptied(front: UseCases) -> None:
    specimen = front.open(wish("BM-1"), by("m.muster")).id
    front.change(specimen, ChangeSpecimen(revision=1, megakaryocytes=4, target_cells=300), by("m.muster"))
    kept = front.change(specimen, ChangeSpecimen(revision=2, order=Order(placer_number="ORD-1")), by("m.muster"))
    assert (kept.megakaryocytes, kept.target_cells, kept.order.placer_number) == (4, 300, "ORD-1")
    emptied = front.change(specimen, ChangeSpecimen(revision=3, megakaryocytes=None, target_cells=None), by("m.muster"))
    assert (emptied.megakaryocytes, emptied.target_cells) == (None, 300)
    assert front.audit_trail(specimen).entries[-1].details["fields"] == ["megakaryocytes"]


def test_a_specimen_changes_its_patient_until_a_report_went_out(front: UseCases, artefact: Path) -> None:
    specimen, revision = counted(front, artefact)
    mended = Patient(identifier="P-3")
    assert front.change(specimen, ChangeSpecimen(revision=revision, patient=mended), by("m.muster")).patient == mended
    front.sign(specimen, signing(revision + 1), by("dr.beispiel"))
    front.amend(specimen, WithReason(revision=revision + 2, reason="another patient's"), by("dr.beispiel"))
    with pytest.raises(ReportedAlready, match="open another specimen"):
        front.change(specimen, ChangeSpecimen(revision=revision + 3, patient=ANOTHER), by("dr.beispiel"))
    named = mended.model_copy(update={"family": "Beispiel"})
    assert (
        front.change(specimen, ChangeSpecimen(revision=revision + 3, patient=named), by("dr.beispiel")).patient == named
    )


def test_a_specimen_with_a_preliminary_report_is_signed_and_not_cancelled(front: UseCases, artefact: Path) -> None:
    specimen, revision = counted(front, artefact)
    front.preliminary(specimen, ReportSpecimen(revision=revision), by("m.muster"))
    with pytest.raises(ReportedAlready, match="sign the specimen"):
        front.cancel(specimen, WithReason(revision=revision + 1, reason="clotted"), by("m.muster"))
    assert front.sign(specimen, signing(revision + 1, comment="clotted"), by("dr.beispiel")).comment == "clotted"


def test_what_a_later_manifest_of_the_same_graph_does_not_claim_is_not_claimed(front: UseCases, artefact: Path) -> None:
    specimen, _ = counted(front, artefact)
    model = manifest(artefact)
    assert "PMO" not in front.differential(specimen).unsupported
    less = model.model_copy(update={"unsupported": (*model.unsupported, "PMO")})
    front.add(specimen, [sent("EBO")], less, by("scanner"))
    found = front.differential(specimen)
    assert "PMO" in found.unsupported and found.waiting_review == 1
