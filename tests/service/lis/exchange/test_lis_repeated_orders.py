"""An order has one specimen, whichever of its messages name the tube; a merge and a replacement mix nothing up."""

from collections.abc import Iterator

import pytest
from lab import use_cases
from sender import ERIKA, OBR, ORC, SPM, Sender

from service.lis.storage import audit, audit_checks
from service.lis.use_cases import UseCases

ORM = "ORM^O01"
OML21 = "OML^O21^OML_O21"


@pytest.fixture
def sender(database_url: str) -> Iterator[Sender]:
    with use_cases(database_url) as front:
        yield Sender(front)


def numbers(front: UseCases) -> list[str]:
    return sorted(each.number for each in front.list(None, None, None, 100).specimens)


def test_an_order_that_names_its_tube_and_then_does_not_has_one_specimen(sender: Sender) -> None:
    assert sender.send(ERIKA, SPM, ORC, OBR) == "AA"
    assert sender.send(ERIKA, ORC, OBR, kind=ORM) == "AA"
    assert sender.send(ERIKA, ORC, OBR.replace("Marrow differential", "Differential"), kind=OML21) == "AA"
    assert numbers(sender.front) == ["T-1"]
    assert sender.specimen().order.service_name == "Differential"
    assert sender.send(ERIKA, ORC.replace("NW", "CA"), OBR, kind=ORM) == "AA"
    assert sender.specimen().state == "cancelled"


def test_a_tube_that_is_named_later_becomes_the_number_of_the_specimen(sender: Sender) -> None:
    assert sender.send(ERIKA, "ORC|NW|P-1|", "OBR|1|P-1||BMDIFF", kind=ORM) == "AA"
    assert numbers(sender.front) == ["P-1"]
    assert sender.send(ERIKA, "ORC|NW|P-1|F-1", "OBR|1|P-1|F-1|BMDIFF", kind=ORM) == "AA"
    assert numbers(sender.front) == ["P-1"]
    assert sender.send(ERIKA, SPM, ORC, OBR) == "AA"
    assert numbers(sender.front) == ["T-1"]
    assert sender.specimen().order.filler_number == "F-1"
    with sender.front.database.reading() as session:
        assert [*audit.verify(session)[1], *audit_checks.verify(session).mismatches] == []


def test_an_order_of_two_tubes_keeps_two_specimens_and_asks_for_the_tube(sender: Sender) -> None:
    two = SPM.replace("T-1", "T-2")
    assert sender.send(ERIKA, ORC, OBR, SPM, two, kind=OML21) == "AA"
    assert numbers(sender.front) == ["T-1", "T-2"]
    assert sender.send(ERIKA, ORC, OBR, kind=ORM) == "AE 205"
    assert numbers(sender.front) == ["T-1", "T-2"]


def test_another_patients_order_with_the_same_placer_number_is_its_own(sender: Sender) -> None:
    assert sender.send(ERIKA, SPM, ORC, OBR) == "AA"
    anton = "PID|1||999999^^^HOSPITAL^MR||Fremd^Anton||19500101|M"
    assert sender.send(anton, "ORC|NW|P-1|F-9", "OBR|1|P-1|F-9|BMDIFF", kind=ORM) == "AA"
    assert numbers(sender.front) == ["F-9", "T-1"]


def test_a_replacement_on_one_tube_cancels_no_order_of_another(sender: Sender) -> None:
    tubes = [(SPM.replace("T-1", f"T-{at}"), f"ORC|NW|P-{at}|F-{at}") for at in (1, 2)]
    sender.send(ERIKA, *[segment for pair in tubes for segment in pair])
    (first, _), (second, _) = tubes
    sent = (first, "ORC|RP|P-1|F-1", second, "ORC|RP|P-2|F-2", "ORC|RO|P-3|F-3")
    assert sender.send(ERIKA, *sent) == "AA"
    assert sender.specimen("T-1").state == "open"
    states = {each.order.placer_number: each.state for each in sender.specimens("T-2")}
    assert states == {"P-2": "cancelled", "P-3": "open"}


def test_a_replacement_on_a_tube_of_its_own_cancels_the_replaced_order(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    sent = (SPM, "ORC|RP|P-1|F-1", SPM.replace("T-1", "T-9"), "ORC|RO|P-3|F-3", "OBR|2|P-3|F-3|BMDIFF")
    assert sender.send(ERIKA, *sent) == "AA"
    assert (sender.specimen("T-1").state, sender.specimen("T-9").state) == ("cancelled", "open")


def test_prior_results_open_no_specimen(sender: Sender) -> None:
    prior = ("ORC|NW|P-0|F-0", "OBR|2|P-0|F-0|OLD")
    assert sender.send(ERIKA, "PV1|1|I", ORC, OBR, SPM, "PV1|1|I", *prior, kind=OML21) == "AE 100"
    assert numbers(sender.front) == []
    marked = ("ORC|PR|P-0|F-0", "OBR|2|P-0|F-0|OLD")
    assert sender.send(ERIKA, "PV1|1|I", ORC, OBR, SPM, *marked, kind=OML21) == "AA"
    assert numbers(sender.front) == ["T-1"]


@pytest.mark.parametrize(
    ("survivor", "expected"),
    [
        ("PID|1||surv^^^HOSPITAL^MR||Neu^Maria", ("Neu", "Maria", "1985-05-05", "F")),
        ("PID|1||surv^^^HOSPITAL^MR||", ("Alt", "Maria", "1985-05-05", "F")),
        ("PID|1||surv^^^HOSPITAL^MR||Neu^Maria||19850506|O", ("Neu", "Maria", "1985-05-06", "O")),
    ],
)
def test_after_a_merge_a_patient_is_one_person(survivor: str, expected: tuple[str, ...], sender: Sender) -> None:
    sender.send("PID|1||surv^^^HOSPITAL^MR||Alt^Maria||19850505|F", SPM, ORC, OBR)
    other = "PID|1||dead^^^HOSPITAL^MR||Unbekannt^Hans||19300101|M"
    sender.send(other, SPM.replace("T-1", "T-2"), "ORC|NW|P-2|F-2", OBR.replace("P-1|F-1", "P-2|F-2"))
    assert sender.send(survivor, "MRG|dead^^^HOSPITAL^MR", kind="ADT^A40") == "AA"
    found = sender.specimen("T-2").patient
    assert (found.family, found.given, str(found.birth_date), found.sex) == expected
    assert found.identifier == "surv"


def test_a_merge_into_an_unknown_patient_keeps_what_the_message_leaves_empty(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    sent = ("PID|1||new^^^HOSPITAL^MR", "MRG|100234^^^HOSPITAL^MR")
    assert sender.send(*sent, kind="ADT^A40") == "AA"
    found = sender.specimen().patient
    assert (found.identifier, found.family, str(found.birth_date)) == ("new", "Muster", "1964-08-12")
