"""A report as ASTM records and frames: field positions, and texts that cannot break a frame."""

from datetime import UTC, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported import PATIENT, report, reports

from service.lis.domain.report import Order, Report, ReportModel, ReportStatus
from service.lis.exchange.astm.records import AstmForm, encode_report, escaped, frames, latin, plain
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.observations import observations

CODES = CodeMap.load()
FORM = AstmForm(zone=UTC)
PRELIMINARY, FINAL, CORRECTED = ReportStatus.PRELIMINARY, ReportStatus.FINAL, ReportStatus.CORRECTED
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def encoded(of: Report, form: AstmForm = FORM) -> str:
    return encode_report(of, CODES.code_of(of.status is not PRELIMINARY), form, "c-1")


def records(of: Report, form: AstmForm = FORM) -> list[list[str]]:
    """Records as lists of fields; index 1 is what the standard calls field 1."""
    return [["", *record.split("|")] for record in encoded(of, form).split("\r")[:-1]]


def of_kind(letter: str, of: Report) -> list[list[str]]:
    return [record for record in records(of) if record[1] == letter]


def test_fields_stand_where_the_standard_has_them() -> None:
    found = records(report())
    header, patient, order = found[:3]
    assert (header[2], header[3], header[5], header[10]) == (r"\^&", "c-1", "MARROWLENS", "LIS")
    assert (header[12], header[13], header[14]) == ("P", "LIS2-A2", "20260504091502")
    assert (patient[3], patient[6], patient[8], patient[9]) == ("100234", "Muster^Erika", "19640812", "F")
    assert (order[3], order[5], order[8]) == ("S-2026-0042", "^Marrow differential^^BMDIFF", "20260504063000")
    assert (order[16], order[23], order[26]) == ("BMA", "20260504091502", "F")
    assert found[-1][1:] == ["L", "1", "N"]


def test_every_result_is_a_record_and_its_notes_follow_it() -> None:
    of = report()
    results, found = [each for each in observations(of) if each.value is not None], records(of)
    assert len(of_kind("R", of)) == len(results)
    at = next(n for n, record in enumerate(found) if record[1] == "R")
    for sequence, result in enumerate(results, 1):
        record = found[at]
        assert record[2] == str(sequence)
        assert record[3].split("^")[-1] == result.key
        assert plain(record[4]) == str(result.value)
        assert (record[5], record[6]) == (result.unit or "", "")  # an interval is no reference range
        assert record[9] == "F"
        assert [plain(comment[4]) for comment in found[at + 1 : at + 1 + len(result.notes)]] == list(result.notes)
        at += 1 + len(result.notes)


def test_a_comment_names_the_inert_parts_of_a_model() -> None:
    model = ReportModel(name="m", version="1", sha256="ab" * 32, inert=["MLKA", "cross-scale attention"])
    found = records(report(models=[model]))
    note = "Parts of the network without effect on its answers: MLKA, cross-scale attention"
    (at,) = (row for row, record in enumerate(found) if record[1] == "C" and plain(record[4]) == note)
    assert found[at - 1][1] == "R" and found[at - 1][3].split("^")[-1] == "MODEL"
    without = encoded(report(models=[model.model_copy(update={"inert": None})]))
    assert len(without.split("\r")) == len(found) and note not in without


def test_loinc_stands_first_and_the_laboratorys_own_code_always_behind() -> None:
    signed = {record[3].split("^")[-1]: record[3] for record in of_kind("R", report())}
    assert signed["LYT"] == "11108-8^Lymphocytes/cells in Bone marrow by Manual count^LN^LYT"
    unsigned = {record[3].split("^")[-1]: record[3] for record in of_kind("R", report(PRELIMINARY))}
    assert unsigned["LYT"] == "^Lymphocyte^^LYT"


@pytest.mark.parametrize(("status", "letter"), [(PRELIMINARY, "P"), (FINAL, "F"), (CORRECTED, "C")])
def test_the_status_is_one_letter(status: ReportStatus, letter: str) -> None:
    assert of_kind("O", report(status))[0][26] == letter
    sent = {record[9] for record in of_kind("R", report(status))}
    assert sent == ({"F"} if status is CORRECTED else {letter})  # nothing was sent before


def test_who_signed_and_what_was_said() -> None:
    assert {record[11] for record in of_kind("R", report())} == {"^Dr. A. Beispiel"}
    assert {record[11] for record in of_kind("R", report(PRELIMINARY))} == {""}
    said = [record[4] for record in of_kind("C", report(CORRECTED))[:3]]
    assert said == ["Corrected: Blasts were read again.", "Normal marrow.", "No blasts in excess."]


