"""What a result says besides its value: authors with ids, reference ranges with flags, counts, and its provenance."""

from base64 import b64decode
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from lab import classified, manifest, open_request, sign_request, use_cases, user
from pdf_text import pages
from reported import PATIENT, report
from sqlalchemy import select

from model.contract import CLASSES
from service.auth.identity import Actor, Identity
from service.config.lis import LaboratoryConfigError, LisSettings
from service.config.settings import Settings
from service.lis.domain.person import Person
from service.lis.domain.report import Report, ReportContent, ReportStatus
from service.lis.exchange.channels import receivers
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.observations import results
from service.lis.exchange.reference_ranges import NO_RANGES, RangeTableError, ReferenceRanges
from service.lis.laboratory import Laboratory, setting_faults
from service.lis.schemas import ChangeSpecimen, WithReason
from service.lis.storage import outbox
from service.lis.storage.tables import MessageRow
from service.lis.use_cases import UseCases
from service.telemetry.metric_registry import MetricRegistry

EXAMPLE = Path("service/lis/exchange/adult_marrow_ranges.csv")
SIGNER = Person(name="Dr. A. Beispiel", identifier="0042-ab", authority="https://login.example.org/realms/lab")
COUNTER = Person(name="m.muster", identifier="m.muster", authority="portal")
TO = {"hl7_to": "127.0.0.1:1", "fhir_url": "http://127.0.0.1:1", "astm_to": "127.0.0.1:2"}


def encoded(of: Report, *earlier: Report, ranges: ReferenceRanges = NO_RANGES) -> dict[str, str]:
    """The message of each format."""
    wanted = receivers(LisSettings(**TO), CodeMap.load(), None, ranges)  # type: ignore[arg-type]
    return {each.channel.name: each.channel.encode(of, earlier, (), "1") for each in wanted}


def rows(message: str, kind: str) -> dict[str, list[str]]:
    """The result segments or records, by local code."""
    code = {"OBX": lambda field: field.split("^")[0], "R": lambda field: field.split("^")[3]}[kind]
    lines = (line.split("|") + [""] * 20 for line in message.split("\r") if line.startswith(f"{kind}|"))
    return {code(fields[3 if kind == "OBX" else 2]): fields for fields in lines}


def observed(message: str) -> dict[str, Any]:
    """The Observations by their text."""
    resources = [each["resource"] for each in orjson.loads(message)["entry"]]
    return {each["code"]["text"]: each for each in resources if each["resourceType"] == "Observation"}


def test_authors_have_the_ids_of_their_credentials() -> None:
    sent = encoded(report(signer=SIGNER, megakaryocytes_by=COUNTER))
    results, obr = rows(sent["hl7"], "OBX"), next(line for line in sent["hl7"].split("\r") if line[:3] == "OBR")
    assert results["LYT"][16] == "0042-ab^Dr. A. Beispiel^^^^^^^&login.example.org&DNS"
    assert results["MEGAKARYOCYTES"][16:19] == ["m.muster^m.muster^^^^^^^portal", "", ""]
    assert obr.split("|")[32] == "0042-ab&Dr. A. Beispiel&&&&&&&&login.example.org&DNS"
    by = observed(sent["fhir"])
    signer = {"system": SIGNER.authority, "value": "0042-ab"}
    assert by["Lymphocyte"]["performer"] == [
        {"type": "Practitioner", "display": "Dr. A. Beispiel", "identifier": signer}
    ]
    counted = by["Megakaryocytes"]
    assert counted["performer"][0]["identifier"] == {
        "system": "urn:marrowlens:codes#people-portal",
        "value": "m.muster",
    }
    assert "device" not in counted and "device" in by["Lymphocyte"]
    records = rows(sent["astm"], "R")
    assert records["MEGAKARYOCYTES"][10:14] == ["m.muster^Dr. A. Beispiel", "", records["LYT"][12], ""]
    assert records["LYT"][10] == "^Dr. A. Beispiel" and records["LYT"][13] == "MARROWLENS"


