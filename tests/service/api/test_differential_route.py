"""`POST /classify/differential`: the count of a batch, from its classes."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import client, refused
from starlette.testclient import TestClient

Draw = Callable[..., bytes]
PATH = "/classify/differential"


@pytest.fixture(scope="module")
def http(trusted_artefact: Path) -> Iterator[TestClient]:
    with client(trusted_artefact) as started:
        yield started


@pytest.mark.parametrize("corrected", [False, True])
def test_it_is_the_count_of_the_batch(http: TestClient, draw: Draw, corrected: bool) -> None:
    files = [("images", (f"{at}.png", draw(at))) for at in range(12)] + [("images", ("broken.png", b"no picture"))]
    query = f"?maps=none&corrected={str(corrected).lower()}"
    batch = http.post(f"/classify/batch{query}", files=files).json()
    codes = Counter(each["result"]["prediction"]["code"] for each in batch["results"] if "result" in each)
    answer = http.post(PATH, json={"counts": codes, "problems": 1, "corrected": corrected})
    assert answer.status_code == 200, answer.text
    assert answer.json() == batch["differential"]


def test_no_cells_are_counted_as_none(http: TestClient) -> None:
    found = http.post(PATH, json={"counts": {}}).json()
    assert found["counted"] == 0 and found["problems"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {"counts": {"XYZ": 1}},
        {"counts": {"PMO": -1}},
        {"counts": {"PMO": 1.5}},
        {"counts": {"PMO": 10**12}},
        {"counts": {"PMO": 1}, "unknown": 1},
        {},
    ],
)
def test_what_cannot_be_counted_is_refused(http: TestClient, body: dict[str, object]) -> None:
    refused(http.post(PATH, json=body), 422, "invalid-parameter")


def test_a_model_without_a_trust_reference_corrects_nothing(artefact: Path) -> None:
    with client(artefact) as http:
        answer = http.post(PATH, json={"counts": {"PMO": 1}, "corrected": True})
        assert answer.status_code == 422 and answer.json()["type"].startswith("urn:problem-type:marrowlens:")
