"""Several orders on one tube, and several specimens of one order: each has its own report, and is cancelled singly."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import classified, manifest, sign_request, use_cases, user
from sender import ANTON, ERIKA, OBR, ORC, SPM, Sender
from sqlalchemy import select

from service.config.lis import LisSettings
from service.errors import ReportedAlready
from service.lis.exchange.channels import receivers
from service.lis.exchange.code_map import CodeMap
from service.lis.schemas import ChangeSpecimen, ReportSpecimen, WithReason
from service.lis.storage.tables import MessageRow
from service.lis.use_cases import UseCases

IRON = "OBR|2|P-2|F-2|IRON^Iron stain^99LAB"


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    (receiver,) = receivers(LisSettings(hl7_to="127.0.0.1:1"), CodeMap.load(), None)
    with use_cases(database_url, channels=[receiver.channel]) as opened:
        yield opened


@pytest.fixture
def sender(front: UseCases) -> Sender:
    return Sender(front)


def states(front: UseCases, number: str = "T-1") -> dict[str | None, str]:
    """State of each order on a tube, by its placer number."""
    return {each.placer_number: each.state for each in front.list(None, number, None, 9).specimens}


def reported(front: UseCases, artefact: Path, placer: str, number: str = "T-1") -> dict[str, list[str]]:
    """Sign the specimen of an order, and return the fields of its report by segment."""
    [row] = [each for each in front.list(None, number, None, 9).specimens if each.placer_number == placer]
    revision, *_ = front.add(row.id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.sign(row.id, sign_request(revision), user("dr.beispiel"))
    with front.database.reading() as session:
        *_, message = session.scalars(select(MessageRow.message).order_by(MessageRow.row))
    return {line[:3]: line.split("|") + [""] * 30 for line in reversed(message.split("\r"))}


def test_each_order_has_its_own_report(sender: Sender, front: UseCases, artefact: Path) -> None:
    assert sender.send(ERIKA, SPM, ORC, OBR, "ORC|NW|P-2|F-2", IRON) == "AA"
    first, second = (reported(front, artefact, placer) for placer in ("P-1", "P-2"))
    assert [lines["ORC"][2:4] for lines in (first, second)] == [["P-1", "F-1"], ["P-2", "F-2"]]
    assert [lines["OBR"][2:5] for lines in (first, second)] == [
        ["P-1", "F-1", "BMDIFF^Marrow differential^99LAB"],
        ["P-2", "F-2", "IRON^Iron stain^99LAB"],
    ]
    assert first["SPM"][2] == second["SPM"][2] == "T-1"


def test_orders_of_one_placer_number_differ_by_their_filler_numbers(sender: Sender, front: UseCases) -> None:
    second = IRON.replace("P-2", "P-1")
    assert sender.send(ERIKA, SPM, ORC, OBR, "ORC|NW|P-1|F-2", second) == "AA"
    assert sorted(each.filler_number or "" for each in front.list(None, "T-1", None, 9).specimens) == ["F-1", "F-2"]
    assert sender.send(ERIKA, SPM, "ORC|CA|P-1", "OBR|1|P-1") == "AE 205"  # which one?
    assert sender.send(ERIKA, SPM, "ORC|CA|P-1|F-2", second) == "AA"


def test_orders_on_a_tube_are_changed_and_cancelled_singly(sender: Sender, front: UseCases) -> None:
    sender.send(ERIKA, SPM, ORC, OBR, "ORC|NW|P-2|F-2", IRON)
    assert sender.send(ERIKA, SPM, "ORC|XO|P-2|F-2", IRON.replace("Iron stain", "Perls")) == "AA"
    assert sender.send(ERIKA, SPM, "ORC|XO", "OBR|1") == "AE 205"
    assert sender.send(ERIKA, SPM, "ORC|CA|P-2|F-2", IRON) == "AA"
    assert states(front) == {"P-1": "open", "P-2": "cancelled"}
    assert sender.send(ERIKA, SPM, "ORC|CA|P-3|F-3", "OBR|1|P-3|F-3") == "AE 204"
    assert sender.send(ANTON, SPM, "ORC|CA|P-1|F-1", OBR) == "AE 205"
    assert sender.send(ERIKA, SPM, "ORC|NW|P-2|F-2", IRON) == "AA"
    assert states(front) == {"P-1": "open", "P-2": "open"}
    assert sender.send(ERIKA, SPM, ORC, OBR) == "AA"  # the same order again opens nothing
    assert len(states(front)) == 2


def test_another_patient_never_shares_a_tube(sender: Sender, front: UseCases) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    assert sender.send(ANTON, SPM, "ORC|NW|P-2|F-2", IRON) == "AE 205"
    assert states(front) == {"P-1": "open"}


def test_orders_without_filler_numbers_are_filed_apart(sender: Sender, front: UseCases, artefact: Path) -> None:
    sender.send(ERIKA, SPM, "ORC|NW|P-1", "OBR|1|P-1||BMDIFF", "ORC|NW|P-2", "OBR|2|P-2||IRON")
    filed = [reported(front, artefact, placer)["OBR"][3] for placer in ("P-1", "P-2")]
    assert filed == ["T-1", "T-1#2"]


def test_specimens_of_one_order_are_filed_apart(sender: Sender, front: UseCases, artefact: Path) -> None:
    sender.send(ERIKA, ORC, OBR, SPM, SPM.replace("T-1", "T-2"), kind="OML^O21^OML_O21")
    first, second = (reported(front, artefact, "P-1", tube) for tube in ("T-1", "T-2"))
    assert [(lines["OBR"][3], lines["OBX"][4]) for lines in (first, second)] == [("F-1", ""), ("F-1", "2")]
    assert second["SPM"][2] == "T-2"


def erase(front: UseCases, placer: str, number: str) -> None:
    [row] = [each for each in front.list(None, number, None, 9).specimens if each.placer_number == placer]
    front.erase(row.id, WithReason(revision=row.revision, reason="case 17"), user("m.muster"))


def test_an_erased_specimen_does_not_give_its_place_in_the_order_to_another(
    sender: Sender, front: UseCases, artefact: Path
) -> None:
    tubes = [SPM.replace("T-1", f"T-{at}") for at in range(1, 5)]
    sender.send(ERIKA, ORC, OBR, *tubes, kind="OML^O21^OML_O21")
    parts = [reported(front, artefact, "P-1", f"T-{at}")["OBX"][4] for at in (1, 2, 3)]
    erase(front, "P-1", "T-2")
    assert [*parts, reported(front, artefact, "P-1", "T-4")["OBX"][4]] == ["", "2", "3", "4"]


def test_an_erased_specimen_does_not_give_its_place_on_the_tube_to_another(
    sender: Sender, front: UseCases, artefact: Path
) -> None:
    sent = [(f"ORC|NW|P-{at}", f"OBR|{at}|P-{at}||TEST{at}") for at in range(1, 5)]
    sender.send(ERIKA, SPM, *sent[0], *sent[1], *sent[2])
    filed = [reported(front, artefact, f"P-{at}")["OBR"][3] for at in (1, 2, 3)]
    erase(front, "P-1", "T-1")
    erase(front, "P-2", "T-1")
    assert sender.send(ERIKA, SPM, *sent[3]) == "AA"
    assert [*filed, reported(front, artefact, "P-4")["OBR"][3]] == ["T-1", "T-1#2", "T-1#3", "T-1#4"]


def test_a_filler_number_stays_once_a_report_was_sent_under_it(sender: Sender, front: UseCases, artefact: Path) -> None:
    sender.send(ERIKA, SPM, "ORC|NW|P-1", "OBR|1|P-1||BMDIFF")
    found = sender.specimen()
    revision, *_ = front.add(found.id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.preliminary(found.id, ReportSpecimen(revision=revision), user("m.muster"))
    assert sender.send(ERIKA, SPM, "ORC|XO|P-1|F-1", OBR) == "AE 206"
    changed = ChangeSpecimen(revision=revision + 1, order=found.order.model_copy(update={"filler_number": "F-9"}))
    with pytest.raises(ReportedAlready):
        front.change(found.id, changed, user("m.muster"))
    assert sender.send(ERIKA, SPM, "ORC|XO|P-1", "OBR|1|P-1||BMDIFF^Marrow") == "AA"


def test_no_order_takes_over_a_filler_number_of_another_patient(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    other = SPM.replace("T-1", "T-2")
    assert sender.send(ANTON, other, "ORC|NW|P-2", "OBR|1|P-2||BMDIFF") == "AA"
    assert sender.send(ANTON, other, "ORC|XO|P-2|F-1", "OBR|1|P-2|F-1|BMDIFF") == "AE 205"


def test_a_replacement_cancels_the_old_order_and_opens_the_new_one(sender: Sender, front: UseCases) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    tube = SPM.replace("T-1", "T-2")
    assert sender.send(ERIKA, SPM, "ORC|RP|P-1|F-1", OBR, tube, "ORC|RO|P-2|F-2", IRON) == "AA"
    assert (states(front, "T-1"), states(front, "T-2")) == ({"P-1": "cancelled"}, {"P-2": "open"})
    assert sender.send(ERIKA, tube, "ORC|RP|P-2|F-2", IRON.replace("Iron stain", "Perls")) == "AA"  # a change
    assert states(front, "T-2") == {"P-2": "open"}