def test_a_pdf_is_attached_and_withdrawn() -> None:
    of = report(content=ReportContent(pdf=True))
    sent = encoded(of)
    *_, last = sent["hl7"].rstrip("\r").split("\rOBX|")
    found = rows(sent["hl7"], "OBX")["REPORT_PDF"]
    assert "REPORT_PDF" in last and (found[2], found[11]) == ("ED", "F")
    *kind, data = found[5].split("^")
    assert kind == ["", "application", "pdf", "Base64"]
    short = sent["hl7"].replace(data, "JVBE")  # hl7apy takes at most 199 characters of ED.5
    assert parse_message(short, validation_level=VALIDATION_LEVEL.STRICT).validate()
    [form] = diagnostic_report(sent["fhir"])["presentedForm"]
    assert (form["contentType"], form["data"]) == ("application/pdf", data)
    assert "Muster, Erika" in " ".join(pages(b64decode(data)))
    later = encoded(report(ReportStatus.CORRECTED, version=2, content=ReportContent()), of)
    assert [rows(later["hl7"], "OBX")["REPORT_PDF"][at] for at in (5, 11)] == ["", "D"]
    assert "presentedForm" not in diagnostic_report(later["fhir"])
    assert "REPORT_PDF" not in encoded(report())["hl7"]


def diagnostic_report(message: str) -> dict[str, Any]:
    resources = [each["resource"] for each in orjson.loads(message)["entry"]]
    [found] = [each for each in resources if each["resourceType"] == "DiagnosticReport"]
    return dict(found)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[UseCases]:
    channels = [each.channel for each in receivers(LisSettings(**TO), CodeMap.load(), None)]  # type: ignore[arg-type]
    with use_cases(f"sqlite:///{tmp_path}/lab.db", channels=channels) as opened:
        yield opened


def test_a_report_names_signer_and_counter(front: UseCases, artefact: Path) -> None:
    specimen = front.open(open_request(), user("scanner"))
    revision, *_ = front.add(specimen.id, [classified("PMO")], manifest(artefact), user("scanner"))
    counter = Actor("k.key", Identity(kind="key", key="k.key", key_id="0f3a91bc"))
    changed = front.change(specimen.id, ChangeSpecimen(revision=revision, megakaryocytes=3), counter)
    token = Actor("Dr. A. Beispiel", Identity(kind="token", issuer=SIGNER.authority, subject="0042-ab"))
    signed = front.sign(specimen.id, sign_request(changed.revision), token)
    assert (signed.signer, signed.signed_by) == (SIGNER, "Dr. A. Beispiel")
    assert signed.megakaryocytes_by == Person(name="k.key", identifier="0f3a91bc")
    assert "0f3a91bc^k.key^^^^^^^MARROWLENS" in encoded(signed)["hl7"]


def test_what_the_receiver_has_refused_is_neither_corrected_nor_withdrawn(front: UseCases, artefact: Path) -> None:
    specimen = front.open(open_request(), user("scanner"))
    revision, *_ = front.add(specimen.id, [classified("PMO")], manifest(artefact), user("scanner"))
    revision = front.change(specimen.id, ChangeSpecimen(revision=revision, megakaryocytes=3), user("scanner")).revision
    front.sign(specimen.id, sign_request(revision), user("dr"))
    for channel, is_taken in (("hl7", False), ("astm", True)):
        with front.database.writing() as session:
            claimed = outbox.claim(session, channel, "worker", timedelta(minutes=1))
            assert claimed is not None
            if is_taken:
                outbox.mark_delivered(session, claimed.row, "")
            else:
                outbox.mark_rejected(session, claimed.row, "AE", "MSA|AE")
    revision = front.get(specimen.id).revision
    revision = front.amend(specimen.id, WithReason(revision=revision, reason="miscounted"), user("dr")).revision
    revision = front.change(specimen.id, ChangeSpecimen(revision=revision, megakaryocytes=None), user("dr")).revision
    front.sign(specimen.id, sign_request(revision), user("dr"))
    with front.database.reading() as session:
        last = {row.channel: row.message for row in session.scalars(select(MessageRow).order_by(MessageRow.row))}
    assert {fields[11] for fields in rows(last["hl7"], "OBX").values()} == {"F"}
    assert rows(last["astm"], "R")["MEGAKARYOCYTES"][8] == "X"


