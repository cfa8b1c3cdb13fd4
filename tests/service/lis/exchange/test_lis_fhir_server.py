"""Reports delivered to sekmet, an independent FHIR R4 server, and read back."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from fhir_peer import Server, fhir_transport, sekmet
from reported import PATIENT, differential, report

from service.lis.domain.report import Report, ReportStatus
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.fhir.bundle import FhirForm, MediaPicture, encode_report
from service.lis.exchange.observations import observations
from service.lis.exchange.transport import NoAnswer, Rejected

CODES = CodeMap.load()
FORM = FhirForm("urn:lab:codes", {"HOSPITAL": "urn:oid:1.2.3.4"})
PICTURES = [MediaPicture("7", b"\xff\xd8\xff\xe0 a jpeg", "image/jpeg", "BLA Blast")]
PRELIMINARY, FINAL, CORRECTED = ReportStatus.PRELIMINARY, ReportStatus.FINAL, ReportStatus.CORRECTED


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sekmet(tmp_path_factory.mktemp("sekmet")) as started:
        yield started


def encoded(of: Report, pictures: list[MediaPicture] | None = None) -> str:
    return encode_report(of, CODES.code_of(signed=of.status is not PRELIMINARY), FORM, pictures or [])


async def deliver(to: Server, of: Report, pictures: list[MediaPicture] | None = None) -> Any:
    async with fhir_transport(to.url) as opened:
        return json.loads(await opened.deliver(encoded(of, pictures), of.id))


def numbered(patient: str, status: ReportStatus, **fields: Any) -> Report:
    """A report on a patient and a specimen of its own, so that tests share a server and nothing else."""
    of = PATIENT.model_copy(update={"identifier": patient})
    return report(status, patient=of, specimen_id=f"{int(patient):032x}", **fields)


async def test_a_report_is_one_report_through_all_its_versions(server: Server) -> None:
    read_again = differential({"BLA": 30, "LYT": 170, "EBO": 100})
    versions = [numbered("1", PRELIMINARY), numbered("1", FINAL, version=2)]
    versions.append(numbered("1", CORRECTED, version=3, differential=read_again))
    wanted = Counter(Patient=1, Specimen=1, Media=1, DiagnosticReport=1, Observation=len(observations(versions[0])) + 1)
    for of in versions:
        receipt = await deliver(server, of, PICTURES)
        assert len(receipt["entry"]) == len(json.loads(encoded(of, PICTURES))["entry"])
        assert server.counts("1") == wanted
        (stored,) = server.of_patient("DiagnosticReport", "1")
        assert stored["status"] == of.status.value
    blasts = server.of_patient("Observation", "1", code="http://loinc.org|11150-0")
    assert [each["valueQuantity"]["value"] for each in blasts] == [10.0]
    history = server.read(f"DiagnosticReport/{stored['id']}/_history")
    assert [entry["resource"]["status"] for entry in history["entry"]] == ["corrected", "final", "preliminary"]


async def test_the_same_bundle_twice_leaves_one_of_everything(server: Server) -> None:
    of = numbered("2", FINAL)
    await deliver(server, of, PICTURES)
    once = server.counts("2")
    await deliver(server, of, PICTURES)
    assert server.counts("2") == once
    assert once["DiagnosticReport"] == once["Patient"] == once["Specimen"] == once["Media"] == 1
    assert len(server.search("Device")) == 1


async def test_the_server_has_what_the_report_says(server: Server) -> None:
    of = numbered("3", FINAL)
    await deliver(server, of)
    (stored,) = server.of_patient("DiagnosticReport", "3")
    (panel,) = [server.read(each["reference"]) for each in stored["result"]]
    members = [server.read(each["reference"]) for each in panel["hasMember"]]
    values = [each.get("valueQuantity", {}).get("value", each.get("valueString")) for each in members]
    assert values == [result.value for result in observations(of)]
    assert server.read(stored["subject"]["reference"])["name"] == [{"family": "Muster", "given": ["Erika"]}]
    assert server.read(members[0]["specimen"]["reference"])["accessionIdentifier"]["value"] == of.number
    assert server.read(members[0]["device"]["reference"])["version"][1]["value"] == of.models[0].sha256


async def test_a_patient_the_server_knows_is_found_and_not_changed(server: Server) -> None:
    known = {"resourceType": "Patient", "identifier": [{"system": "urn:oid:1.2.3.4", "value": "4"}], "active": True}
    created = server.create(known)
    await deliver(server, numbered("4", FINAL))
    assert server.search("Patient", identifier="urn:oid:1.2.3.4|4") == [created]
    (stored,) = server.of_patient("DiagnosticReport", "4")
    assert stored["subject"] == {"reference": f"Patient/{created['id']}"}


@pytest.mark.parametrize("number", ["A,5", "A|5", "A$5", "A\\5", "A&5 ü"])
async def test_a_number_with_a_delimiter_is_one_patient_and_no_other(server: Server, number: str) -> None:
    of = PATIENT.model_copy(update={"identifier": number})
    before = len(server.search("Patient"))
    for _ in range(2):
        await deliver(server, report(patient=of, specimen_id=number.encode().hex().zfill(32)))
    assert len(server.search("Patient")) == before + 1


async def test_a_bundle_the_server_does_not_take_is_rejected_with_its_words(server: Server) -> None:
    broken = json.loads(encoded(numbered("6", FINAL)))
    broken["entry"][-1]["resource"]["status"] = ["Muster"]
    async with fhir_transport(server.url) as to:
        with pytest.raises(Rejected) as refused:
            await to.deliver(json.dumps(broken), "1")
    assert refused.value.reason.startswith("HTTP 400: structure at DiagnosticReport.status")
    assert json.loads(refused.value.reply)["resourceType"] == "OperationOutcome"
    assert server.counts("6")["Patient"] == 0  # all of a transaction or nothing


async def test_two_patients_of_one_number_are_for_a_person_to_sort_out(server: Server) -> None:
    twin = {"resourceType": "Patient", "identifier": [{"system": "urn:oid:1.2.3.4", "value": "8"}]}
    for _ in range(2):
        server.create(twin)
    async with fhir_transport(server.url) as to:
        with pytest.raises(Rejected, match="^HTTP 412: multiple-matches$"):
            await to.deliver(encoded(numbered("8", FINAL)), "1")


@pytest.mark.parametrize("token", [None, "another-token"])
async def test_a_token_the_server_does_not_know_is_no_verdict_on_the_report(server: Server, token: str | None) -> None:
    async with fhir_transport(server.url, token) as to:
        with pytest.raises(NoAnswer, match="^HTTP 401$"):
            await to.deliver(encoded(numbered("7", FINAL)), "1")
