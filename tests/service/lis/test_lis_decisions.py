"""Cells that the model does not accept wait for a person."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from known import known_cells, red_cells
from serving import client
from starlette.testclient import TestClient

from service.config.lis import LisSettings

WHO = {"X-Acting-User": "m.muster"}


@pytest.fixture
def http(trusted_artefact: Path, database_url: str) -> Iterator[TestClient]:
    # Without a threshold of the probability, only the decision sends cells to review.
    with client(trusted_artefact, lis=LisSettings(database=database_url, review_below=0)) as started:
        started.headers.update(WHO)
        yield started


def _specimen(http: TestClient) -> str:
    answer = http.post("/specimens", json={"number": "BM-1", "patient": {"identifier": "P-1", "family": "Muster"}})
    return str(answer.json()["id"])


def _added(http: TestClient, specimen: str) -> list[dict[str, Any]]:
    pictures = [*known_cells(24, first_seed=1000), *map(red_cells, range(4))]
    files = [("images", (f"{at}.png", picture)) for at, picture in enumerate(pictures)]
    return [item["cell"] for item in http.post(f"/specimens/{specimen}/cells", files=files).json()["items"]]


def test_cells_that_are_not_accepted_wait_and_the_others_do_not(http: TestClient) -> None:
    specimen = _specimen(http)
    cells = _added(http, specimen)
    unsupported = set(http.get("/model").json()["unsupported"])
    assert {cell["decision"] for cell in cells} == {"accept", "review", "reject"}
    for cell in cells:
        assert cell["waits"] == (cell["decision"] != "accept" or cell["code"] in unsupported)
        assert bool(cell["reasons"]) == (cell["decision"] != "accept")
        assert cell["prediction_set"][0] == cell["suggested"]
    waiting = http.get(f"/specimens/{specimen}/cells?only=waiting").json()["cells"]
    assert [cell["place"] for cell in waiting] == [cell["place"] for cell in cells if cell["waits"]]
    assert http.get(f"/specimens/{specimen}").json()["differential"]["waiting_review"] == len(waiting)


def test_a_rejected_cell_waits_until_a_person_has_read_it(http: TestClient) -> None:
    specimen = _specimen(http)
    rejected = next(cell for cell in _added(http, specimen) if cell["decision"] == "reject")
    reading = {"place": rejected["place"], "version": rejected["version"], "code": "ART", "why": "no cell"}
    revision = http.get(f"/specimens/{specimen}").json()["revision"]
    unread = http.post(f"/specimens/{specimen}/sign", json={"revision": revision})
    assert unread.status_code == 409 and "not-reviewed" in unread.json()["type"]
    [read] = http.post(f"/specimens/{specimen}/readings", json={"readings": [reading]}).json()["cells"]
    assert (read["waits"], read["decision"], read["code"]) == (False, "reject", "ART")
