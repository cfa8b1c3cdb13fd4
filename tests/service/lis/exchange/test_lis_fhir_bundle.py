"""A report as a FHIR R4 Bundle: content, identifiers, and the verdict of two validators."""

import base64
import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from reported import COUNTS, MODEL, ORDER, PATIENT, UNSUPPORTED, differential, report, reports

from examples import examples
from service.lis.domain.report import Order, Patient, Report, ReportStatus
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.fhir.bundle import FhirForm, MediaPicture, encode_report, moment
from service.lis.exchange.observations import observations

CODES = CodeMap.load()
FORM = FhirForm("urn:lab:codes", {"HOSPITAL": "urn:oid:1.2.3.4"})
PICTURES = [MediaPicture("7", b"\xff\xd8\xff\xe0 a jpeg", "image/jpeg", "BLA Blast")]
PRELIMINARY, FINAL, CORRECTED = ReportStatus.PRELIMINARY, ReportStatus.FINAL, ReportStatus.CORRECTED


def bundle(of: Report, pictures: list[MediaPicture] | None = None, form: FhirForm = FORM) -> Any:
    code_of = CODES.code_of(signed=of.status is not PRELIMINARY)
    return json.loads(encode_report(of, code_of, form, pictures or []))


def resources(found: Any, kind: str) -> list[Any]:
    return [entry["resource"] for entry in found["entry"] if entry["resource"]["resourceType"] == kind]


def only(found: Any, kind: str) -> Any:
    (resource,) = resources(found, kind)
    return resource


def by_code(found: Any) -> dict[str, Any]:
    return {each["code"]["coding"][0]["code"]: each for each in resources(found, "Observation")}


