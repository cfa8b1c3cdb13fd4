"""Orders become specimens, for any existing specimen and any repetition."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab import classified, manifest, sign_request, use_cases, user

from service.lis.domain.report import Order, Patient
from service.lis.exchange.orders import IncomingOrder, MessageIdentity, OrderAction, OrderRefused, Peer
from service.lis.schemas import Specimen
from service.lis.use_cases import UseCases

ANNA = Patient(identifier="P-1", authority="HOSPITAL", family="Muster")
BERTA = Patient(identifier="P-2", authority="HOSPITAL")


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url) as opened:
        yield opened


def ordered(
    action: OrderAction = OrderAction.NEW, number: str = "BM-1", patient: Patient = ANNA, placer: str | None = "ORD-1"
) -> IncomingOrder:
    return IncomingOrder(action, number, patient, Order(placer_number=placer))


def take(front: UseCases, *orders: IncomingOrder, control_id: str = "1") -> bool:
    return front.take_orders(MessageIdentity(Peer("192.0.2.10"), "LIS|LAB", control_id, f"{control_id:0>64}"), orders)


def refused(front: UseCases, *orders: IncomingOrder, control_id: str = "2") -> str:
    with pytest.raises(OrderRefused) as error:
        take(front, *orders, control_id=control_id)
    assert not any(word in error.value.reason for word in ("P-1", "P-2", "Muster", "BM-"))
    return error.value.code


def look(front: UseCases, number: str = "BM-1") -> Specimen:
    [found] = front.list(None, number, None, 2).specimens
    return front.get(found.id)


def signed(front: UseCases, artefact: Path) -> None:
    specimen = look(front)
    revision, *_ = front.add(specimen.id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.sign(specimen.id, sign_request(revision), user("dr.beispiel"))


def test_a_new_order_opens_a_specimen(front: UseCases) -> None:
    assert take(front, ordered())
    found = look(front)
    assert (found.state, found.patient, found.order.placer_number) == ("open", ANNA, "ORD-1")
    assert front.audit_trail(found.id).entries[0].actor == "order from 192.0.2.10"


def test_the_same_message_again_changes_nothing(front: UseCases) -> None:
    assert take(front, ordered())
    assert not take(front, ordered())
    assert look(front).revision == 1


def test_the_same_message_at_once_is_taken_once(front: UseCases) -> None:
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: take(front, ordered()), range(4)))
    assert sorted(outcomes) == [False, False, False, True]
    assert look(front).revision == 1


def test_an_order_again_in_another_message_brings_its_patient_up_to_date(front: UseCases) -> None:
    take(front, ordered())
    take(front, ordered(patient=ANNA.model_copy(update={"family": "Beispiel"})), control_id="2")
    found = look(front)
    assert (found.patient.family, found.revision) == ("Beispiel", 2)


def test_an_order_finds_the_specimen_that_was_opened_by_hand(front: UseCases) -> None:
    take(front, ordered(placer=None))
    take(front, ordered(placer="ORD-9"), control_id="2")
    assert look(front).order.placer_number == "ORD-9"


def test_a_number_that_is_another_patients_is_refused(front: UseCases) -> None:
    take(front, ordered())
    assert refused(front, ordered(patient=BERTA)) == "205"
    assert refused(front, ordered(OrderAction.CHANGE, patient=BERTA)) == "205"
    assert look(front).patient == ANNA


def test_what_is_not_there_is_neither_changed_nor_cancelled(front: UseCases) -> None:
    assert refused(front, ordered(OrderAction.CHANGE)) == "204"
    assert refused(front, ordered(OrderAction.CANCEL)) == "204"


def test_what_was_signed_is_not_changed_by_an_order(front: UseCases, artefact: Path) -> None:
    take(front, ordered())
    signed(front, artefact)
    for action in OrderAction:
        assert refused(front, ordered(action)) == "206"
    assert look(front).state == "signed"


def test_a_cancelled_order_can_be_placed_again(front: UseCases) -> None:
    take(front, ordered())
    take(front, ordered(OrderAction.CANCEL), control_id="2")
    assert look(front).state == "cancelled"
    take(front, ordered(OrderAction.CANCEL), control_id="3")
    take(front, ordered(), control_id="4")
    found = look(front)
    assert found.state == "open"
    assert [each.action for each in front.audit_trail(found.id).entries] == ["open", "cancel", "reopen", "change"]


def test_all_orders_of_a_message_are_taken_or_none(front: UseCases) -> None:
    missing = ordered(OrderAction.CANCEL, number="BM-404")
    assert refused(front, ordered(number="BM-7"), missing) == "204"
    assert front.list(None, None, None, 10).specimens == []
    # The refused message was not taken: once it can be, it is.
    take(front, ordered(number="BM-404"), control_id="1")
    assert take(front, ordered(number="BM-7"), missing, control_id="2")
    assert look(front, "BM-7").state == "open"


def test_two_orders_of_one_message_may_speak_of_one_specimen(front: UseCases) -> None:
    assert take(front, ordered(), ordered())
    assert look(front).revision == 2


def test_messages_that_speak_of_the_same_specimens_in_another_order_do_not_wait_for_each_other(front: UseCases) -> None:
    numbers = [f"BM-{n}" for n in range(6)]
    for n, number in enumerate(numbers):
        take(front, ordered(number=number), control_id=f"open {n}")

    def change(turn: int) -> bool:
        each = numbers if turn % 2 else numbers[::-1]
        return take(front, *[ordered(OrderAction.CHANGE, number=number) for number in each], control_id=f"turn {turn}")

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(change, range(8)))
    assert {look(front, number).revision for number in numbers} == {9}
