"""HL7's null in every field that is read: what is null is deleted, and only that; empty fields change nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import classified, manifest, sign_request, use_cases, user
from sender import Sender

from service.config.lis import LisSettings
from service.lis.exchange.channels import receivers
from service.lis.exchange.code_map import CodeMap
from service.lis.schemas import Specimen
from service.lis.storage import outbox
from service.lis.storage.states import MessageState
from service.lis.use_cases import UseCases

TIMES = "20260504083000+0200", "20260504084000+0200"
FULL = {
    "PID": "PID|1||100234^^^HOSPITAL&1.2.3&ISO^MR||Muster^Erika^^^^^L||19640812|F||||||||||ACC-1^^^HOSPITAL",
    "SPM": f"SPM|1|T-1&LAB^T-9||MAR^Marrow^HL70487^A^Alt^L|||||||||||||{'^'.join(TIMES)}",
    "ORC": "ORC|NW|P-1^HIS^1.9^ISO|F-1^LAB|GRP-7^HIS",
    "OBR": f"OBR|1|P-1^HIS^1.9^ISO|F-1^LAB|BM^Mark^99L^A^Alt^L{'|' * 12}4711^Arzt&von^Eva",
}
BARE = {
    "PID": "PID|1||100234^^^HOSPITAL&1.2.3&ISO^MR",
    "SPM": "SPM|1|T-1",
    "ORC": "ORC|XO|P-1^HIS^1.9^ISO|F-1^LAB",
    "OBR": "OBR|1",
}


@pytest.fixture
def front(tmp_path: Path) -> Iterator[UseCases]:
    (receiver,) = receivers(LisSettings(hl7_to="127.0.0.1:1"), CodeMap.load(), None)
    with use_cases(f"sqlite:///{tmp_path}/lab.db", channels=[receiver.channel]) as opened:
        yield opened


@pytest.fixture
def sender(front: UseCases) -> Sender:
    return Sender(front)


def changed(sender: Sender, field: str, value: str, full: dict[str, str] = FULL) -> str:
    """The answer to a change that has one field more than the numbers."""
    assert sender.send(*full.values()) == "AA"
    name, number = field.split("-")
    fields = BARE[name].split("|")
    fields += [""] * (int(number) + 1 - len(fields))
    fields[int(number)] = value
    return sender.send(*(BARE | {name: "|".join(fields)}).values())


def values(specimen: Specimen) -> dict[str, Any]:
    """What an order has stored, by name; fields as ordered by their own."""
    order = specimen.order.model_dump(exclude_none=True)
    patient = specimen.patient.model_dump(exclude_none=True)
    (number,) = patient.pop("numbers")
    time = {"collected_at": specimen.collected_at} if specimen.collected_at else {}
    return patient | order.pop("as_ordered") | order | time | {f"number.{name}": text for name, text in number.items()}


@pytest.mark.parametrize(
    ("field", "value", "after"),
    [
        ("PID-3", '100234^^^HOSPITAL&1.2.3&ISO^""', {"number.type": None}),
        ("PID-3", '100234^^^HOSPITAL&""&ISO^MR', {"number.universal_id": None}),
        ("PID-3", '100234^^^""&1.2.3&ISO^MR', {"number.namespace": None, "authority": "1.2.3"}),
        ("PID-5", '""', {"family": None, "given": None}),
        ("PID-5", '""^Erika', {"family": None}),
        ("PID-5", 'Muster^""', {"given": None}),
        ("PID-7", '""', {"birth_date": None}),
        ("PID-8", '""', {"sex": None}),
        ("PID-18", '""', {"PID-18": None}),
        ("PID-18", 'ACC-1^^^""', {"PID-18": "ACC-1"}),
        ("ORC-2", '""', {"placer_number": None, "ORC-2": None, "OBR-2": None}),
        ("ORC-2", 'P-1^""^1.9^ISO', {"ORC-2": "P-1^^1.9^ISO"}),
        ("ORC-3", '""', {"filler_number": None, "ORC-3": None, "OBR-3": None}),
        ("ORC-4", '""', {"ORC-4": None}),
        ("ORC-4", 'GRP-7^""', {"ORC-4": "GRP-7"}),
        ("OBR-2", '""', {"OBR-2": None}),  # ORC-2 names the order
        ("OBR-3", '""', {"OBR-3": None}),
        ("OBR-4", '""', {"OBR-4": None, "service_code": None, "service_name": None, "service_system": None}),
        ("OBR-4", 'BM^""', {"OBR-4": "BM^^99L^A^Alt^L", "service_name": None}),
        ("OBR-4", '^""', {"OBR-4": "BM^^99L^A^Alt^L", "service_name": None}),
        ("OBR-4", "^Marrow", {"OBR-4": "BM^Marrow^99L^A^Alt^L", "service_name": "Marrow"}),
        ("OBR-4", 'BM^Mark^99L^A^""', {"OBR-4": "BM^Mark^99L^A^^L"}),
        ("OBR-16", '""', {"OBR-16": None}),
        ("OBR-16", '4711^Arzt^""', {"OBR-16": "4711^Arzt&von"}),
        ("OBR-16", '4711^Arzt&""', {"OBR-16": "4711^Arzt^Eva"}),
        ("OBR-7", '""', {}),  # the time is that of SPM-17
        ("SPM-2", '""', {}),  # the number on the label is the specimen's
        ("SPM-2", 'T-1&""', {"SPM-2": "T-1^T-9"}),
        ("SPM-4", '""', {"SPM-4": None}),
        ("SPM-4", 'MAR^""', {"SPM-4": "MAR^^HL70487^A^Alt^L"}),
        ("SPM-17", '""', {"SPM-17": None, "collected_at": None}),
        ("SPM-17", f'{TIMES[0]}^""', {"SPM-17": TIMES[0]}),
        ("SPM-17", '^""', {"SPM-17": TIMES[0]}),
    ],
)
def test_null_deletes_a_field_or_a_part_of_it_and_nothing_else(
    field: str, value: str, after: dict[str, str | None], sender: Sender
) -> None:
    sender.send(*FULL.values())
    expected = {name: text for name, text in (values(sender.specimen()) | after).items() if text is not None}
    assert changed(sender, field, value) == "AA"
    assert values(sender.specimen()) == expected


@pytest.mark.parametrize(("field", "value"), [("PID-3", '""'), ("PID-3", '100234^^^""'), ("ORC-1", '""')])
def test_what_identifies_a_patient_or_an_action_cannot_be_deleted(field: str, value: str, sender: Sender) -> None:
    assert changed(sender, field, value).startswith("AE")
    assert sender.specimen().revision == 1


@pytest.mark.parametrize(("field", "sent"), [("OBR-7", None), ("OBR-8", TIMES[0])], ids=["both ends", "the end alone"])
def test_null_deletes_a_collection_time_of_obr(field: str, sent: str | None, sender: Sender) -> None:
    obr = FULL["OBR"].split("|")
    obr[7:9] = TIMES
    full = FULL | {"SPM": "SPM|1|T-1", "OBR": "|".join(obr)}
    assert changed(sender, field, '""', full) == "AA"
    assert (sender.specimen().order.as_ordered or {}).get("OBR-7") == sent
    assert (sender.specimen().collected_at is None) == (sent is None)


def test_a_deleted_part_is_not_in_the_report(sender: Sender, front: UseCases, artefact: Path) -> None:
    assert changed(sender, "OBR-4", 'BM^""') == "AA"
    found = sender.specimen()
    revision, *_ = front.add(found.id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.sign(found.id, sign_request(revision), user("dr.beispiel"))
    with front.database.reading() as session:
        (message,) = outbox.list_messages(session, [MessageState.WAITING], 9)
    (obr,) = (line.split("|") for line in message.message.split("\r") if line.startswith("OBR|"))
    assert obr[4] == "BM^^99L^A^Alt^L"


def test_an_order_number_that_a_report_has_is_not_deleted(sender: Sender, front: UseCases, artefact: Path) -> None:
    sender.send(*FULL.values())
    found = sender.specimen()
    revision, *_ = front.add(found.id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.sign(found.id, sign_request(revision), user("dr.beispiel"))
    assert sender.send(*(BARE | {"ORC": 'ORC|XO|P-1^HIS^1.9^ISO|""'}).values()) == "AE 206"
    assert sender.specimen().order.filler_number == "F-1"


def test_an_unknown_sex_code_is_kept_beside_u(sender: Sender) -> None:
    female = BARE["PID"] + "|" * 5
    sender.send(*(FULL | {"PID": f"{female}W"}).values())
    assert (sender.specimen().patient.sex, sender.specimen().patient.sex_as_sent) == ("U", "W")
    sender.send(BARE["PID"], kind="ADT^A08")
    assert sender.specimen().patient.sex_as_sent == "W"
    sender.send(f'{female}""', kind="ADT^A08")
    assert (sender.specimen().patient.sex, sender.specimen().patient.sex_as_sent) == (None, None)
    sender.send(f"{female}D", kind="ADT^A08")
    sender.send(f"{female}F", kind="ADT^A08")
    assert (sender.specimen().patient.sex, sender.specimen().patient.sex_as_sent) == ("F", None)
