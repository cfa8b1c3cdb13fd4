"""Orders as a laboratory's system means them: messages in, acknowledgements and specimens out.

An order is found by patient and order number, never by the tube alone; what a message leaves empty stays; what was
ordered comes back as it was sent.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import classified, manifest, sign_request, use_cases, user
from sender import ANTON, ERIKA, OBR, ORC, SPM, Sender
from sqlalchemy import select
from typer.testing import CliRunner

from examples import examples
from service.cli.main import app
from service.config.lis import LisSettings
from service.lis.domain.report import Patient, Report
from service.lis.exchange.channels import receivers
from service.lis.exchange.code_map import CodeMap
from service.lis.schemas import ChangeSpecimen, Specimen, WithReason
from service.lis.storage.tables import MessageRow
from service.lis.use_cases import UseCases


@pytest.fixture
def front(tmp_path: Path) -> Iterator[UseCases]:
    (receiver,) = receivers(LisSettings(hl7_to="127.0.0.1:1"), CodeMap.load(), None)
    with use_cases(f"sqlite:///{tmp_path}/lab.db", channels=[receiver.channel]) as opened:
        yield opened


@pytest.fixture
def sender(front: UseCases) -> Sender:
    return Sender(front)


def test_a_cancellation_of_another_order_or_patient_changes_nothing(sender: Sender) -> None:
    assert sender.send(ERIKA, SPM, ORC, OBR) == "AA"
    other = "OBR|1|P-2|F-2|GLU^Glucose^L"
    assert sender.send(ANTON, SPM, "ORC|CA|P-1|F-1", OBR) == "AE 205"
    assert sender.send(ERIKA, SPM, "ORC|CA|P-2|F-2", other) == "AE 204"
    assert sender.send(ERIKA, SPM, "ORC|CA|P-1|F-2", OBR.replace("F-1", "F-2")) == "AE 204"
    for action in ("XO", "RP", "DC"):
        assert sender.send(ANTON, SPM, f"ORC|{action}|P-1|F-1", OBR) == "AE 205"
        assert sender.send(ERIKA, SPM, f"ORC|{action}|P-2|F-2", other) == "AE 204"
    assert (sender.specimen().state, sender.specimen().revision) == ("open", 1)


def test_a_time_without_an_offset_is_that_of_the_message(sender: Sender, front: UseCases, artefact: Path) -> None:
    spm = SPM.replace("20260504083000+0200", "20260504083000")
    sender.send(ERIKA, spm, ORC, OBR, zone="-0500")
    assert _report(front, sender, artefact)["SPM"][17] == "20260504083000-0500"


@pytest.mark.parametrize(
    ("first", "second", "merge"),
    [
        ("HOSPITAL&1.2.3&ISO", "HOSPITAL&1.2.4&ISO", "100234^^^HOSPITAL"),
        ("HOSPITAL&1.2.3&ISO", "CLINIC", "100234^^^&1.2.4&ISO"),
    ],
)
def test_a_part_of_an_authority_updates_and_merges_nobody(first: str, second: str, merge: str, sender: Sender) -> None:
    sender.send(ERIKA.replace("^HOSPITAL^", f"^{first}^"), SPM, ORC, OBR)
    anton = ANTON.replace("999999^^^HOSPITAL^", f"100234^^^{second}^")
    sender.send(anton, SPM.replace("T-1", "T-2"), "ORC|NW|P-2|F-2", OBR.replace("P-1|F-1", "P-2|F-2"))
    assert sender.send(f"PID|1||{merge}||Neu^Name", kind="ADT^A08") == "AA"
    assert sender.send("PID|1||555^^^HOSPITAL||Neu^Name", f"MRG|{merge}", kind="ADT^A40") == "AA"
    assert [sender.specimen(tube).patient.family for tube in ("T-1", "T-2")] == ["Muster", "Fremd"]


def test_an_authority_that_is_known_is_not_forgotten(sender: Sender) -> None:
    full = ERIKA.replace("^HOSPITAL^MR", "^HOSPITAL&1.2.3&ISO^MR")
    sender.send(full, SPM, ORC, OBR)
    assert sender.send(ERIKA.replace("^MR", ""), SPM, "ORC|XO|P-1|F-1", OBR) == "AA"
    (number,) = sender.specimen().patient.numbers or ()
    assert (number.universal_id, number.type) == ("1.2.3", "MR")
    other = ERIKA.replace("^HOSPITAL^MR", "^HOSPITAL&1.2.4&ISO^MR")
    assert sender.send(other, SPM, "ORC|XO|P-1|F-1", OBR) == "AE 205"


@pytest.mark.parametrize("number", ["999999^^^HOSPITAL^MR~0^^^AHV^SS", "777^^^HOSPITAL^MR~100234^^^HOSPITAL^VN"])
def test_a_shared_number_does_not_outweigh_another_record_number(number: str, sender: Sender) -> None:
    erika = ERIKA.replace("100234^^^HOSPITAL^MR", "100234^^^HOSPITAL^MR~0^^^AHV^SS")
    sender.send(erika, SPM, ORC, OBR)
    other = ANTON.replace("999999^^^HOSPITAL^MR", number)
    assert sender.send(other, SPM, "ORC|CA|P-1|F-1", OBR) == "AE 205"
    assert sender.send(other, kind="ADT^A08") == "AA"
    assert sender.specimen().patient.family == "Muster"


def test_an_order_without_a_number_in_common_is_another_one(sender: Sender) -> None:
    assert sender.send(ERIKA, SPM, "ORC|NW|P-1", "OBR|1|P-1||BMDIFF") == "AA"
    assert sender.send(ERIKA, SPM, "ORC|NW||F-2", "OBR|1||F-2|IRON") == "AE 205"
    assert sender.send(ERIKA, SPM, "ORC|CA||F-99", "OBR|1||F-99") == "AE 204"
    assert sender.send(ERIKA, SPM, "ORC|CA", "OBR|1") == "AE 204"
    assert sender.send(ERIKA, SPM, "ORC|NW", "OBR|1|||IRON") == "AE 205"
    other = SPM.replace("T-1", "T-9")
    assert sender.send(ERIKA, other, "ORC|NW", "OBR|1|||BMDIFF", "ORC|NW", "OBR|2|||IRON") == "AE 205"


def test_an_order_of_several_specimens_is_not_cancelled_by_its_number(sender: Sender) -> None:
    two = SPM.replace("T-1", "T-2")
    sender.send(ERIKA, ORC, OBR, SPM, two, kind="OML^O21^OML_O21")
    assert sender.send(ERIKA, "ORC|CA|P-1|F-1", kind="ORM^O01") == "AE 205"
    assert sender.send(ERIKA, two, "ORC|CA|P-1|F-1", OBR) == "AA"
    assert sender.send(ERIKA, "ORC|CA|P-1|F-1", kind="ORM^O01") == "AA"
    assert sender.specimen("T-1").state == "cancelled"


def test_two_patients_never_have_one_filler_number(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    assert sender.send(ANTON, SPM.replace("T-1", "T-2"), ORC, OBR) == "AE 205"


def test_a_namespace_is_not_erased_by_a_change_without_it(sender: Sender) -> None:
    sender.send(ERIKA, SPM, "ORC|NW|P-1^WARD-A|F-1", OBR.replace("P-1", "P-1^WARD-A"))
    assert sender.send(ERIKA, SPM, "ORC|XO|P-1|F-1", "OBR|1|P-1|F-1|BMDIFF") == "AA"
    kept = sender.specimen().order.as_ordered or {}
    assert (kept["ORC-2"], kept["OBR-4"]) == ("P-1^WARD-A", "BMDIFF^Marrow differential^99LAB")
    assert sender.send(ERIKA, SPM, "ORC|CA|P-1^WARD-B|F-1", OBR.replace("P-1", "P-1^WARD-B")) == "AE 204"


def test_the_account_number_stays_with_its_patient(sender: Sender, front: UseCases, artefact: Path) -> None:
    sender.send(f"{ERIKA}||||||||||ACC-ERIKA", SPM, ORC, OBR)
    found = sender.specimen()
    anton = Patient(identifier="999999", authority="HOSPITAL", family="Fremd")
    front.change(found.id, ChangeSpecimen(revision=found.revision, patient=anton), user("m.muster"))
    assert _report(front, sender, artefact)["PID"][18] == ""


def test_what_a_person_edits_is_what_goes_out(sender: Sender, front: UseCases, artefact: Path) -> None:
    sender.send(ERIKA, SPM, "ORC|NW|P-1^HIS|F-1", OBR.replace("P-1", "P-1^HIS"))
    found = sender.specimen()
    changes = {"placer_number": None, "service_name": "Marrow", "as_ordered": {"SPM-17": "x"}}
    edited = found.order.model_copy(update=changes)
    front.change(found.id, ChangeSpecimen(revision=found.revision, order=edited), user("m.muster"))
    lines = _report(front, sender, artefact)
    assert (lines["ORC"][2], lines["OBR"][2], lines["OBR"][4]) == ("", "", "BMDIFF^Marrow^99LAB")
    assert lines["SPM"][17] == "20260504083000+0200"


@pytest.mark.parametrize("field", ["PID-18", "ORC-4", "OBR-16", "SPM-4"])
def test_the_null_deletes_what_would_be_returned(field: str, sender: Sender) -> None:
    full = {"PID-18": f"{ERIKA}||||||||||ACC", "ORC-4": f"{ORC}|GRP", "OBR-16": f"{OBR}{'|' * 12}4711", "SPM-4": SPM}
    sender.send(full["PID-18"], full["SPM-4"], full["ORC-4"], full["OBR-16"])
    assert field in (sender.specimen().order.as_ordered or {})
    null = {"PID-18": f'{ERIKA}||||||||||""', "ORC-4": 'ORC|XO|P-1|F-1|""', "OBR-16": f'{OBR}{"|" * 12}""'}
    null |= {"SPM-4": 'SPM|1|T-1||""'}
    plain = {"PID-18": ERIKA, "ORC-4": "ORC|XO|P-1|F-1", "OBR-16": OBR, "SPM-4": "SPM|1|T-1"}
    sent = plain | {field: null[field]}
    assert sender.send(sent["PID-18"], sent["SPM-4"], sent["ORC-4"], sent["OBR-16"]) == "AA"
    assert field not in (sender.specimen().order.as_ordered or {})


@pytest.mark.parametrize("orc", ["ORC|CA|P-1|F-1", "ORC|CA|P-1", "ORC|CA||F-1", "ORC|DC|P-1|F-1"])
def test_an_order_is_cancelled_by_its_number_without_a_specimen(orc: str, sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    assert sender.send(ERIKA, orc, kind="ORM^O01") == "AA"
    assert sender.specimen().state == "cancelled"
    assert sender.send(ERIKA, SPM, ORC, OBR) == "AA"  # and can be ordered again
    assert sender.specimen().state == "open"


def test_an_order_number_that_nobody_knows_is_unknown(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    assert sender.send(ERIKA, "ORC|CA|P-9|F-9", kind="ORM^O01") == "AE 204"
    assert sender.send(ANTON, "ORC|CA|P-1|F-1", kind="ORM^O01") == "AE 205"


def test_namespaces_of_order_numbers_belong_to_them(sender: Sender) -> None:
    here, there = "P-1^WARD-A^1.2.3^ISO", "P-1^WARD-B^1.2.4^ISO"
    sender.send(ERIKA, SPM, f"ORC|NW|{here}|F-1", OBR.replace("P-1", here))
    assert sender.send(ERIKA, SPM, f"ORC|CA|{there}|F-1", OBR.replace("P-1", there)) == "AE 204"
    assert sender.send(ERIKA, SPM, f"ORC|CA|{here}|F-1", OBR.replace("P-1", here)) == "AA"


def test_empty_fields_of_a_change_leave_what_is_stored(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    before = sender.specimen()
    assert sender.send("PID|1||100234^^^HOSPITAL^MR", "SPM|1|T-1", "ORC|XO", "OBR|1") == "AA"
    after = sender.specimen()
    assert (after.patient, after.order, after.collected_at) == (before.patient, before.order, before.collected_at)
    assert sender.send("PID|1||100234^^^HOSPITAL^MR||Beispiel", "SPM|1|T-1", "ORC|XO|P-1", "OBR|1") == "AA"
    changed = sender.specimen().patient
    assert (changed.family, changed.given, changed.sex) == ("Beispiel", "Erika", "F")


@pytest.mark.parametrize(
    ("pid", "spm", "obr", "deleted"),
    [
        ('PID|1||100234^^^HOSPITAL^MR||""', "", "", "family"),
        ('PID|1||100234^^^HOSPITAL^MR||Muster^""', "", "", "given"),
        ('PID|1||100234^^^HOSPITAL^MR||||""', "", "", "birth_date"),
        ('PID|1||100234^^^HOSPITAL^MR|||||""', "", "", "sex"),
        ("", "", 'OBR|1|P-1|F-1|BMDIFF^""', "service_name"),
        ("", "", 'OBR|1|P-1|F-1|BMDIFF^^""', "service_system"),
        ("", 'SPM|1|T-1|||||||||||||||""', "", "collected_at"),
    ],
)
def test_the_null_of_hl7_deletes_one_field(pid: str, spm: str, obr: str, deleted: str, sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    before = sender.specimen()
    assert sender.send(pid or ERIKA, spm or "SPM|1|T-1", "ORC|XO|P-1|F-1", obr or OBR) == "AA"
    after = sender.specimen()
    fields = {"collected_at", *before.patient.model_dump(), *before.order.model_dump()} - {"as_ordered", "numbers"}

    def values(of: Specimen) -> dict[str, Any]:
        return of.patient.model_dump() | of.order.model_dump() | {"collected_at": of.collected_at}

    changed = {name for name in fields if values(before)[name] != values(after)[name]}
    assert changed == {deleted} | ({"given"} if deleted == "family" else set())
    assert values(after)[deleted] is None


@pytest.mark.parametrize("kind", ["&1.2.3&ISO", "WARD&1.2.3&ISO"])
def test_a_number_of_another_authority_is_another_patient(kind: str, sender: Sender) -> None:
    first = ERIKA.replace("^HOSPITAL^", f"^{kind}^")
    assert sender.send(first, SPM, ORC, OBR) == "AA"
    assert sender.send(first.replace("1.2.3", "1.2.4"), SPM, "ORC|XO|P-1|F-1", OBR) == "AE 205"
    assert sender.send(ERIKA.replace("^HOSPITAL^", "^OTHER^"), SPM, "ORC|XO|P-1|F-1", OBR) == "AE 205"
    assert sender.send(first, SPM, "ORC|XO|P-1|F-1", OBR) == "AA"


def test_any_shared_number_is_the_same_patient_and_his_number_stays(sender: Sender) -> None:
    both = ERIKA.replace("100234^^^HOSPITAL^MR", "756.1^^^AHV^SS~100234^^^HOSPITAL^MR")
    sender.send(both, SPM, ORC, OBR)
    assert sender.specimen().patient.identifier == "100234"
    swapped = ERIKA.replace("100234^^^HOSPITAL^MR", "100234^^^HOSPITAL^MR~756.1^^^AHV^SS")
    assert sender.send(swapped, SPM, "ORC|XO|P-1|F-1", OBR) == "AA"
    assert sender.send(ERIKA.replace("100234^^^HOSPITAL^MR", "756.1^^^AHV^SS"), SPM, "ORC|XO|P-1", OBR) == "AA"
    found = sender.specimen().patient
    assert (found.identifier, {each.number for each in found.numbers or ()}) == ("100234", {"756.1", "100234"})


def test_a_second_test_on_the_tube_never_overwrites_the_first(front: UseCases) -> None:
    iron = "OBR|2|P-1|F-2|IRON^Iron stain^99LAB"
    ours = Sender(front, hl7_services="BMDIFF")
    assert ours.send(ERIKA, SPM, ORC, OBR, "ORC|NW|P-1|F-2", iron) == "AA"
    assert ours.specimen().order.service_code == "BMDIFF"
    assert ours.specimen().order.filler_number == "F-1"
    assert ours.send(ERIKA, "SPM|1|BLOOD||BLD", "ORC|NW|P-3|F-3", "OBR|1|P-3|F-3|GLU^Glucose^L") == "AA"
    assert [each.number for each in front.list(None, None, None, 9).specimens] == ["T-1"]


def test_what_was_ordered_comes_back_as_it_was_sent(sender: Sender, front: UseCases, artefact: Path) -> None:
    pid = "PID|1||100234^^^HOSPITAL&1.2.3&ISO^MR~756.1^^^AHV^SS||Muster^Erika||19640812|F||||||||||ACC-1^^^HOSPITAL"
    orc = "ORC|NW|P-1^HIS^1.9^ISO|F-1^LAB|GRP-7"
    obr = f"OBR|1|P-1^HIS^1.9^ISO|F-1^LAB|BM^Mark^99L^A^Alt^L{'|' * 12}4711^Arzt"
    sender.send(pid, SPM, orc, obr)
    lines = _report(front, sender, artefact)
    assert lines["PID"][3] == "100234^^^HOSPITAL&1.2.3&ISO^MR~756.1^^^AHV^SS"
    assert lines["PID"][18] == "ACC-1^^^HOSPITAL"
    assert lines["ORC"][2:5] == ["P-1^HIS^1.9^ISO", "F-1^LAB", "GRP-7"]
    assert lines["OBR"][2:5] == ["P-1^HIS^1.9^ISO", "F-1^LAB", "BM^Mark^99L^A^Alt^L"]
    assert lines["OBR"][16] == "4711^Arzt"
    assert lines["SPM"][4] == "MAR^Marrow^HL70487"


def _report(front: UseCases, sender: Sender, artefact: Path) -> dict[str, list[str]]:
    """The fields of the signed report by segment, as it waits in the outbox."""
    found = sender.specimen()
    revision, *_ = front.add(found.id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.sign(found.id, sign_request(revision), user("dr.beispiel"))
    with front.database.reading() as session:
        message = session.scalars(select(MessageRow.message)).one()
    return {line[:3]: line.split("|") + [""] * 30 for line in reversed(message.split("\r"))}


@pytest.mark.parametrize(
    ("sent", "hl7_time", "fhir_time", "astm_time"),
    [
        ("20260504", "20260504", "2026-05-04", "20260504"),
        ("202605040830+0200", "202605040830+0200", "2026-05-04T08:30:00+02:00", "20260504083000"),
        ("20260504083000-0500", "20260504083000-0500", "2026-05-04T08:30:00-05:00", "20260504153000"),
        ("20260504083000", "20260504083000+0200", "2026-05-04T08:30:00+02:00", "20260504083000"),
        ("202605040830", "202605040830+0200", "2026-05-04T08:30:00+02:00", "20260504083000"),
    ],
)
@pytest.mark.parametrize("in_obr", [False, True])
def test_a_collection_time_keeps_its_precision_and_its_offset(
    sent: str, hl7_time: str, fhir_time: str, astm_time: str, in_obr: bool, front: UseCases, artefact: Path
) -> None:
    to = {"hl7_to": "127.0.0.1:1", "fhir_url": "http://127.0.0.1:1", "astm_to": "127.0.0.1:2"}
    berlin = LisSettings(time_zone="Europe/Berlin", **to)
    sender = Sender(front, time_zone="Europe/Berlin")
    spm = "SPM|1|T-1||MAR" if in_obr else f"SPM|1|T-1||MAR|||||||||||||{sent}"
    obr = f"{OBR}|||{sent}" if in_obr else OBR
    sender.send(ERIKA, spm, ORC, obr, zone="")
    lines = _report(front, sender, artefact)
    assert lines["SPM"][17] == lines["OBR"][7] == lines["OBX"][14] == hl7_time
    found = sender.specimen()
    report = Report.model_validate_json(front.report(found.id, 1))
    encoded = {
        each.channel.name: each.channel.encode(report, (), (), "1") for each in receivers(berlin, CodeMap.load(), None)
    }
    assert f'"collectedDateTime":"{fhir_time}"' in encoded["fhir"]
    (ordered,) = (line for line in encoded["astm"].split("\r") if line.startswith("O|"))
    assert ordered.split("|")[7] == astm_time


def test_a_collection_that_took_time_keeps_both_ends(sender: Sender, front: UseCases, artefact: Path) -> None:
    to = {"hl7_to": "127.0.0.1:1", "fhir_url": "http://127.0.0.1:1", "astm_to": "127.0.0.1:2"}
    assert sender.send(ERIKA, f"{SPM}^20260504084500", ORC, OBR) == "AA"
    lines = _report(front, sender, artefact)
    begin, end = "20260504083000+0200", "20260504084500+0200"
    assert (lines["SPM"][17], lines["OBR"][7:9], lines["OBX"][14]) == (f"{begin}^{end}", [begin, end], begin)
    report = Report.model_validate_json(front.report(sender.specimen().id, 1))
    wanted = receivers(LisSettings(time_zone="Europe/Berlin", **to), CodeMap.load(), None)  # type: ignore[arg-type]
    encoded = {each.channel.name: each.channel.encode(report, (), (), "1") for each in wanted}
    period = '{"start":"2026-05-04T08:30:00+02:00","end":"2026-05-04T08:45:00+02:00"}'
    assert f'"collectedPeriod":{period}' in encoded["fhir"]
    assert f'"effectivePeriod":{period}' in encoded["fhir"]
    (ordered,) = (line for line in encoded["astm"].split("\r") if line.startswith("O|"))
    assert ordered.split("|")[7:9] == ["20260504083000", "20260504084500"]
    other = SPM.replace("T-1", "T-2").replace("20260504083000+0200", "20260504083000^20260504080000")
    assert sender.send(ERIKA, other, "ORC|NW|P-2|F-2", OBR.replace("P-1|F-1", "P-2|F-2")) == "AE 102"
    in_obr = f"{OBR.replace('P-1|F-1', 'P-3|F-3')}|||{begin}|{end}"
    assert sender.send(ERIKA, "SPM|1|T-3||MAR", "ORC|NW|P-3|F-3", in_obr) == "AA"
    assert (sender.specimen("T-3").order.as_ordered or {})["OBR-7"] == f"{begin}^{end}"


def test_a_label_goes_back_with_its_authorities(sender: Sender, front: UseCases, artefact: Path) -> None:
    label = "T-1&LAB&1.2.3&ISO^X-9&HIS"
    sender.send(ERIKA, SPM.replace("|T-1|", f"|{label}|"), ORC, OBR)
    assert sender.send(ERIKA, SPM, "ORC|XO|P-1|F-1", OBR) == "AA"
    assert _report(front, sender, artefact)["SPM"][2] == label


def test_an_error_names_its_own_order(sender: Sender) -> None:
    sender.send(ANTON, SPM.replace("T-1", "T-2"), "ORC|NW|P-2|F-2", OBR.replace("P-1|F-1", "P-2|F-2"))
    second = "SPM|2|T-2||MAR", "ORC|NW|P-3|F-3", OBR.replace("P-1|F-1", "P-3|F-3")
    answered = sender.answer(ERIKA, SPM, ORC, OBR, *second)
    assert "\rERR||SPM^2^2|205^" in answered
    unknown = "SPM|2|T-1||MAR", "ORC|CA|P-9|F-9", "OBR|2|P-9|F-9"
    assert "\rERR||ORC^2^2|204^" in sender.answer(ERIKA, SPM, ORC, OBR, *unknown)


def test_a_collection_time_that_a_person_changes_replaces_the_one_that_was_sent(
    sender: Sender, front: UseCases, artefact: Path
) -> None:
    sender.send(ERIKA, SPM.replace("20260504083000+0200", "20260504"), ORC, OBR)
    found = sender.specimen()
    time = datetime(2026, 5, 4, 7, tzinfo=UTC)
    front.change(found.id, ChangeSpecimen(revision=found.revision, collected_at=time), user("m.muster"))
    assert _report(front, sender, artefact)["SPM"][17] == "20260504070000+0000"
    assert sender.specimen().order.placer_number == "P-1"


def test_a_patient_update_reaches_his_open_specimens(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    sender.send(ANTON, SPM.replace("T-1", "T-2"), "ORC|NW|P-2|F-2", OBR.replace("P-1|F-1", "P-2|F-2"))
    married = ERIKA.replace("Muster^Erika", "Beispiel^").replace("19640812", "")
    assert sender.send("EVN|A08", married, kind="ADT^A08^ADT_A01") == "AA"
    found = sender.specimen().patient
    assert (found.family, found.given, str(found.birth_date)) == ("Beispiel", "Erika", "1964-08-12")
    assert sender.specimen("T-2").patient.family == "Fremd"
    for kind in ("ADT^A01^ADT_A01", "ADT^A04", "ADT^A31"):
        assert sender.send("EVN|A01", ANTON.replace("999999", "777"), kind=kind) == "AA"


def test_a_merge_moves_specimens_in_every_state_and_lists_the_signed_ones(
    sender: Sender, front: UseCases, artefact: Path, tmp_path: Path
) -> None:
    for at in range(1, 5):
        tube, obr = SPM.replace("T-1", f"T-{at}"), OBR.replace("P-1|F-1", f"P-{at}|F-{at}")
        sender.send(ERIKA, tube, f"ORC|NW|P-{at}|F-{at}", obr)
    for number in ("T-2", "T-4"):
        signed = sender.specimen(number)
        revision, *_ = front.add(signed.id, [classified("PMO")], manifest(artefact), user("scanner"))
        front.sign(signed.id, sign_request(revision), user("dr.beispiel"))
    sender.send(ERIKA, "ORC|CA|P-3|F-3", kind="ORM^O01")
    survivor = "PID|1||555^^^HOSPITAL^MR||Muster^Erika||19640812|F"
    assert sender.send("EVN|A40", survivor, "MRG|100234^^^HOSPITAL^MR", kind="ADT^A40^ADT_A39") == "AA"
    found = sender.specimen().patient
    assert (found.identifier, [each.number for each in found.numbers or ()]) == ("555", ["555"])
    assert sender.send(survivor, SPM, "ORC|XO|P-1|F-1", OBR) == "AA"
    assert sender.send(ERIKA, SPM, "ORC|XO|P-1|F-1", OBR) == "AE 205"  # the dead number
    after = sender.specimen("T-2")
    assert (after.state, after.patient.identifier) == ("signed", "555")
    assert Report.model_validate_json(front.report(after.id, 1)).patient.identifier == "100234"
    assert [each.action for each in front.audit_trail(after.id).entries][-1] == "merge"
    assert listed(front) == ["T-4", "T-2"]
    assert _command(tmp_path, "status").startswith("2 signed specimens of merged patients wait for an amendment")
    front.amend(after.id, WithReason(revision=after.revision, reason="merged"), user("dr.beispiel"))
    assert listed(front) == ["T-4"]
    front.sign(after.id, sign_request(after.revision + 1), user("dr.beispiel"))
    assert Report.model_validate_json(front.report(after.id, 2)).patient.identifier == "555"
    assert listed(front) == ["T-4"]
    [waiting] = json.loads(_command(tmp_path, "merged", "--json"))
    assert (waiting["number"], waiting["filler_number"], waiting["reports"]) == ("T-4", "F-4", 1)
    assert "T-4" in _command(tmp_path, "merged")
    tube, obr = SPM.replace("T-1", "T-3"), OBR.replace("P-1|F-1", "P-3|F-3")
    assert sender.send(survivor, tube, "ORC|NW|P-3|F-3", obr) == "AA"  # a cancelled order, ordered again
    assert (sender.specimen("T-3").state, sender.specimen("T-3").patient.identifier) == ("open", "555")
    assert [each.action for each in front.audit_trail(sender.specimen().id).entries] == ["open", "change", "change"]


def _command(folder: Path, *words: str) -> str:
    """The output of `marrowlens lis …` on the laboratory's database."""
    done = CliRunner().invoke(app, ["lis", *words], env={"MARROWLENS_LIS_DATABASE": f"sqlite:///{folder}/lab.db"})
    assert done.exit_code == 0, done.output
    return done.stdout


