"""The laboratory's routes: from an opened specimen to a signed report, and the errors on the way."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Draw
from serving import client, refused, tarred, zipped
from starlette.testclient import TestClient

from service.api.uploads.body import MAX_JSON_BYTES
from service.config.lis import LisSettings

WHO = {"X-Acting-User": "m.muster"}
PATIENT = {"identifier": "SECRET-100234", "family": "Canaryname", "given": "Erika", "birth_date": "1964-08-12"}
NOWHERE = "0" * 32


@pytest.fixture
def lab(tmp_path: Path) -> LisSettings:
    return LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}", pictures=tmp_path / "pictures")


@pytest.fixture
def http(artefact: Path, lab: LisSettings) -> Iterator[TestClient]:
    with client(artefact, lis=lab) as started:
        started.headers.update(WHO)
        yield started


def opened(http: TestClient, number: str = "BM-1", **more: Any) -> str:
    answer = http.post("/specimens", json={"number": number, "patient": PATIENT} | more)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def added(http: TestClient, specimen: str, *pictures: bytes) -> dict[str, Any]:
    files = [("images", (f"{n}.png", data, "image/png")) for n, data in enumerate(pictures)]
    answer = http.post(f"/specimens/{specimen}/cells", files=files)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_specimen_goes_its_way(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, target_cells=200, order={"placer_number": "ORD-7"})
    sent = added(http, specimen, *[draw(n) for n in range(12)])
    assert (sent["added"], sent["differential"]["cells"], sent["revision"]) == (12, 12, 2)
    assert [item["cell"]["place"] for item in sent["items"]] == list(range(1, 13))
    assert sent["differential"]["to_go"] == 200 - sent["differential"]["counted"]
    assert http.get(f"/specimens/{specimen}/differential").json() == sent["differential"]
    waiting = http.get(f"/specimens/{specimen}/cells?only=waiting").json()["cells"]
    assert len(waiting) == sent["differential"]["waiting_review"]
    cells = http.get(f"/specimens/{specimen}/cells").json()["cells"]
    readings = [{"place": each["place"], "version": each["version"], "code": each["code"]} for each in cells]
    readings[0] |= {"code": "PMO", "why": "azurophilic granules"}
    read = http.post(f"/specimens/{specimen}/readings", json={"readings": readings})
    assert (read.status_code, read.json()["revision"]) == (200, 3)
    early = http.post(f"/specimens/{specimen}/preliminary", json={"revision": 3}).json()
    assert (early["status"], "signed_by" in early) == ("preliminary", False)
    signed = http.post(
        f"/specimens/{specimen}/sign",
        json={"revision": 4, "comment": "first line\nsecond line", "accept_below_target": True},
    )
    assert signed.status_code == 200, signed.text
    report = signed.json()
    assert (report["status"], report["signed_by"], report["version"]) == ("final", "m.muster", 2)
    assert report["differential"]["waiting_review"] == 0
    assert report["order"] == {"placer_number": "ORD-7"}
    assert http.get(f"/specimens/{specimen}/reports/2").json() == report
    amended = http.post(f"/specimens/{specimen}/amend", json={"revision": 5, "reason": "a blast was missed"})
    assert amended.json()["state"] == "amending"
    [cell] = http.get(f"/specimens/{specimen}/cells?limit=1").json()["cells"]
    change = {"place": 1, "version": cell["version"], "code": "BLA", "why": "open chromatin"}
    assert http.post(f"/specimens/{specimen}/readings", json={"readings": [change]}).status_code == 200
    corrected = http.post(f"/specimens/{specimen}/sign", json={"revision": 7, "accept_below_target": True}).json()
    assert (corrected["status"], corrected["correction"]) == ("corrected", "a blast was missed")
    history = http.get(f"/specimens/{specimen}/cells/1").json()["readings"]
    assert [(each["to_code"], each.get("why")) for each in history] == [
        ("PMO", "azurophilic granules"),
        ("BLA", "open chromatin"),
    ]
    trail = http.get(f"/specimens/{specimen}/audit").json()["entries"]
    assert [each["action"] for each in trail] == ["open", "add", "read", "report", "sign", "amend", "read", "sign"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/specimens"),
        ("POST", "/specimens"),
        ("GET", f"/specimens/{NOWHERE}"),
        ("PATCH", f"/specimens/{NOWHERE}"),
        ("POST", f"/specimens/{NOWHERE}/cells"),
        ("POST", f"/specimens/{NOWHERE}/sign"),
    ],
)
def test_a_service_without_a_laboratory_says_so_and_classifies(
    artefact: Path, draw: Draw, method: str, path: str
) -> None:
    with client(artefact) as http:
        json = {"number": "1", "patient": PATIENT} if path == "/specimens" else {"revision": 1}
        body = {} if method == "GET" else {"json": json}
        refused(http.request(method, path, headers=WHO, **body), 404, "no-laboratory")
        assert http.post("/classify", files={"image": draw(1)}).status_code == 200
        assert "marrowlens_lis" not in http.get("/metrics").text


def test_whoever_changes_something_says_who_he_is(artefact: Path, lab: LisSettings) -> None:
    with client(artefact, lis=lab) as http:
        wish = {"number": "BM-1", "patient": PATIENT}
        problem = refused(http.post("/specimens", json=wish), 422, "invalid-parameter")
        assert "X-Acting-User" in problem.detail
        refused(http.post("/specimens", json=wish, headers={"X-Acting-User": ""}), 422, "invalid-parameter")
        refused(http.post("/specimens", json=wish, headers={"X-Acting-User": "x" * 201}), 422, "invalid-parameter")
        assert http.get("/specimens").json() == {"specimens": []}


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"patient": PATIENT}, "number"),
        ({"number": "", "patient": PATIENT}, "number"),
        ({"number": "BM\n1", "patient": PATIENT}, "number"),
        ({"number": "BM-1"}, "patient"),
        ({"number": "BM-1", "patient": {"family": "Canaryname"}}, "identifier"),
        ({"number": "BM-1", "patient": PATIENT | {"sex": "female"}}, "sex"),
        ({"number": "BM-1", "patient": PATIENT | {"birth_date": "12.8.1964"}}, "birth_date"),
        ({"number": "BM-1", "patient": PATIENT, "collected_at": "2026-05-04T08:00:00"}, "collected_at"),
        ({"number": "BM-1", "patient": PATIENT, "target_cells": 0}, "target_cells"),
        ({"number": "BM-1", "patient": PATIENT, "nmber": 1}, "nmber"),
    ],
)
def test_a_specimen_that_cannot_be_opened_is_told_where_and_not_what(
    http: TestClient, wish: dict[str, Any], named: str
) -> None:
    problem = refused(http.post("/specimens", json=wish), 422, "invalid-parameter")
    assert named in problem.detail
    assert "Canaryname" not in problem.detail and "SECRET" not in problem.detail and "12.8" not in problem.detail


def test_bodies_are_bounded(http: TestClient) -> None:
    huge = b'{"number": "' + b"x" * MAX_JSON_BYTES + b'"}'
    refused(http.post("/specimens", content=huge, headers={"Content-Type": "application/json"}), 413, "body-too-large")
    deep = b"[" * 100_000
    assert http.post("/specimens", content=deep, headers={"Content-Type": "application/json"}).status_code in (400, 422)
    assert http.post("/specimens", content=b"{", headers={"Content-Type": "application/json"}).status_code in (400, 422)


def test_a_picture_is_added_once_under_a_key_or_by_itself(http: TestClient, draw: Draw) -> None:
    specimen = opened(http)
    path, alone = f"/specimens/{specimen}/cells", {"Content-Type": "image/png"}
    first = http.post(path, content=draw(1), headers=alone | {"Idempotency-Key": "slide-1/7"}).json()
    again = http.post(path, content=draw(1), headers=alone | {"Idempotency-Key": "slide-1/7"}).json()
    assert (first["added"], again["added"]) == (1, 0)
    assert first["items"][0]["cell"] == again["items"][0]["cell"]
    assert first["items"][0]["cell"]["key"] == "slide-1/7"
    other = http.post(path, content=draw(2), headers=alone | {"Idempotency-Key": "slide-1/7"}).json()
    assert (other["added"], other["items"][0]["problem"]["type"]) == (0, "urn:problem-type:marrowlens:cell-taken")
    # Without a key the picture itself says which cell it is.
    assert http.post(path, content=draw(1), headers=alone).json()["added"] == 0
    assert http.get(f"/specimens/{specimen}").json()["cells"] == 1


@pytest.mark.parametrize("query", ["", "?keys=names"])
@pytest.mark.parametrize("body", ["form", "two in a form", "tar", "zip", "lines"])
def test_a_key_is_refused_unless_one_picture_is_the_body(http: TestClient, draw: Draw, query: str, body: str) -> None:
    specimen = opened(http)
    bodies: dict[str, dict[str, Any]] = {
        "form": {"files": {"images": ("cell.png", draw(1))}},
        "two in a form": {"files": [("images", ("cell.png", draw(seed))) for seed in (1, 2)]},
        "tar": {"content": tarred([("cell.png", draw(1))]), "headers": {"Content-Type": "application/x-tar"}},
        "zip": {"content": zipped([("cell.png", draw(1))]), "headers": {"Content-Type": "application/zip"}},
        "lines": {"content": b"{}", "headers": {"Content-Type": "application/x-ndjson"}},
    }
    sent = bodies[body]
    headers = sent.pop("headers", {}) | {"Idempotency-Key": "slide-1/7"}
    answer = http.post(f"/specimens/{specimen}/cells{query}", headers=headers, **sent)
    problem = refused(answer, 422, "invalid-parameter")
    assert "Idempotency-Key" in problem.detail and "image/*" in problem.detail and "keys=names" in problem.detail
    assert http.get(f"/specimens/{specimen}").json()["cells"] == 0
    # Without the key, two different pictures with one file name are two cells.
    for seed in (1, 2):
        http.post(f"/specimens/{specimen}/cells", files={"images": ("cell.png", draw(seed))}).raise_for_status()
    assert http.get(f"/specimens/{specimen}").json()["cells"] == 2


def test_names_are_keys_where_the_client_says_so(http: TestClient, draw: Draw) -> None:
    specimen = opened(http)
    body = tarred([("a.png", draw(1)), ("b.png", draw(2)), ("b.png", draw(3))])
    answer = http.post(
        f"/specimens/{specimen}/cells?keys=names", content=body, headers={"Content-Type": "application/x-tar"}
    ).json()
    assert (answer["added"], [item["name"] for item in answer["items"]]) == (2, ["a.png", "b.png", "b.png"])
    assert answer["items"][2]["problem"]["status"] == 409
    again = http.post(
        f"/specimens/{specimen}/cells?keys=names",
        content=tarred([("a.png", draw(1)), ("c.png", draw(4))]),
        headers={"Content-Type": "application/x-tar"},
    ).json()
    assert (again["added"], [item["cell"]["place"] for item in again["items"]]) == (1, [1, 3])


def test_readings_of_two_people_can_be_merged(http: TestClient, draw: Draw) -> None:
    specimen = opened(http)
    added(http, specimen, *map(draw, range(1, 5)))
    path = f"/specimens/{specimen}/readings"
    first = [{"place": place, "version": 1, "code": "BLA", "why": "nucleoli"} for place in (1, 2)]
    http.post(path, json={"readings": first}, headers={"X-Acting-User": "e.beispiel"})
    mine = [{"place": place, "version": 1, "code": "PMO", "why": "granules"} for place in (4, 3, 2, 1)]
    answer = http.post(path, json={"readings": mine})
    refused(answer, 409, "stale-revision")
    changed = answer.json()["cells"]
    assert [(cell["place"], cell["version"], cell["code"]) for cell in changed] == [(1, 2, "BLA"), (2, 2, "BLA")]
    assert all(cell["read_by"] == "e.beispiel" and cell["read_at"].endswith("Z") for cell in changed)
    revision = http.get(f"/specimens/{specimen}").json()["revision"]
    versions = {cell["place"]: cell["version"] for cell in changed}
    merged = [reading | {"version": versions.get(reading["place"], 1)} for reading in mine]
    answer = http.post(path, json={"readings": merged})
    assert answer.json()["revision"] == revision + 1, "many cells are one change"
    assert {cell["code"] for cell in answer.json()["cells"]} == {"PMO"}
    undone = [{"place": 1, "version": 3, "code": "BLA", "why": "undone"}]
    assert http.post(path, json={"readings": undone}).json()["cells"][0]["code"] == "BLA"


def test_a_picture_that_cannot_be_read_touches_no_other(http: TestClient, draw: Draw) -> None:
    specimen = opened(http)
    sent = added(http, specimen, draw(1), b"no picture", draw(2)[:80], draw(3))
    assert sent["added"] == 2
    assert [item.get("problem", {}).get("status") for item in sent["items"]] == [None, 415, 422, None]
    assert [item["cell"]["place"] for item in sent["items"] if "cell" in item] == [1, 2]


def test_what_is_not_there(http: TestClient, draw: Draw) -> None:
    specimen = opened(http)
    refused(http.get(f"/specimens/{NOWHERE}"), 404, "unknown-specimen")
    refused(http.get("/specimens/not-an-id"), 422, "invalid-parameter")
    refused(http.get(f"/specimens/{specimen}/cells/1"), 404, "unknown-specimen")
    refused(http.get(f"/specimens/{specimen}/cells/1/picture"), 404, "unknown-specimen")
    refused(http.get(f"/specimens/{specimen}/reports/1"), 404, "unknown-specimen")
    refused(http.get(f"/specimens/{NOWHERE}/audit"), 404, "unknown-specimen")
    refused(http.post(f"/specimens/{NOWHERE}/cells", files={"images": draw(1)}), 404, "unknown-specimen")


def test_what_does_not_go_together(http: TestClient, draw: Draw) -> None:
    specimen = opened(http)
    refused(http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}), 409, "number-taken")
    refused(http.post(f"/specimens/{specimen}/sign", json={"revision": 1}), 409, "not-reviewed")
    added(http, specimen, draw(1), draw(2))
    refused(http.post(f"/specimens/{specimen}/sign", json={"revision": 1}), 409, "stale-revision")
    change = {"place": 1, "version": 1, "code": "PMO"}
    refused(
        http.post(f"/specimens/{specimen}/readings", json={"readings": [change | {"version": 2}]}),
        409,
        "stale-revision",
    )
    wrong = change | {"code": "XYZ", "why": "a guess"}
    refused(http.post(f"/specimens/{specimen}/readings", json={"readings": [wrong]}), 422, "invalid-reading")
    http.post(f"/specimens/{specimen}/readings", json={"readings": [change | {"why": "granules"}]})
    assert (
        http.post(
            f"/specimens/{specimen}/sign", json={"revision": 3, "accept_unread": True, "accept_below_target": True}
        ).status_code
        == 200
    )
    refused(http.post(f"/specimens/{specimen}/sign", json={"revision": 4}), 409, "wrong-state")
    refused(http.post(f"/specimens/{specimen}/cells", files={"images": draw(3)}), 409, "wrong-state")
    refused(http.post(f"/specimens/{specimen}/cancel", json={"revision": 4, "reason": "no"}), 409, "wrong-state")


def test_what_is_known_of_a_specimen_is_changed_until_it_is_signed(http: TestClient) -> None:
    specimen = opened(http)
    wish = {"revision": 1, "megakaryocytes": 4, "target_cells": 300, "patient": PATIENT | {"sex": "F"}}
    changed = http.patch(f"/specimens/{specimen}", json=wish).json()
    assert (changed["megakaryocytes"], changed["target_cells"], changed["revision"]) == (4, 300, 2)
    assert changed["patient"]["sex"] == "F"
    ended = http.post(f"/specimens/{specimen}/cancel", json={"revision": 2, "reason": "clotted"}).json()
    assert ended["state"] == "cancelled"
    refused(http.patch(f"/specimens/{specimen}", json={"revision": 3, "megakaryocytes": 5}), 409, "wrong-state")


def test_pictures_are_kept_shown_and_forgotten(artefact: Path, lab: LisSettings, draw: Draw) -> None:
    kept = lab.model_copy(update={"fhir_url": "http://127.0.0.1:9/fhir", "fhir_pictures": True, "deliver": False})
    with client(artefact, lis=kept) as http:
        http.headers.update(WHO)
        specimen = opened(http)
        added(http, specimen, draw(1))
        shown = http.get(f"/specimens/{specimen}/cells/1/picture")
        assert (shown.content, shown.headers["content-type"]) == (draw(1), "image/png")
        assert shown.headers["x-content-type-options"] == "nosniff"
        overlay = http.get(f"/specimens/{specimen}/cells/1/picture?kind=overlay")
        assert overlay.content.startswith(b"\x89PNG") and overlay.content != draw(1)
        closed = opened(http, "BM-2")
        added(http, closed, draw(2))
        http.post(f"/specimens/{closed}/cancel", json={"revision": 2, "reason": "clotted"}).raise_for_status()
    assert isinstance(lab.pictures, Path)
    files = [path for path in lab.pictures.rglob("*") if path.is_file()]
    assert len(files) == 4
    long_ago = time.time() - 31 * 86_400
    for path in files:
        os.utime(path, (long_ago, long_ago))
    with client(artefact, lis=kept) as http:  # what is old goes at the start, and every hour
        for _ in range(1000):
            if sum(path.is_file() for path in lab.pictures.rglob("*")) == 2:
                break
            refused(http.get("/specimens/not-an-id"), 422, "invalid-parameter")
        refused(http.get(f"/specimens/{closed}/cells/1/picture"), 404, "unknown-specimen")
        assert http.get(f"/specimens/{closed}/cells/1").status_code == 200
        assert http.get(f"/specimens/{specimen}/cells/1/picture").status_code == 200  # its specimen is open


def test_pictures_are_kept_beside_the_file_unless_it_is_off(artefact: Path, lab: LisSettings, draw: Draw) -> None:
    assert isinstance(lab.pictures, Path)
    folder = lab.pictures.with_name("lab.db.pictures")
    for number, pictures, status in (("BM-1", "off", 404), ("BM-2", None, 200)):
        with client(artefact, lis=lab.model_copy(update={"pictures": pictures})) as http:
            http.headers.update(WHO)
            specimen = opened(http, number)
            added(http, specimen, draw(1))
            assert http.get(f"/specimens/{specimen}/cells/1/picture").status_code == status
            assert folder.exists() == (status == 200)
    assert not lab.pictures.exists()


def test_nothing_of_a_patient_reaches_the_log_or_the_metrics(
    http: TestClient, draw: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    specimen = opened(http, "SECRET-NUMBER")
    opened_again = http.post("/specimens", json={"number": "SECRET-NUMBER", "patient": PATIENT})
    refused(opened_again, 409, "number-taken")
    http.get("/specimens?number=SECRET-NUMBER")
    files = [("images", ("Canaryname.png", draw(1), "image/png")), ("images", ("Canaryname2.png", b"x", "image/png"))]
    http.post(f"/specimens/{specimen}/cells?keys=names", files=files)
    http.post(
        f"/specimens/{specimen}/sign",
        json={"revision": 2, "accept_unread": True, "accept_below_target": True, "comment": "Canaryname"},
    )
    # httpx speaks for the test's own client.
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    said = "\n".join(record.getMessage() for record in ours)
    assert not any(word in said for word in ("SECRET", "Canaryname", "1964-08-12", "Erika"))
    metrics = http.get("/metrics").text
    assert not any(word in metrics for word in ("SECRET", "Canaryname", specimen, "m.muster"))
    assert 'marrowlens_lis_specimens_total{action="sign"} 1.0' in metrics