def test_what_was_ordered_comes_back_or_is_the_panel() -> None:
    loinc = Order(service_code="47286-0", service_name="Marrow", service_system="LN")
    assert of_kind("O", report(order=loinc))[0][5] == "47286-0^Marrow^LN"
    assert of_kind("O", report(order=Order()))[0][5] == "47286-0^Differential panel - Bone marrow^LN^PANEL"


def test_times_are_the_laboratorys_own() -> None:
    order = records(report(), AstmForm(zone=timezone(timedelta(hours=2))))[2]
    assert (order[8], order[23]) == ("20260504083000", "20260504111502")
    assert records(report(collected_at=None))[2][8] == ""


def test_a_sex_that_astm_does_not_know_is_unknown() -> None:
    sexes = {sex: PATIENT.model_copy(update={"sex": sex}) for sex in ("F", "M", "O", "A", "N", "U", None)}
    sent = {sex: of_kind("P", report(patient=of))[0][9:] for sex, of in sexes.items()}
    assert sent == {"F": ["F"], "M": ["M"], "O": ["U"], "A": ["U"], "N": ["U"], "U": ["U"], None: [""]}


@given(TEXT)
def test_an_escaped_text_has_no_delimiter_and_comes_back(text: str) -> None:
    found = escaped(text)
    assert not set(found) & set("|\\^\r\n\x02\x03\x17")
    assert plain(found) == latin(text)


@pytest.mark.parametrize(
    ("text", "sent"), [("a|b", "a&F&b"), ("a^b", "a&S&b"), ("a\\b", "a&R&b"), ("a&F&b", "a&E&F&E&b")]
)
def test_escapes_are_the_standards(text: str, sent: str) -> None:
    assert escaped(text) == sent


@given(reports())
def test_whatever_a_report_says_its_records_hold_together(of: Report) -> None:
    found = records(of)
    assert [record[1] for record in found[:3]] + [found[-1][1]] == ["H", "P", "O", "L"]
    assert {record[1] for record in found[3:-1]} == {"R", "C"}
    assert plain(found[2][3]) == latin(of.number)


def taken_apart(found: list[bytes]) -> list[tuple[str, bytes, bytes]]:
    """Frames as a receiver reads them, by the standard's own words: number, text, end; every checksum is right."""
    parts = []
    for each in found:
        assert (each[:1], each[-2:]) == (b"\x02", b"\r\n")
        body, end, said = each[1:-5], each[-5:-4], each[-4:-2]
        total = 0
        for byte in body + end:
            total = (total + byte) & 0xFF
        assert said == f"{total:02X}".encode()
        parts.append((body[:1].decode(), body[1:], end))
    return parts


@given(st.lists(st.text(), min_size=1))
def test_frames_carry_every_record_whole(texts: list[str]) -> None:
    message = "".join(f"{latin(text)}\r" for text in texts)
    parts = taken_apart(list(frames(message)))
    assert parts[0][0] == "1"
    assert all((int(before[0]) + 1) % 8 == int(after[0]) for before, after in pairwise(parts))
    assert all(1 <= len(text) <= 240 for _, text, _ in parts)
    assert all(len(text) == 240 for _, text, end in parts if end == b"\x17")
    joined, arrived = b"", []
    for _, text, end in parts:
        joined += text
        if end == b"\x03":
            arrived.append(joined)
            joined = b""
    assert arrived == [latin(text).encode("latin-1") + b"\r" for text in texts]
    assert not [byte for text in arrived for byte in text[:-1] if byte < 32 or byte in (127, 255)]


@pytest.mark.parametrize(("length", "sizes"), [(239, [240]), (240, [240, 1]), (479, [240, 240]), (480, [240, 240, 1])])
def test_a_long_record_goes_on_in_the_next_frame(length: int, sizes: list[int]) -> None:
    parts = taken_apart(list(frames("x" * length + "\r")))
    assert [len(text) for _, text, _ in parts] == sizes
    assert [end for _, _, end in parts] == [b"\x17"] * (len(sizes) - 1) + [b"\x03"]


def test_a_checksum_written_down_elsewhere() -> None:
    # By hand: 0x31 + 0x4C + 0x7C + 0x31 + 0x7C + 0x4E + 0x0D + 0x03 = 0x204.
    assert list(frames("L|1|N\r")) == [b"\x021L|1|N\r\x0304\r\n"]


def test_letters_that_latin_1_has_not_lose_their_marks() -> None:
    assert latin("Dvořák, Müller, Łukasz, 李 – ÿ") == "Dvorák, Müller, ?ukasz, ? ? y"
