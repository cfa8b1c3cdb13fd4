"""What a reader writes beside the cells: assessments, draft of the comment, templates; and the results of it."""

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import Draw
from pdf_text import pages
from serving import client, refused
from starlette.testclient import TestClient

from service.config.lis import LisSettings

WHO = {"X-Acting-User": "m.muster"}
SIGNER = {"X-Acting-User": "dr.beispiel"}
TEMPLATES = """
decimal_comma = true
not_measured = "nicht bestimmt"
[[template]]
name = "Normal"
text = "{counted} von {cells} Zellen gezählt. Blasten {share.BLA} %. M:E {me_ratio}. Megakaryozyten: {megakaryocytes}."
"""


@pytest.fixture(scope="module")
def http(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    tmp_path = tmp_path_factory.mktemp("lab")
    (tmp_path / "templates.toml").write_text(TEMPLATES)
    lab = LisSettings(
        database=f"sqlite:///{tmp_path / 'lab.db'}",
        hl7_to="127.0.0.1:9",
        fhir_url="http://127.0.0.1:9/fhir",
        astm_to="127.0.0.1:9",
        deliver=False,
        comment_templates=tmp_path / "templates.toml",
        hl7_performing_laboratory="Labor Beispiel",
        time_zone="Europe/Berlin",
        audit_reads=True,
    )
    with client(artefact, lis=lab) as started:
        started.headers.update(WHO)
        yield started


_numbers = count(1)


def opened(http: TestClient, draw: Draw, first: int = 0, cells: int = 8, **patient: str) -> str:
    """A specimen whose cells are all read."""
    number = next(_numbers)
    person = {"identifier": f"P-{number}", "family": "Łoś"} | patient
    body = {"number": f"BM-{number}", "patient": person, "target_cells": 5}
    specimen: str = http.post("/specimens", json=body).json()["id"]
    files = [("images", (f"{n}.png", draw(first + n), "image/png")) for n in range(cells)]
    assert http.post(f"/specimens/{specimen}/cells", files=files).status_code == 200
    codes = ["BLA", "EBO", *["NGS"] * (cells - 2)]
    read(http, specimen, codes)
    return specimen


def read(http: TestClient, specimen: str, codes: list[str]) -> None:
    cells = http.get(f"/specimens/{specimen}/cells").json()["cells"]
    readings = [
        {"place": each["place"], "version": each["version"], "code": code, "why": "nucleoli"}
        for each, code in zip(cells, codes, strict=True)
    ]
    answer = http.post(f"/specimens/{specimen}/readings", json={"readings": readings})
    assert answer.status_code == 200, answer.text


def change(http: TestClient, specimen: str, who: dict[str, str] = WHO, **values: Any) -> dict[str, Any]:
    revision = http.get(f"/specimens/{specimen}").json()["revision"]
    answer = http.patch(f"/specimens/{specimen}", json={"revision": revision} | values, headers=who)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def sign(http: TestClient, specimen: str, **more: Any) -> dict[str, Any]:
    revision = http.get(f"/specimens/{specimen}").json()["revision"]
    answer = http.post(f"/specimens/{specimen}/sign", json={"revision": revision} | more, headers=SIGNER)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def amend(http: TestClient, specimen: str) -> None:
    body = {"revision": http.get(f"/specimens/{specimen}").json()["revision"], "reason": "counted again"}
    assert http.post(f"/specimens/{specimen}/amend", json=body, headers=SIGNER).status_code == 200


FORMS = {"grade": "reduced", "remark": "small, hypolobated | forms <b>"}


def test_what_a_reader_assesses_is_signed_and_sent_with_its_author(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, draw)
    change(http, specimen, megakaryocyte_assessment=FORMS, comment="No blasts in excess.")
    found = change(http, specimen, {"X-Acting-User": "e.other"}, cellularity={"grade": "not_assessed"})
    assert (found["megakaryocyte_assessment"], found["cellularity"]) == (FORMS, {"grade": "not_assessed"})
    preview = http.post(f"/specimens/{specimen}/preview", json={"revision": found["revision"]}).json()
    report = sign(http, specimen)
    assert report["comment"] == "No blasts in excess."
    assert report["megakaryocyte_assessment_by"] == {"name": "m.muster"}
    assert report["cellularity_by"] == {"name": "e.other"}
    sent = {each["channel"]: each["message"] for each in preview["messages"]}
    hl7 = sent["hl7"].split("\r")
    [at] = [n for n, line in enumerate(hl7) if "|MEGAKARYOCYTE_ASSESSMENT^" in line]
    fields = hl7[at].split("|")
    assert (fields[2], fields[5], fields[11], fields[16], fields[17]) == ("ST", "reduced", "F", "^m.muster", "")
    assert hl7[at + 1] == r"NTE|1|L|small, hypolobated \F\ forms <b>"
    assert "Not assessed by the reader: Cellularity" in sent["hl7"] and "|CELLULARITY^" not in sent["hl7"]
    by_text = {
        each["resource"]["code"]["text"]: each["resource"]
        for each in json.loads(sent["fhir"])["entry"]
        if each["resource"]["resourceType"] == "Observation"
    }
    forms = by_text["Megakaryocytes, assessment"]
    assert (forms["valueString"], forms["note"]) == ("reduced", [{"text": FORMS["remark"]}])
    assert forms["performer"] == [{"type": "Practitioner", "display": "m.muster"}]
    assert by_text["Cellularity"]["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "^^^MEGAKARYOCYTE_ASSESSMENT" in sent["astm"].replace("Megakaryocytes, assessment", "")


def test_an_amendment_begins_with_the_draft_and_withdraws_what_is_cleared(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, draw)
    change(http, specimen, cellularity={"grade": "increased"}, comment="First.")
    sign(http, specimen)
    amend(http, specimen)
    assert http.get(f"/specimens/{specimen}").json()["comment"] == "First."
    assert http.get(f"/specimens/{specimen}/comparison").json()["findings"] == []
    found = change(http, specimen, cellularity=None, comment="Second.")
    assert "cellularity" not in found
    compared = http.get(f"/specimens/{specimen}/comparison").json()
    assert (compared["same_specimen"], compared["findings"]) == (True, ["cellularity", "comment"])
    assert compared["previous"]["cellularity"] == {"grade": "increased"}
    preview = http.post(f"/specimens/{specimen}/preview", json={"revision": found["revision"]}).json()
    [hl7] = [each["message"] for each in preview["messages"] if each["channel"] == "hl7"]
    [line] = [line for line in hl7.split("\r") if "|CELLULARITY^" in line]
    assert line.split("|")[11] == "D"
    assert sign(http, specimen, comment=None).get("comment") is None
    trail = http.get(f"/specimens/{specimen}/audit").json()["entries"]
    changes = [each["details"]["fields"] for each in trail if each["action"] == "change"]
    assert changes == [["cellularity", "comment"], ["comment", "cellularity"]]
    assert not any("First." in json.dumps(each) for each in trail)


def test_an_erasure_takes_what_was_written_and_the_pdf(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, draw)
    change(http, specimen, megakaryocyte_assessment=FORMS, cellularity={"grade": "normal"}, comment="Of Łoś.")
    sign(http, specimen)
    body = {"revision": http.get(f"/specimens/{specimen}").json()["revision"], "reason": "case 17"}
    erased = http.post(f"/specimens/{specimen}/erase", json=body).json()
    assert not {"megakaryocyte_assessment", "cellularity", "comment"} & set(erased)
    refused(http.get(f"/specimens/{specimen}/reports/1/pdf"), 404, "unknown-specimen")
    assert http.get(f"/specimens/{specimen}/comparison").json()["classes"] == []


@pytest.mark.parametrize(
    "values",
    [
        {"cellularity": {"grade": "absent"}},
        {"cellularity": {"grade": "normal", "by": "other"}},
        {"cellularity": {"remark": "no grade"}},
        {"megakaryocyte_assessment": {"grade": "normal", "remark": "x" * 501}},
        {"megakaryocyte_assessment": {"grade": "normal", "remark": "two\nlines"}},
        {"comment": "bell \x07"},
        {"comment": "x" * 4001},
    ],
)
def test_invalid_findings_are_refused(http: TestClient, draw: Draw, values: dict[str, Any]) -> None:
    specimen = opened(http, draw, cells=2)
    revision = http.get(f"/specimens/{specimen}").json()["revision"]
    refused(http.patch(f"/specimens/{specimen}", json={"revision": revision} | values), 422, "invalid-parameter")
    assert http.get(f"/specimens/{specimen}").json()["revision"] == revision


def test_templates_have_the_numbers_of_the_specimen(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, draw)
    change(http, specimen, megakaryocytes=7)
    [found] = http.get(f"/specimens/{specimen}/comment-templates").json()["templates"]
    assert found == {
        "name": "Normal",
        "text": "8 von 8 Zellen gezählt. Blasten 12,5 %. M:E 6,0. Megakaryozyten: 7.",
    }
    [empty] = http.get(f"/specimens/{opened(http, draw, 50, 2)}/comment-templates").json()["templates"]
    assert "Megakaryozyten: nicht bestimmt." in empty["text"]


def test_a_report_is_printed_with_what_it_says(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, draw, given="Юрий", birth_date="1964-08-12")
    found = change(http, specimen, megakaryocytes=7, megakaryocyte_assessment=FORMS, comment="A & <b>b</b>\n<i>")
    preview = http.post(f"/specimens/{specimen}/preview/pdf", json={"revision": found["revision"]})
    [text] = pages(preview.content)
    assert "NOT SIGNED" in text and "Signed by –" in text
    sign(http, specimen)
    answer = http.get(f"/specimens/{specimen}/reports/1/pdf")
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["cache-control"] == "no-store"
    assert "Łoś" not in answer.headers["content-disposition"]
    [text] = pages(answer.content)
    told = ["Labor Beispiel", "Łoś, Юрий", "1964-08-12", found["number"], "dr.beispiel", "page 1 of 1"]
    told += ["Blast 1 12.5", "M:E 6.00", "A & <b>b</b> <i>", "reduced; small, hypolobated | forms <b>"]
    told += ["Research use only"]
    for words in told:
        assert words in text, words
    assert re.search(r"Signed at \d{4}-\d\d-\d\d \d\d:\d\d CES?T", text)
    assert "NOT SIGNED" not in text
    assert answer.content == http.get(f"/specimens/{specimen}/reports/1/pdf").content
    [german] = pages(http.get(f"/specimens/{specimen}/reports/1/pdf?language=de").content)
    for words in ("Differenzialbild des Knochenmarks", "12.08.1964", "vermindert", "12,5", "Seite 1 von 1"):
        assert words in german, words
    refused(http.get(f"/specimens/{specimen}/reports/2/pdf"), 404, "unknown-specimen")
    refused(http.get(f"/specimens/{specimen}/reports/1/pdf?language=fr"), 422, "invalid-parameter")


def test_a_corrected_report_says_what_it_changes(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, draw)
    change(http, specimen, comment="First.")
    sign(http, specimen)
    amend(http, specimen)
    read(http, specimen, ["BLA", "BLA", *["NGS"] * 6])
    change(http, specimen, comment="Second.")
    sign(http, specimen)
    text = " ".join(pages(http.get(f"/specimens/{specimen}/reports/2/pdf").content))
    for words in ("Corrected, version 2", "counted again", "Blast 1 (12.5 %) 2 (25.0 %)", "First. Second."):
        assert words in text, words


def test_a_report_beside_the_patients_report_before(http: TestClient, draw: Draw) -> None:
    first = opened(http, draw, 0, 30, identifier="SAME")
    sign(http, first)
    assert http.get(f"/specimens/{first}/comparison").json() == {"same_specimen": False, "classes": [], "findings": []}
    sign(http, opened(http, draw, 200, 5))
    second = opened(http, draw, 100, 30, identifier="SAME")
    read(http, second, [*["BLA"] * 20, *["NGS"] * 10])
    found = http.get(f"/specimens/{second}/comparison").json()
    assert (found["previous"]["specimen_id"], found["same_specimen"]) == (first, False)
    changed = {each["code"]: round(each["difference"]) for each in found["classes"] if each["changed"]}
    assert changed == {"BLA": 63, "NGS": -60}
    [erythroblast] = [each for each in found["classes"] if each["code"] == "EBO"]
    assert erythroblast["low"] < 0 < erythroblast["high"]
    sign(http, second)
    assert http.get(f"/specimens/{second}/comparison").json() == found
    looks = [each["details"].get("what") for each in http.get(f"/specimens/{first}/audit").json()["entries"]]
    assert looks.count("comparison") == 3  # two of the second specimen
