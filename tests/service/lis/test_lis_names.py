"""Names of persons and machines: stored unchanged, or refused with a reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Draw
from serving import client, refused, tarred
from starlette.testclient import TestClient

from service.config.lis import LisSettings

PATIENT = {"identifier": "100234"}


@pytest.fixture
def http(artefact: Path, database_url: str) -> Iterator[TestClient]:
    with client(artefact, lis=LisSettings(database=database_url)) as started:
        yield started


def opened(http: TestClient, by: bytes) -> str:
    wish = {"number": "BM-1", "patient": PATIENT}
    answer = http.post("/specimens", json=wish, headers={b"X-Acting-User": by})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("Dr. Jürgen Weiß".encode(), "Dr. Jürgen Weiß"),  # what curl and browsers send
        ("Dr. Jürgen Weiß".encode("latin-1"), "Dr. Jürgen Weiß"),  # what RFC 9110 once meant
        ("検査技師".encode(), "検査技師"),
    ],
)
def test_who_signs_is_named_as_he_writes_himself(http: TestClient, draw: Draw, sent: bytes, name: str) -> None:
    specimen = opened(http, sent)
    who = {b"X-Acting-User": sent}
    http.post(f"/specimens/{specimen}/cells", files={"images": draw(1)}, headers=who).raise_for_status()
    wish = {"revision": 2, "accept_unread": True, "accept_below_target": True}
    assert http.post(f"/specimens/{specimen}/sign", json=wish, headers=who).json()["signed_by"] == name
    assert {each["actor"] for each in http.get(f"/specimens/{specimen}/audit").json()["entries"]} == {name}


@pytest.mark.parametrize("sent", [b"", b"   ", b"a\x7fb", "\x85".encode(), b"x" * 201])
def test_a_name_that_is_none_is_refused(http: TestClient, sent: bytes) -> None:
    wish = {"number": "BM-1", "patient": PATIENT}
    answer = http.post("/specimens", json=wish, headers={b"X-Acting-User": sent})
    assert "X-Acting-User" in refused(answer, 422, "invalid-parameter").detail


def test_a_file_name_that_is_no_key_is_told_and_harms_no_other(http: TestClient, draw: Draw) -> None:
    specimen = opened(http, b"m.muster")
    body = tarred([("a.png", draw(1)), ("b" * 220 + ".png", draw(2)), ("c\nd.png", draw(3)), ("e.png", draw(4))])
    headers = {"X-Acting-User": "scanner", "Content-Type": "application/x-tar"}
    answer = http.post(f"/specimens/{specimen}/cells?keys=names", content=body, headers=headers).json()
    assert [item.get("problem", {}).get("status") for item in answer["items"]] == [None, 422, 422, None]
    assert answer["added"] == 2
    # Without keys a name is only repeated.
    again = http.post(f"/specimens/{specimen}/cells", content=body, headers=headers).json()
    assert again["added"] == 2
