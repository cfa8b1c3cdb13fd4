"""`POST /classify/batch` through the whole stack: one item for each picture, in order, even if others fail."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from graphs import edit_manifest, write_artefact
from serving import Named, client, refused, tarred, zipped
from starlette.testclient import TestClient

from model.agreement.proportion import wilson
from model.contract import CLASSES
from service.api.schemas import BatchAnswer, BatchItem, BatchSummary

Draw = Callable[..., bytes]
NDJSON = {"accept": "application/x-ndjson"}
COUNTED = {cell_class.code for cell_class in CLASSES if cell_class.countable == "always"}


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact, max_image_bytes=100_000, max_body_bytes=2_000_000, max_batch_images=120) as started:
        yield started


def form(members: Named) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (name, data)) for name, data in members]


def batch(http: TestClient, members: Named, query: str = "?maps=none") -> dict[str, Any]:
    answer = http.post(f"/classify/batch{query}", files=form(members))
    assert answer.status_code == 200, answer.text
    BatchAnswer.model_validate(answer.json())
    found: dict[str, Any] = answer.json()
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


@pytest.fixture(scope="module")
def mixed(draw: Draw) -> Named:
    """A hundred pictures, five of them broken in five ways."""
    members = [(f"cell-{at}.png", draw(at)) for at in range(100)]
    members[0] = ("cell-0.png", b"")
    members[17] = ("cell-17.png", b"GIF89a" + b"x" * 50)
    members[18] = ("cell-18.png", draw(18)[:-40])
    members[60] = ("cell-60.png", b"\0" * 100_001)
    members[99] = ("cell-99.zip", zipped([("inner.png", draw(1))]))
    return members


BROKEN = {0: 422, 17: 415, 18: 422, 60: 413, 99: 415}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("corrected=true&corrected=false", "corrected: given 2 times; only one value is possible"),
        ("corect=true", "corect: unknown; did you mean corrected?"),
        ("maps=none&maps=evidence&topk=1", "topk: unknown; did you mean top_k?"),
    ],
)
def test_a_query_of_which_a_part_would_be_ignored_is_refused(
    http: TestClient, draw: Draw, query: str, said: str
) -> None:
    answer = http.post(f"/classify/batch?{query}", files=[("images", ("a.png", draw(1), "image/png"))])
    assert said in refused(answer, 422, "invalid-parameter").detail


def test_a_hundred_pictures_with_five_broken_ones(http: TestClient, draw: Draw, mixed: Named) -> None:
    found = batch(http, mixed)
    assert [item["index"] for item in found["results"]] == list(range(100))
    assert [item["name"] for item in found["results"]] == [name for name, _ in mixed]
    assert {item["index"]: item["problem"]["status"] for item in found["results"] if "problem" in item} == BROKEN
    assert all(("result" in item) != ("problem" in item) for item in found["results"])
    assert (found["pictures"], found["problems"], found["differential"]["problems"]) == (100, 5, 5)
    for at in (1, 42, 98):
        alone = http.post("/classify?maps=none", files={"image": draw(at)}).json()
        result = found["results"][at]["result"]
        assert result["prediction"]["code"] == alone["prediction"]["code"]
        assert result["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_form_zip_and_tar_give_the_same_answer(http: TestClient, mixed: Named) -> None:
    expected = batch(http, mixed)
    for media_type, body in (("application/zip", zipped(mixed)), ("application/x-tar", tarred(mixed))):
        answer = http.post("/classify/batch?maps=none", content=body, headers={"content-type": media_type})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert [kind_and_code(item) for item in found["results"]] == [
            kind_and_code(item) for item in expected["results"]
        ]
        assert found["differential"] == expected["differential"]


def test_a_zip_in_a_form_is_told_how_it_is_sent(http: TestClient, mixed: Named) -> None:
    answer = http.post("/classify/batch", files=form([("cells.zip", zipped(mixed[:1]))]))
    (item,) = answer.json()["results"]
    assert item["problem"]["status"] == 415
    assert "as the body, with Content-Type: application/zip" in item["problem"]["detail"]


def kind_and_code(item: dict[str, Any]) -> tuple[int, str, object]:
    outcome = item["problem"]["type"] if "problem" in item else item["result"]["prediction"]["code"]
    return item["index"], item["name"], outcome


def test_a_stream_says_the_same_line_by_line(http: TestClient, mixed: Named) -> None:
    expected = batch(http, mixed)
    answer = http.post("/classify/batch?maps=none", files=form(mixed), headers=NDJSON)
    assert answer.headers["content-type"] == "application/x-ndjson"
    *items, last = [json.loads(line) for line in answer.text.splitlines()]
    assert [BatchItem.model_validate(item).index for item in items] == list(range(100))
    assert [kind_and_code(item) for item in items] == [kind_and_code(item) for item in expected["results"]]
    BatchSummary.model_validate(last)
    without_items = {key: value for key, value in expected.items() if key != "results"}
    assert last | {"request_id": ""} == without_items | {"request_id": ""}


def test_the_differential_counts_the_answers(http: TestClient, mixed: Named) -> None:
    found = batch(http, mixed)
    predicted = Counter(item["result"]["prediction"]["code"] for item in found["results"] if "result" in item)
    count = found["differential"]
    assert {entry["code"] for entry in count["classes"]} == COUNTED
    assert count["counted"] == sum(predicted[code] for code in COUNTED)
    for entry in count["classes"]:
        low, high = wilson(predicted[entry["code"]], count["counted"])
        assert entry["count"] == predicted[entry["code"]]
        assert entry["percent"] == pytest.approx(100 * entry["count"] / count["counted"])
        assert entry["supported"] == (entry["code"] not in count["unsupported"])
        if entry["supported"]:
            assert (entry["low"], entry["high"]) == pytest.approx((100 * low, 100 * high))
    assert {entry["code"]: entry["count"] for entry in count["excluded"]} == {
        cell_class.code: predicted[cell_class.code] for cell_class in CLASSES if cell_class.code not in COUNTED
    }


def test_cells_named_as_an_unsupported_class_are_told_apart(tmp_path: Path, draw: Draw) -> None:
    # The predictions are only known after a first run; then the most frequent class is made unsupported.
    artefact, members = write_artefact(tmp_path), [(str(at), draw(at)) for at in range(30)]
    with client(artefact) as http:
        before = batch(http, members)["differential"]
    commonest = max(before["classes"], key=lambda entry: entry["count"])["code"]
    edit_manifest(artefact, unsupported=["ABE", "ART", commonest])
    with client(artefact) as http:
        count = batch(http, members)["differential"]
    found = {entry["code"]: entry for entry in count["classes"]}
    assert found[commonest]["supported"] is False
    assert count["counted_unsupported"] == found[commonest]["count"] + found["ABE"]["count"] > 0
    assert sum(entry["percent"] for entry in count["classes"]) == pytest.approx(100)
    assert {code for code, entry in found.items() if "low" not in entry and "high" not in entry} == {"ABE", commonest}
    assert {entry["code"] for entry in count["excluded"] if not entry["supported"]} == {"ART"}


def test_other_cells_enter_the_denominator_by_setting(artefact: Path, draw: Draw) -> None:
    with client(artefact, count_other=True) as http:
        count = batch(http, [("1", draw(1))])["differential"]
    assert count["count_other"] is True
    assert "OTH" in {entry["code"] for entry in count["classes"]}


def test_a_batch_of_nothing_but_broken_pictures_is_still_an_answer(http: TestClient) -> None:
    found = batch(http, [("1", b"x"), ("2", b"y")])
    assert (found["pictures"], found["problems"], found["differential"]["counted"]) == (2, 2, 0)
    assert not any("percent" in entry for entry in found["differential"]["classes"])


def test_maps_come_with_every_item_when_asked_for(http: TestClient, draw: Draw) -> None:
    members = [("1", draw(1)), ("2", draw(2))]
    for query, key in (("?maps=evidence&top_k=2", "values"), ("?maps=evidence&top_k=2&map_format=overlay", "png")):
        for item in batch(http, members, query)["results"]:
            assert [key in entry for entry in item["result"]["evidence"]] == [True, True]
    assert all("attention" in item["result"] for item in batch(http, members, "")["results"])


@pytest.mark.parametrize(
    ("content", "media_type", "status", "name"),
    [
        (b"x", "application/zip", 422, "malformed-body"),
        (b"x", "application/x-tar", 422, "malformed-body"),
        (zipped([]), "application/zip", 422, "malformed-body"),
        (b"x", "application/json", 415, "unsupported-body"),
        (b"x" * 2_000_001, "application/zip", 413, "body-too-large"),
        (zipped([(str(at), b"") for at in range(121)]), "application/zip", 413, "too-many-pictures"),
    ],
)
@pytest.mark.parametrize("headers", [{}, NDJSON], ids=["json", "ndjson"])
def test_a_body_that_is_no_batch_is_refused_as_a_whole(
    http: TestClient, content: bytes, media_type: str, status: int, name: str, headers: dict[str, str]
) -> None:
    answer = http.post("/classify/batch", content=content, headers={"content-type": media_type, **headers})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith(f":{name}")


def test_an_answer_too_large_for_one_piece_says_how_to_get_it(artefact: Path, draw: Draw) -> None:
    members = [(str(at), draw(at)) for at in range(5)]
    with client(artefact, max_image_bytes=10_000, max_body_bytes=40_000) as http:
        whole = http.post("/classify/batch?maps=evidence&top_k=21&map_format=overlay", files=form(members))
        assert whole.status_code == 422 and whole.json()["type"].endswith(":answer-too-large")
        assert "x-ndjson" in whole.json()["detail"]
        stream = http.post(
            "/classify/batch?maps=evidence&top_k=21&map_format=overlay", files=form(members), headers=NDJSON
        )
        assert [("differential" in json.loads(line)) for line in stream.text.splitlines()] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/x-ndjson;q=0", "application/json"),
        ("application/x-ndjson;q=0.2, application/json", "application/json"),
        ("application/json;q=0, application/x-ndjson", "application/x-ndjson"),
        ("application/json;q=0, */*", "application/x-ndjson"),
        ("text/html, */*;q=0.1", "application/json"),
    ],
)
def test_accept_is_weighed(http: TestClient, draw: Draw, accept: str, media_type: str) -> None:
    answer = http.post("/classify/batch?maps=none", files=form([("1", draw(1))]), headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)


def test_accept_that_excludes_every_form_is_refused(http: TestClient, draw: Draw) -> None:
    answer = http.post("/classify/batch", files=form([("1", draw(1))]), headers={"accept": "*/*;q=0"})
    assert "application/json, application/x-ndjson" in refused(answer, 406, "not-acceptable").detail
    lines = {"content-type": "application/x-ndjson", "accept": "application/json, application/x-ndjson;q=0"}
    refused(http.post("/classify/batch", content=b"", headers=lines), 406, "not-acceptable")
    two = httpx.Headers([("accept", "application/json;q=0.5"), ("accept", "application/x-ndjson")])
    answer = http.post("/classify/batch", files=form([("1", draw(1))]), headers=two)
    assert answer.headers["content-type"] == "application/x-ndjson"


def test_file_names_are_echoed_but_logged_nowhere(
    http: TestClient, draw: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="service")
    name = "Müller, Jörg 1.4.1950 <b>.png"
    for members in ([(name, draw(1))], [(name, b"broken")]):
        body = zipped(members)
        found = http.post("/classify/batch?maps=none", content=body, headers={"content-type": "application/zip"}).json()
        assert found["results"][0]["name"] == name
    assert "ller" not in caplog.text
    assert "ller" not in http.get("/metrics").text


def test_every_picture_s_memory_is_given_back(http: TestClient, mixed: Named) -> None:
    batch(http, mixed)
    http.post("/classify/batch?maps=none", files=form(mixed), headers=NDJSON)
    http.post("/classify/batch", content=b"x", headers={"content-type": "application/zip"})
    assert http.app.state.app_state.upload_memory.in_use_bytes == 0  # type: ignore[attr-defined]
