"""Reports as HL7 v2.5.1: validated by hl7apy, read back by python-hl7, intact with any text."""

import re
from typing import Any

import hl7
import pytest
from checkout import ROOT
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st
from laboratory import COUNTS, LOINC, PATIENT, SENT, code_of, golden, report, report_of_words

from examples import examples
from model.contract import CLASSES
from service.config.lis import LisSettings
from service.lis.domain.report import Order, ReportModel, ReportStatus
from service.lis.exchange.hl7.encoding import encode, normalize_line_breaks, unescape
from service.lis.exchange.hl7.reader import read_header, read_segments
from service.lis.exchange.hl7.results import encode_report
from service.lis.exchange.observations import observations, results

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
PAGE = ROOT / "docs" / "hl7-messages.md"


def encoded(of: Any = None, **settings: Any) -> str:
    return encode_report(of or report(), code_of, LisSettings(**settings), control_id="1", sent_at=SENT)


def segments(message: str, name: str) -> list[Any]:
    return list(hl7.parse(message).segments(name))


def validated(message: str) -> Any:
    """hl7apy's parse with its strict rules; raises what is wrong."""
    parsed = parse_message(message, validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.validate()
    return parsed


@pytest.mark.parametrize("name", golden())
def test_the_page_shows_what_the_code_makes(name: str) -> None:
    blocks = dict(re.findall(r"```hl7 (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert set(blocks) == set(golden())
    assert blocks[name] == golden()[name].replace("\r", "\n")


@pytest.mark.parametrize("name", [name for name in golden() if name != "oml-refused"])
def test_hl7apy_finds_every_message_valid(name: str) -> None:
    assert validated(golden()[name]).version == "2.5.1"


def test_hl7apy_would_not_find_anything_valid() -> None:
    message = golden()["oru-final"]
    for broken in (message.replace("Muster^Erika^^^^^L", ""), re.sub("OBR.*?\r", "", message)):
        with pytest.raises(Exception, match=r"Missing required|PID_5|OBR|ORU_R01"):
            validated(broken)


@pytest.mark.parametrize("kind", ["ORU_R01", "OUL_R22"])
@pytest.mark.parametrize("status", list(ReportStatus))
def test_all_classes_with_and_without_what_may_be_absent_are_valid(kind: str, status: ReportStatus) -> None:
    bare = report(
        status,
        classes=CLASSES,
        counts={"ART": 1},
        collected_at=None,
        order=Order(),
        patient=PATIENT.model_copy(
            update={"family": None, "given": None, "birth_date": None, "sex": None, "authority": None}
        ),
        megakaryocytes=None,
        models=[],
        comment=None,
    )
    for each in (bare, report(status, classes=CLASSES)):
        validated(encoded(each, hl7_message=kind))


def test_every_result_is_sent_in_order_with_its_code_value_and_unit() -> None:
    rows = segments(encoded(), "OBX")
    expected = [each for each in observations(report()) if each.value is not None]
    assert [str(row[3]).split("^") for row in rows] == [
        [each.key, each.name, "99MARROWLENS", *([LOINC[each.key], each.name, "LN"] if each.key in LOINC else [])]
        for each in expected
    ]
    assert [hl7.parse(encoded()).unescape(str(row[5])) for row in rows] == [str(each.value) for each in expected]
    assert [str(row[6]).partition("^")[0] for row in rows] == [each.unit or "" for each in expected]
    assert [str(row[1]) for row in rows] == [str(n) for n in range(1, len(rows) + 1)]


def test_what_has_no_value_is_a_remark_with_its_reason_and_no_result() -> None:
    message = encoded()
    assert "|ABE^" not in message
    notes = [str(note[3]) for note in segments(message, "NTE") if len(note) > 4]
    reason = "Not measured: the model does not support this class, and a person has not read every cell"
    assert f"{reason}: Abnormal eosinophil" in notes
    assert any(note.startswith("Not measured: the lineage includes") for note in notes)


def test_intervals_stand_below_every_value_that_has_one() -> None:
    of = report(read=sum(COUNTS.values()))  # so that every class is measured, and the ratio with them
    blocks = re.split(r"\r(?=OBX)", encoded(of))[1:]
    bounded = [each.low is not None for each in observations(of) if each.value is not None]
    assert ["95 % interval" in block for block in blocks] == bounded
    ratio = next(block for block in blocks if "11138-5" in block)
    assert re.search(r"95 % interval 1\.7\d to 2\.5\d$", ratio)


@pytest.mark.parametrize(
    ("status", "letter", "control", "method"),
    [
        (ReportStatus.PRELIMINARY, "P", "IP", "SUGGESTED"),
        (ReportStatus.FINAL, "F", "CM", "SIGNED"),
        (ReportStatus.CORRECTED, "C", "CM", "SIGNED"),
    ],
)
def test_the_status_stands_in_every_place(status: ReportStatus, letter: str, control: str, method: str) -> None:
    message = encoded(report(status))
    (obr,), (orc,) = segments(message, "OBR"), segments(message, "ORC")
    assert (str(obr[25]), str(orc[5])) == (letter, control)
    rows = segments(message, "OBX")
    assert {str(row[11]) for row in rows} == ({"F"} if status is ReportStatus.CORRECTED else {letter})
    assert {str(row[17]).partition("^")[0] for row in rows if "MEGAKARYOCYTES" not in str(row[3])} == {method}
    signed = "" if status is ReportStatus.PRELIMINARY else "Dr. A. Beispiel"
    assert {str(row[16]) for row in rows} == {f"^{signed}" if signed else ""}
    assert (str(obr[32]) if len(obr) > 32 else "") == (f"&{signed}" if signed else "")
    assert ("Two blasts were read again." in message) == (status is ReportStatus.CORRECTED)


def test_the_order_comes_back_as_it_was_asked() -> None:
    asked = Order(
        placer_number="P|1", filler_number="F^1", service_code="BM", service_name="Mark", service_system="99X"
    )
    (obr,) = segments(encoded(report(order=asked)), "OBR")
    assert [str(obr[n]) for n in (2, 3, 4)] == ["P\\F\\1", "F\\S\\1", "BM^Mark^99X"]
    (obr,) = segments(encoded(report(order=Order())), "OBR")
    assert [str(obr[n]) for n in (2, 3, 4)] == [
        "",
        "M26-0042",
        "PANEL^Differential panel - Bone marrow^99MARROWLENS^47286-0^Differential panel - Bone marrow^LN",
    ]


def test_every_model_is_named_as_a_device_and_as_a_result() -> None:
    models = [ReportModel(name=f"m{n}", version="1", sha256=f"{n}" * 64) for n in (1, 2)]
    rows = segments(encoded(report(models=models)), "OBX")
    assert str(rows[0][18]) == f"m1 1^^{'1' * 64}^L~m2 1^^{'2' * 64}^L"
    assert [str(row[4]) for row in rows if str(row[3]).startswith("MODEL^")] == ["1", "2"]


def test_a_note_names_the_inert_parts_of_a_model() -> None:
    model = ReportModel(name="m", version="1", sha256="ab" * 32, inert=["MLKA", "cross-scale attention"])
    message = encoded(report(models=[model]))
    note = "NTE|1|L|Parts of the network without effect on its answers: MLKA, cross-scale attention"
    lines = message.split("\r")
    at = lines.index(note)
    assert "|MODEL^" in lines[at - 1]
    assert validated(message)
    plain = encoded(report(models=[model.model_copy(update={"inert": None})]))
    assert [each for each in lines if each != note] == plain.split("\r")


@pytest.mark.parametrize(
    ("acks", "conditions"),
    [("original", ("", "")), ("accept", ("AL", "NE")), ("application", ("NE", "AL")), ("both", ("AL", "AL"))],
)
def test_acknowledgements_are_asked_for_as_set(acks: str, conditions: tuple[str, str]) -> None:
    header = read_header(encoded(hl7_acks=acks).encode())
    assert (header.accept_ack, header.application_ack) == conditions


def test_the_performing_laboratory_stands_in_every_result() -> None:
    name, address = "Universitätslabor", "Hauptstraße 1, Köln"
    message = encoded(hl7_performing_laboratory=name, hl7_performing_address=address)
    assert {(str(row[23]), str(row[24])) for row in segments(message, "OBX")} == {(name, address)}
    assert validated(message)


def test_a_specimen_type_of_hl7s_own_table_says_so() -> None:
    (own,), (theirs,) = (segments(encoded(hl7_specimen_type=kind), "SPM") for kind in ("BMA", "MAR"))
    assert [str(spm[4]).split("^")[2] for spm in (own, theirs)] == ["99MARROWLENS", "HL70487"]


@pytest.mark.parametrize("control_id", ["", "x" * 21])
def test_a_control_id_that_hl7_has_no_room_for_is_refused(control_id: str) -> None:
    with pytest.raises(ValueError, match="1 to 20"):
        encode_report(report(), code_of, LisSettings(), control_id=control_id, sent_at=SENT)


@st.composite
def texts(draw: st.DrawFn) -> tuple[dict[str, str], Any]:
    """Any text in every place of a report that a person or another system filled."""
    names = ("identifier", "authority", "family", "given", "placer", "filler", "code", "name", "system", "number")
    words = {name: draw(ANY.filter(bool)) for name in (*names, "signed_by", "comment", "correction", "version")}
    return words, report_of_words(words, "m")


PLACES = {
    "identifier": ("PID", 0, 3, 0),
    "authority": ("PID", 0, 3, 3),
    "family": ("PID", 0, 5, 0),
    "given": ("PID", 0, 5, 1),
    "placer": ("ORC", 0, 2, 0),
    "filler": ("OBR", 0, 3, 0),
    "code": ("OBR", 0, 4, 0),
    "name": ("OBR", 0, 4, 1),
    "system": ("OBR", 0, 4, 2),
    "number": ("SPM", 0, 2, 0),
    "correction": ("NTE", 0, 3, 0),
    "comment": ("NTE", 1, 3, 0),
    "signed_by": ("OBX", 0, 16, 1),
}


@settings(max_examples=examples(50))
@given(texts(), st.sampled_from(["ORU_R01", "OUL_R22"]))
def test_any_text_in_every_field_is_read_back_and_breaks_nothing(drawn: tuple[dict[str, str], Any], kind: str) -> None:
    words, of = drawn
    message = encoded(of, hl7_message=kind)
    plain = encoded(report(ReportStatus.CORRECTED), hl7_message=kind)
    assert [line[:3] for line in message.split("\r")] == [line[:3] for line in plain.split("\r")]
    assert [line.count("|") for line in message.split("\r")] == [line.count("|") for line in plain.split("\r")]
    ours = read_segments(encode(message, "UNICODE UTF-8"), "UNICODE UTF-8", [name for name, *_ in PLACES.values()])
    theirs = hl7.parse(message)
    for place, (name, nth, field, component) in PLACES.items():
        expected = normalize_line_breaks(words[place])
        found = [each for each in ours if each.name == name][nth]
        stripped = expected.strip()
        assert found.get(field, component + 1) == ("" if stripped == '""' else stripped)
        # python-hl7 takes white space from the end of a message for no part of it; SPM ends a report and has more.
        raw = str(theirs.segments(name)[nth][field]).split("^")[component]
        assert theirs.unescape(raw) == expected.replace("\n", "\r")


@settings(max_examples=examples(10))
@given(texts())
def test_hl7apy_sees_the_same_segments_and_fields_whatever_they_say(drawn: tuple[dict[str, str], Any]) -> None:
    words, of = drawn
    parsed = parse_message(encoded(of))
    assert len(parsed.ORU_R01_PATIENT_RESULT.ORU_R01_ORDER_OBSERVATION.ORU_R01_OBSERVATION) == len(results(of))
    # As it parsed it; written out again by hl7apy, \X1F\ and \.br\ are escaped a second time.
    found = parsed.ORU_R01_PATIENT_RESULT.ORU_R01_PATIENT.PID.PID_5.PID_5_1.FN_1.value
    family = "" if found is None else found.value  # hl7apy drops a value of spaces
    assert unescape(family).strip() == normalize_line_breaks(words["family"]).strip()
