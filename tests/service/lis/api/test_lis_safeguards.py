"""Safeguards at the routes: pictures of two patients, removed cells, few cells, filters, unknown parameters, pages."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Draw
from serving import client, refused
from starlette.testclient import TestClient

from service.config.lis import LisSettings

WHO = {"X-Acting-User": "m.muster"}


@pytest.fixture
def http(artefact: Path, tmp_path: Path) -> Iterator[TestClient]:
    lab = LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}", target_cells=3)
    with client(artefact, lis=lab) as started:
        started.headers.update(WHO)
        yield started


def opened(http: TestClient, number: str, patient: str, **more: object) -> str:
    body = {"number": number, "patient": {"identifier": patient, **more}}
    made = http.post("/specimens", json=body)
    assert made.status_code == 201, made.text
    specimen: str = made.json()["id"]
    assert made.headers["Location"] == f"/specimens/{specimen}"
    return specimen


def test_the_location_of_a_specimen_is_below_the_root_path(artefact: Path, tmp_path: Path) -> None:
    lab = LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}")
    with client(artefact, lis=lab, root_path="/marrow") as http:
        made = http.post("/specimens", json={"number": "BM-1", "patient": {"identifier": "1"}}, headers=WHO)
        assert made.headers["Location"] == f"/marrow/specimens/{made.json()['id']}"


def add(http: TestClient, specimen: str, *pictures: bytes) -> list[dict[str, Any]]:
    files = [("images", (f"{n}.png", picture)) for n, picture in enumerate(pictures)]
    answer = http.post(f"/specimens/{specimen}/cells", files=files)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_a_picture_of_two_patients_is_reported(http: TestClient, draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
    first, same, other = opened(http, "BM-1", "1"), opened(http, "BM-2", "1"), opened(http, "BM-3", "3")
    with caplog.at_level(logging.WARNING):
        assert [each.get("warning") for each in add(http, first, draw(1), draw(2))] == [None, None]
        assert [each.get("warning") for each in add(http, same, draw(1))] == [None]
        assert not caplog.records
        warned, silent = add(http, other, draw(1), draw(3))
        assert [each.get("warning") for each in add(http, other, draw(1))] == [warned["warning"]]  # again, if repeated
    assert first in str(warned["warning"]) and same in str(warned["warning"])
    assert "cell" in warned and "warning" not in silent
    assert [each.getMessage().partition(":")[0] for each in caplog.records] == [f"specimen {other}"] * 2
    for specimen in (first, same):
        place = 1
        revision = http.get(f"/specimens/{specimen}").json()["revision"]
        remove(http, specimen, place, revision)
    assert "warning" not in add(http, other, draw(1))[0]


def remove(http: TestClient, specimen: str, place: int, revision: int) -> dict[str, Any]:
    body = {"revision": revision, "reason": "another patient's"}
    answer = http.request("DELETE", f"/specimens/{specimen}/cells/{place}", json=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_a_removed_cell_is_not_counted_and_does_not_come_back(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, "BM-1", "1")
    add(http, specimen, draw(1), draw(2), draw(3))
    path = f"/specimens/{specimen}/cells/2"
    refused(http.request("DELETE", path, json={"revision": 1, "reason": "late"}), 409, "stale-revision")
    refused(http.request("DELETE", path, json={"revision": 2}), 422, "invalid-parameter")
    after = remove(http, specimen, 2, 2)
    assert (after["cells"], after["revision"], after["differential"]["cells"]) == (2, 3, 2)
    assert [each["place"] for each in http.get(f"/specimens/{specimen}/cells").json()["cells"]] == [1, 3]
    refused(http.get(path), 404, "unknown-specimen")
    refused(http.request("DELETE", path, json={"revision": 3, "reason": "again"}), 404, "unknown-specimen")
    [again] = add(http, specimen, draw(2))
    assert "was removed" in str(again["problem"])
    [next_one] = add(http, specimen, draw(4))
    assert next_one["cell"]["place"] == 4
    trail = http.get(f"/specimens/{specimen}/audit").json()["entries"]
    [removal] = [each for each in trail if each["action"] == "remove"]
    assert (removal["actor"], removal["details"]["reason"]) == ("m.muster", "another patient's")
    body = {"revision": 4, "accept_unread": True, "accept_below_target": True}
    assert http.post(f"/specimens/{specimen}/sign", json=body).status_code == 200
    refused(http.request("DELETE", path, json={"revision": 5, "reason": "late"}), 409, "wrong-state")


def test_fewer_cells_than_the_target_are_signed_knowingly(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, "BM-1", "1")
    add(http, specimen, draw(1), draw(2))
    counted = http.get(f"/specimens/{specimen}").json()["differential"]["counted"]
    body = {"revision": 2, "accept_unread": True}
    said = refused(http.post(f"/specimens/{specimen}/sign", json=body), 409, "not-reviewed")
    assert f"{counted} of 3 cells are counted" in str(said) and "accept_below_target" in str(said)
    signed = http.post(f"/specimens/{specimen}/sign", json=body | {"accept_below_target": True})
    assert signed.json()["signed_below_target"] is True
    whole = opened(http, "BM-2", "2")
    add(http, whole, draw(1), draw(2))
    change = {"revision": 2, "target_cells": counted}
    http.patch(f"/specimens/{whole}", json=change).raise_for_status()
    document = http.post(f"/specimens/{whole}/sign", json=body | {"revision": 3}).json()
    assert document["status"] == "final" and "signed_below_target" not in document


def test_specimens_of_one_patient(http: TestClient) -> None:
    numbers = [{"number": "1", "namespace": "HOSPITAL"}, {"number": "77", "namespace": "OTHER"}]
    first = opened(http, "BM-1", "1", authority="HOSPITAL", numbers=numbers)
    second, third = opened(http, "BM-2", "1"), opened(http, "BM-3", "3")

    def found(**query: object) -> list[str]:
        return [each["id"] for each in http.get("/specimens", params=query).json()["specimens"]]

    assert found(patient="1") == [second, first]
    assert (found(patient="77"), found(patient="2")) == ([first], [])
    http.patch(f"/specimens/{third}", json={"revision": 1, "patient": {"identifier": "77"}}).raise_for_status()
    assert (found(patient="77"), found(patient="3")) == ([third, first], [])
    assert found(patient="77", state="signed") == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/specimens?pateint=1", "pateint: unknown; did you mean patient?"),
        ("/specimens?state=open&xyz=1", "known: before, limit, merged, number, patient, state"),
        ("/specimens/{}?verbose=1", "known: none"),
        ("/specimens/{}/cells?onyl=waiting", "did you mean only?"),
        ("/specimens/{}/cells/1/picture?Kind=overlay", "did you mean kind?"),
        ("/specimens/{}/audit?limits=3", "did you mean limit?"),
        ("/worklist?stat=open", "did you mean state?"),
        ("/readings?reader=m.muster", "known: none"),
        ("/readings/agreement?reader=m.muster", "known: none"),
    ],
)
def test_an_unknown_parameter_is_refused(http: TestClient, path: str, said: str) -> None:
    problem = refused(http.get(path.format(opened(http, "BM-1", "1"))), 422, "invalid-parameter")
    assert said in str(problem)


@pytest.mark.parametrize(
    "path", ["/specimens?number=1&number=2", "/worklist?number=a&number=b", "/specimens/{}/audit?limit=1&limit=9"]
)
def test_a_single_value_that_is_given_twice_is_refused(http: TestClient, path: str) -> None:
    problem = refused(http.get(path.format(opened(http, "BM-1", "1"))), 422, "invalid-parameter")
    assert "given 2 times; only one value is possible" in str(problem)
    assert http.get("/worklist?state=open&state=signed").status_code == 200  # a list


def test_an_unknown_parameter_of_a_change_changes_nothing(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, "BM-1", "1")
    answer = http.post(f"/specimens/{specimen}/cells?key=names", files={"images": draw(1)})
    assert "did you mean keys?" in str(refused(answer, 422, "invalid-parameter"))
    assert http.get(f"/specimens/{specimen}").json()["cells"] == 0


def test_the_trail_in_pages_is_the_trail(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, "BM-1", "1")
    for n in range(4):
        add(http, specimen, draw(n))
    whole = http.get(f"/specimens/{specimen}/audit")
    pages = followed(http, f"/specimens/{specimen}/audit?limit=2")
    assert [len(page["entries"]) for page in pages] == [2, 2, 1]
    assert [entry for page in pages for entry in page["entries"]] == whole.json()["entries"]
    assert (whole.json()["next"], whole.links) == (None, {})


def followed(http: TestClient, path: str) -> list[dict[str, Any]]:
    """All pages of a list, by their `Link` headers, whose addresses are those of `next`."""
    answer = http.get(path)
    pages = [answer.json()]
    while answer.links:
        link = answer.links["next"]["url"]
        cursor = parse_qs(urlsplit(link).query)
        assert [value for name in ("after", "before") for value in cursor.get(name, [])] == [str(pages[-1]["next"])]
        answer = http.get(link)
        pages.append(answer.json())
    assert pages[-1].get("next") is None
    return pages


def test_every_list_links_its_next_page_with_the_same_filters(http: TestClient, draw: Draw) -> None:
    specimens = [opened(http, f"BM/{n}&x=1", "100") for n in range(5)]
    opened(http, "BM-other", "200")
    add(http, specimens[0], *map(draw, range(3)))
    found = followed(http, "/specimens?patient=100&limit=2&before=4611686018427387904")
    assert [each["id"] for page in found for each in page["specimens"]] == specimens[::-1]
    found = followed(http, "/worklist?state=open&state=signed&limit=4")
    assert [len(page["specimens"]) for page in found] == [4, 2]
    assert [len(page["specimens"]) for page in followed(http, "/specimens?number=BM%2F0%26x%3D1&limit=1")] == [1]
    found = followed(http, f"/specimens/{specimens[0]}/cells?only=unread&limit=1")
    assert [each["place"] for page in found for each in page["cells"]] == [1, 2, 3]


def test_a_link_is_below_the_root_path(artefact: Path, tmp_path: Path) -> None:
    lab = LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}")
    with client(artefact, lis=lab, root_path="/marrow") as http:
        http.headers.update(WHO)
        for number in range(2):
            http.post("/specimens", json={"number": f"BM-{number}", "patient": {"identifier": "1"}}).raise_for_status()
        link = http.get("/specimens?limit=1").links["next"]["url"]
        assert link.startswith("/marrow/specimens?limit=1&before=")