def test_ranges_and_flags_are_those_of_the_table_the_laboratory_has_confirmed() -> None:
    adult = ReferenceRanges.load(EXAMPLE)
    of = report()
    values = {each.key: each.observation.value for each in results(of)}
    assert (values["BLA"], values["MYB"], values["EOS"]) == (2.4, 12.2, 2.8)
    sent = encoded(of, ranges=adult)
    assert parse_message(sent["hl7"], validation_level=VALIDATION_LEVEL.STRICT).validate()
    lines = rows(sent["hl7"], "OBX")
    assert [lines[key][7:9] for key in ("BLA", "MYB", "EOS", "COUNTED")] == [
        *(["0-2", "H"], ["3-7", "H"], ["1-5", "N"]),
        ["", ""],
    ]
    assert rows(sent["astm"], "R")["BLA"][5:7] == ["0 to 2", "H"]
    blasts = observed(sent["fhir"])["Blast"]
    assert [blasts["referenceRange"][0][end]["value"] for end in ("low", "high")] == [0, 2]
    assert blasts["interpretation"][0]["coding"][0]["code"] == "H"
    plain = encoded(of)
    assert {tuple(fields[7:9]) for fields in rows(plain["hl7"], "OBX").values()} == {("", "")}
    assert "referenceRange" not in plain["fhir"]


@pytest.mark.parametrize(
    ("born", "has_range"),
    [(date(2008, 5, 4), True), (date(2008, 5, 5), False), (None, False), (date(2030, 1, 1), False)],
)
def test_a_range_for_adults_is_for_adults(born: date | None, has_range: bool) -> None:
    child = report(patient=PATIENT.model_copy(update={"birth_date": born}))
    lines = rows(encoded(child, ranges=ReferenceRanges.load(EXAMPLE))["hl7"], "OBX")
    assert (lines["BLA"][8] != "") == has_range


HEAD = "key,sex,age_from,age_to,low,high\n"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("key,low,high\n", "line 1: wrong columns key,low,high; use key,sex,"),
        (f"# a\n{HEAD}BLA,,,,3,2\n", "line 3: high is below low"),
        (f"{HEAD}BLA,X,,,0,2\n", "line 2: sex=X: "),
        (f"{HEAD}BLA,,,,zero,2\n", "line 2: low=zero: "),
        (f"{HEAD}BLA,,,,0\n", "line 2: 5 cells instead of 6"),
        (
            f"{HEAD}BLA,F,18,,0,2\nBLA,,16,20,0,3\n",
            "line 3: BLA: another line has a range for the same patients (0 to 2)",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: str, reason: str) -> None:
    path = tmp_path / "ranges.csv"
    path.write_text(table)
    with pytest.raises(RangeTableError) as refused:
        ReferenceRanges.load(path)
    assert f"{path}, {reason}" in str(refused.value)