def check(found: Any, folder: Path) -> str:
    """The result of pyfhircheck, an independent validator."""
    path = folder / "bundle.json"
    path.write_text(json.dumps(found))
    command = [str(Path(sys.executable).with_name("pyfhircheck")), "bundle", "--max-issues", "1000", str(path)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("status", ReportStatus)
def test_two_validators_take_it(status: ReportStatus, tmp_path: Path) -> None:
    found = bundle(report(status), PICTURES)
    Bundle.model_validate(found)
    said = check(found, tmp_path)
    assert f"Resources: {len(found['entry']) + 1}\n" in said
    # Its list of statuses ends where the short text in the specification does, at a plus sign. R4 has `corrected`.
    unknown = "status: Code 'corrected' is not in required ValueSet"
    assert [line for line in said.splitlines() if line.startswith("- ") and unknown not in line] == []
    assert ("Status: PASS\n" in said) == (status is not CORRECTED)


def test_the_validators_can_refuse(tmp_path: Path) -> None:
    found = bundle(report())
    del found["entry"][-1]["resource"]["status"]
    assert "Status: FAIL\n" in check(found, tmp_path)
    with pytest.raises(ValidationError):
        Bundle.model_validate(found)


@settings(max_examples=examples(40))
@given(reports())
def test_whatever_a_report_says_its_bundle_is_valid_and_hangs_together(of: Report) -> None:
    found = bundle(of, PICTURES)
    Bundle.model_validate(found)
    urls = [entry["fullUrl"] for entry in found["entry"]]
    assert len(set(urls)) == len(urls)
    assert set(references(found)) <= set(urls)
    assert "\\u00" not in json.dumps([entry["resource"] for entry in found["entry"]], ensure_ascii=False)


def references(found: Any) -> list[str]:
    if isinstance(found, dict):
        own = [found["reference"]] if "reference" in found else []
        return own + [each for part in found.values() for each in references(part)]
    return [each for part in found for each in references(part)] if isinstance(found, list) else []


def test_every_result_is_an_observation_of_the_panel() -> None:
    of = report()
    found = bundle(of)
    *members, panel = resources(found, "Observation")
    urns = [each["identifier"][0]["value"] for each in members]
    assert [each["reference"] for each in panel["hasMember"]] == urns
    assert panel["code"]["coding"][0] == {
        "system": "http://loinc.org",
        "code": "47286-0",
        "display": "Differential panel - Bone marrow",
    }
    results = observations(of)
    assert [each["code"]["text"] for each in members] == [each.name for each in results]
    for result, member in zip(results, members, strict=True):
        sent = member.get("valueQuantity", {}).get("value", member.get("valueString"))
        assert sent == result.value
        assert member.get("note", []) == [{"text": note} for note in result.notes]
    assert only(found, "DiagnosticReport")["result"] == [{"reference": panel["identifier"][0]["value"]}]


def test_a_percentage_carries_its_interval_where_nobody_takes_it_for_the_normal_range() -> None:
    lymphocytes = by_code(bundle(report()))["11108-8"]
    assert "referenceRange" not in lymphocytes
    quantity = lymphocytes["valueQuantity"]
    (interval,) = quantity.pop("extension")
    assert quantity == {"value": 12.4, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"}
    assert interval["url"] == "http://hl7.org/fhir/StructureDefinition/quantity-confidenceInterval"
    confidence, bounds = interval["extension"]
    assert confidence == {"url": "confidence", "valueDecimal": 95}
    low, high = bounds["valueRange"]["low"]["value"], bounds["valueRange"]["high"]["value"]
    assert low < 12.4 < high
    assert {"text": f"95 % interval {low} to {high} %"} in lymphocytes["note"]
    ratio = by_code(bundle(report(differential=differential(read=sum(COUNTS.values())))))["11138-5"]["valueQuantity"]
    assert ratio["code"] == "{ratio}"
    assert ratio["extension"][0]["extension"][1]["valueRange"]["low"]["code"] == "{ratio}"


def test_what_has_no_value_says_why() -> None:
    def reason(observation: Any) -> str:
        assert not {name for name in observation if name.startswith("value")}
        return str(observation["dataAbsentReason"]["coding"][0]["code"])

    found = by_code(bundle(report()))
    assert {code: reason(found[code]) for code in ("ABE", "LYI")} == {"ABE": "unsupported", "LYI": "unsupported"}
    assert found["ABE"]["note"][0]["text"].startswith("Not measured: the model does not support this class")
    empty = by_code(bundle(report(differential=differential({}))))
    assert {reason(empty[code]) for code in ("BLA", "11138-5", "11108-8") if code in empty} == {"not-applicable"}
    assert set(UNSUPPORTED) <= set(found)


@pytest.mark.parametrize("status", ReportStatus)
def test_the_status_stands_on_the_report_and_on_every_result(status: ReportStatus) -> None:
    found = bundle(report(status))
    *members, panel = resources(found, "Observation")
    assert {each["status"] for each in (panel, only(found, "DiagnosticReport"))} == {status.value}
    # Without an earlier report there is nothing to correct.
    assert {each["status"] for each in members} == {"final" if status is CORRECTED else status.value}


def test_who_signed_what_was_said_and_why_it_was_corrected() -> None:
    preliminary, final = (only(bundle(report(status)), "DiagnosticReport") for status in (PRELIMINARY, FINAL))
    assert "resultsInterpreter" not in preliminary
    assert "conclusion" not in preliminary
    assert final["resultsInterpreter"] == [{"type": "Practitioner", "display": "Dr. A. Beispiel"}]
    assert final["conclusion"] == "Normal marrow.\nNo blasts in excess."
    corrected = only(bundle(report(CORRECTED)), "DiagnosticReport")
    assert corrected["conclusion"].splitlines()[0] == "Corrected: Blasts were read again."


def test_control_characters_a_person_typed_are_not_sent() -> None:
    old = report().model_copy(update={"comment": "one\x0btwo\tthree\nfour\x00five"})  # none is taken any more
    assert only(bundle(old), "DiagnosticReport")["conclusion"] == "one two\tthree\nfour five"


def test_manual_count_codes_come_with_the_signature() -> None:
    assert "LYT" in by_code(bundle(report(PRELIMINARY)))
    assert "11108-8" not in by_code(bundle(report(PRELIMINARY)))
    local = by_code(bundle(report(PRELIMINARY)))["LYT"]["code"]
    assert local["coding"] == [{"system": "urn:lab:codes", "code": "LYT", "display": "Lymphocyte"}]


def test_a_time_is_written_in_utc() -> None:
    assert moment(datetime(2026, 5, 4, 8, 30, tzinfo=timezone(timedelta(hours=2)))) == "2026-05-04T06:30:00Z"


def test_times_are_said_only_where_they_are_known() -> None:
    found = bundle(report())
    timed = [*resources(found, "Observation"), only(found, "DiagnosticReport")]
    assert {each["effectiveDateTime"] for each in timed} == {"2026-05-04T06:30:00Z"}
    assert {each["issued"] for each in timed} == {"2026-05-04T09:15:02Z"}
    assert only(found, "Specimen")["collection"] == {"collectedDateTime": "2026-05-04T06:30:00Z"}
    unknown = bundle(report(collected_at=None))
    assert "effectiveDateTime" not in json.dumps(unknown)
    assert "collection" not in only(unknown, "Specimen")


def test_the_order_comes_back_in_its_own_words() -> None:
    of = only(
        bundle(report(order=ORDER.model_copy(update={"service_system": "LN", "service_code": "47286-0"}))),
        "DiagnosticReport",
    )
    assert [each["code"] for each in of["code"]["coding"]] == ["47286-0"]
    local = only(bundle(report()), "DiagnosticReport")
    assert local["code"]["coding"][0] == {"code": "BMDIFF", "display": "Marrow differential"}
    assert local["code"]["coding"][1]["code"] == "47286-0"
    assert local["basedOn"][0]["identifier"]["value"] == "P-77"
    assert local["identifier"][1]["value"] == "F-12"
    bare = only(bundle(report(order=Order())), "DiagnosticReport")
    assert "basedOn" not in bare
    assert len(bare["identifier"]) == 1


def test_the_model_is_a_device_and_its_sha256_a_version() -> None:
    found = bundle(report())
    device = only(found, "Device")
    assert MODEL.sha256 in [each["value"] for each in device["version"]]
    *members, panel = resources(found, "Observation")
    suggested = [each for each in members if each["code"]["text"] != "Megakaryocytes"]  # a person counts these
    assert {each["device"]["reference"] for each in suggested} == {device["identifier"][0]["value"]}
    assert len(suggested) == len([each for each in members if "device" in each]) == len(members) - 1
    assert "device" not in panel
    two = bundle(report(models=[MODEL, MODEL.model_copy(update={"sha256": "cd" * 32})]))
    assert len(resources(two, "Device")) == 2
    assert not [each for each in resources(two, "Observation") if "device" in each]
    names = [each["code"]["text"] for each in resources(two, "Observation")]
    assert names.count("Model that suggested classes") == 2


def test_notes_of_device_and_result_name_the_inert_parts() -> None:
    note = {"text": "Parts of the network without effect on its answers: MLKA"}
    found = bundle(report(models=[MODEL.model_copy(update={"inert": ["MLKA"]})]))
    assert only(found, "Device")["note"][1:] == [note]
    [named] = [each for each in resources(found, "Observation") if each["code"]["text"].startswith("Model that")]
    assert named["note"] == [note]
    assert len(only(bundle(report()), "Device")["note"]) == 1


def test_pictures_are_media_of_the_report() -> None:
    found = bundle(report(), PICTURES)
    media = only(found, "Media")
    assert base64.b64decode(media["content"]["data"]) == PICTURES[0].content
    assert only(found, "DiagnosticReport")["media"] == [
        {"comment": "BLA Blast", "link": {"reference": media["identifier"][0]["value"]}}
    ]
    assert resources(bundle(report()), "Media") == []


@pytest.mark.parametrize("kind", ["Patient", "Device"])
def test_what_is_not_the_specimens_is_created_once_and_never_changed(kind: str) -> None:
    entries = [each for each in bundle(report())["entry"] if each["resource"]["resourceType"] == kind]
    for entry in entries:
        assert (entry["request"]["method"], entry["request"]["url"]) == ("POST", kind)
        assert found_by(entry["request"]["ifNoneExist"]) == identifier(entry)


def test_the_rest_is_written_in_place_of_what_was_there() -> None:
    entries = [
        e for e in bundle(report(), PICTURES)["entry"] if e["resource"]["resourceType"] not in ("Patient", "Device")
    ]
    for entry in entries:
        kind, _, query = entry["request"]["url"].partition("?")
        assert (entry["request"]["method"], kind) == ("PUT", entry["resource"]["resourceType"])
        assert found_by(query) == identifier(entry)


def identifier(entry: Any) -> str:
    found = entry["resource"]["identifier"][0]
    return f"{found['system']}|{found['value']}"


def found_by(query: str) -> str:
    ((name, value),) = parse_qsl(query, strict_parsing=True)
    assert name == "identifier"
    return value


def test_versions_of_a_report_are_one_report_and_specimens_share_nothing_but_the_model() -> None:
    def found(of: Report) -> set[str]:
        return {entry["fullUrl"] for entry in bundle(of)["entry"]}

    assert found(report(PRELIMINARY)) == found(report(CORRECTED, version=3, id="3d" * 16))
    both = found(report()) & found(report(specimen_id="4c" * 16))
    assert both == {only(bundle(report()), "Device")["identifier"][0]["value"]}


def test_the_same_report_gives_the_same_text() -> None:
    assert encode_report(report(), CODES.code_of(True), FORM) == encode_report(report(), CODES.code_of(True), FORM)


@pytest.mark.parametrize(
    ("authority", "system"),
    [
        ("HOSPITAL", "urn:oid:1.2.3.4"),
        ("CLINIC 2", "urn:lab:codes#patients-CLINIC%202"),
        (None, "urn:lab:codes#patients-"),
        ("1.2.276.0.76", "urn:oid:1.2.276.0.76"),
        ("https://lab.example/patients", "https://lab.example/patients"),
    ],
)
def test_numbers_of_two_givers_are_never_one_patient(authority: str | None, system: str) -> None:
    of = report(patient=PATIENT.model_copy(update={"authority": authority}))
    assert only(bundle(of), "Patient")["identifier"][0]["system"] == system


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_a_number_with_a_delimiter_searches_for_itself_alone(number: str) -> None:
    of = report(patient=PATIENT.model_copy(update={"identifier": number}))
    query = bundle(of)["entry"][0]["request"]["ifNoneExist"]
    unescaped = found_by(query).replace("\\|", "\0").split("|")
    assert len(unescaped) == 2
    assert not [at for at, char in enumerate(unescaped[1]) if char in ",$" and unescaped[1][at - 1] != "\\"]


def test_a_patient_is_described_as_far_as_known() -> None:
    known = only(bundle(report()), "Patient")
    assert (known["gender"], known["birthDate"]) == ("female", "1964-08-12")
    assert known["name"] == [{"family": "Muster", "given": ["Erika"]}]
    unknown = only(bundle(report(patient=Patient(identifier="1"))), "Patient")
    assert set(unknown) == {"resourceType", "identifier"}