def listed(front: UseCases) -> list[str]:
    return [each.number for each in front.list(None, None, None, 9, merged=True).specimens]


def test_no_merge_or_update_gives_an_erased_specimen_a_patient(sender: Sender, front: UseCases, artefact: Path) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    revision, *_ = front.add(sender.specimen().id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.sign(sender.specimen().id, sign_request(revision), user("dr.beispiel"))
    found = sender.specimen()
    front.erase(found.id, WithReason(revision=found.revision, reason="case 17"), user("m.muster"))
    survivor = "PID|1||555||Muster^Erika||19640812|F"
    assert sender.send("EVN|A40", survivor, "MRG|erased", kind="ADT^A40^ADT_A39") == "AA"
    assert sender.send("EVN|A08", survivor.replace("555", "erased"), kind="ADT^A08") == "AA"
    after = front.get(found.id)
    assert (after.state, after.patient.identifier, after.patient.family) == ("erased", "erased", None)


def test_merges_of_one_message_follow_each_other(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    first = ["PID|1||555^^^HOSPITAL^MR||Muster^Erika", "MRG|100234^^^HOSPITAL^MR"]
    second = ["PID|2||666^^^HOSPITAL^MR||Muster^Erika", "MRG|555^^^HOSPITAL^MR"]
    assert sender.send("EVN|A40", *first, *second, kind="ADT^A40^ADT_A39") == "AA"
    assert sender.specimen().patient.identifier == "666"


def test_a_merge_of_another_authority_moves_nobody(sender: Sender) -> None:
    sender.send(ERIKA, SPM, ORC, OBR)
    survivor = "PID|1||555^^^CLINIC^MR||Fremd^Anton"
    assert sender.send("EVN|A40", survivor, "MRG|100234^^^CLINIC^MR", kind="ADT^A40") == "AA"
    assert sender.specimen().patient.identifier == "100234"
    assert sender.send("EVN|A40", survivor, kind="ADT^A40") == "AE 101"
    assert sender.send("EVN|A08", kind="ADT^A08") == "AE 100"
    assert sender.send("EVN|A40", "MRG|100234^^^HOSPITAL^MR", kind="ADT^A40") == "AE 100"


people = st.sampled_from(
    [ERIKA, ANTON, ERIKA.replace("HOSPITAL", "CLINIC"), ERIKA.replace("^HOSPITAL^", "^&1.2.3&ISO^")]
)


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["NW", "XO", "CA", "DC", "RP"]),
            people,
            st.integers(1, 3),
            st.integers(1, 3),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_sequence_of_messages_gives_a_tube_to_another_patient_or_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int, int, bool]]
) -> None:
    """Two hospitals with the same numbers: whatever they send, a tube stays that of the patient who had it first.

    Several orders of one patient on a tube are a specimen each (docs/decisions/0022).
    """
    with use_cases(f"sqlite:///{tmp_path_factory.mktemp('lab')}/lab.db", channels=[]) as front:
        sender = Sender(front)
        first: dict[str, tuple[str, set[int]]] = {}
        for action, pid, tube, number, names_the_tube in steps:
            spm = [f"SPM|1|T-{tube}||MAR"] if names_the_tube or action == "NW" else []
            control = f"ORC|{action}|P-{number}|F-{number}"
            obr, kind = f"OBR|1|P-{number}|F-{number}|BM", "OML^O33" if spm else "ORM^O01"
            outcome = sender.send(pid, *spm, control, obr, kind=kind)
            if outcome == "AA" and action == "NW":
                owner, ordered = first.setdefault(f"T-{tube}", (pid, set()))
                assert owner == pid
                ordered.add(number)
            if outcome == "AA" and spm and action != "NW":
                owner, ordered = first[f"T-{tube}"]
                assert owner == pid and number in ordered
        for name, (pid, ordered) in first.items():
            for found in sender.specimens(name):
                assert found.patient.identifier == pid.split("|")[3].split("^")[0]
                assert found.patient.family == pid.split("|")[5].split("^")[0]
                assert found.order.placer_number in {f"P-{number}" for number in ordered}