def test_ranges_by_sex_and_age(tmp_path: Path) -> None:
    path = tmp_path / "ranges.csv"
    path.write_text(f"{HEAD}EOS,F,,12,0,1\nEOS,F,12,,0,2\nEOS,M,,,0,9\n")
    ranges = ReferenceRanges.load(path)
    flags = {}
    for sex, year in (("F", 2020), ("F", 1990), ("M", 1990), ("U", 1990)):
        of = report(patient=PATIENT.model_copy(update={"sex": sex, "birth_date": date(year, 1, 1)}))
        flags[sex, year] = rows(encoded(of, ranges=ranges)["hl7"], "OBX")["EOS"][7:9]
    assert flags == {
        ("F", 2020): ["0-1", "H"],
        ("F", 1990): ["0-2", "H"],
        ("M", 1990): ["0-9", "N"],
        ("U", 1990): ["", ""],
    }
    assert ranges.unknown_keys({each.code for each in CLASSES}) == []
    assert ranges.unknown_keys({"LYT"}) == ["EOS"]


NOTES, RESULTS = ReportContent(), ReportContent(class_counts=True, provenance="results")


def test_provenance_is_a_note_and_counts_are_not_sent_unless_the_laboratory_wants_them() -> None:
    by_default, wanted = (encoded(report(content=content)) for content in (NOTES, RESULTS))
    provenance = {"WAITING", "MODEL", "METHOD"}
    for kind, name in (("OBX", "hl7"), ("R", "astm")):
        few, all_of_them = rows(by_default[name], kind), rows(wanted[name], kind)
        assert not provenance & few.keys() and provenance <= all_of_them.keys()
        assert "LYT_COUNT" not in few and "EBO_COUNT" in all_of_them and "HAC_COUNT" not in all_of_them
        for words in (
            "Cells that wait for review: 0",
            "Model that suggested classes: drawn 1.0",
            "Method: Research use",
        ):
            assert words in by_default[name] and words not in wanted[name]
    assert rows(wanted["hl7"], "OBX")["LYT_COUNT"][2:7] == [
        *("NM", "LYT_COUNT^Lymphocyte, number of cells^99MARROWLENS", "", "62", "{cells}^^UCUM")
    ]
    assert parse_message(wanted["hl7"], validation_level=VALIDATION_LEVEL.STRICT).validate()
    panel = observed(by_default["fhir"])["Bone marrow differential"]
    assert [note["text"].split(":")[0] for note in panel["note"]] == [
        *("Cells that wait for review", "Model that suggested classes", "Method")
    ]
    assert "Method" in observed(wanted["fhir"]) and "note" not in observed(wanted["fhir"])["Bone marrow differential"]


def test_what_was_sent_as_a_result_is_withdrawn_when_it_becomes_a_note() -> None:
    before, old = report(content=RESULTS), report()
    after = report(ReportStatus.CORRECTED, version=2, content=NOTES)
    for first in (before, old):
        lines = rows(encoded(after, first)["hl7"], "OBX")
        assert {lines[key][11] for key in ("WAITING", "MODEL", "METHOD")} == {"D"}
    assert rows(encoded(after, before)["hl7"], "OBX")["LYT_COUNT"][11] == "D"
    again = rows(encoded(report(ReportStatus.CORRECTED, version=3, content=RESULTS), before, after)["hl7"], "OBX")
    assert again["LYT_COUNT"][11] == "F"


def test_a_table_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ranges.csv"
    lis = LisSettings(database=f"sqlite:///{tmp_path}/lab.db", reference_ranges=path)  # type: ignore[arg-type]
    path.write_text(f"{HEAD}LYMPH,,,,9,19\n")
    laboratory = Laboratory(Settings(lis=lis), MetricRegistry())
    with pytest.raises(
        LaboratoryConfigError, match="REFERENCE_RANGES: LYMPH is no result; use a class code or a key of"
    ):
        laboratory.prepare(CLASSES)
    assert list(setting_faults(lis)) == []
    path.write_text(f"{HEAD}LYT,,,,19,9\n")
    [fault] = setting_faults(lis)
    assert fault == f"MARROWLENS_LIS_REFERENCE_RANGES: {path}, line 2: high is below low; exchange them"
    with pytest.raises(LaboratoryConfigError, match="line 2: high is below low"):
        Laboratory(Settings(lis=lis), MetricRegistry())
