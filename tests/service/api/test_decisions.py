"""Decisions through the front door: on every route the same, for every picture of its own, and counted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from known import known_cells, red_cells
from pictures import encoded, noise, plain
from prometheus_client.parser import text_string_to_metric_families
from serving import client
from starlette.testclient import TestClient
from test_v2_routes import message

from model.contract import ArtefactError, read_manifest
from service.api.schemas import BatchItem, ClassifyAnswer
from service.config.settings import Settings, SettingsError, read_settings
from service.runtime.loader import load_session

NOT_CELLS = {
    "noise": encoded(noise(128, 128), "PNG"),
    "blank": encoded(plain("RGB", (240, 236, 240), (128, 128)), "PNG"),
    "black": encoded(plain("RGB", (0, 0, 0), (128, 128)), "PNG"),
    "red cells": red_cells(3),
}


@pytest.fixture(scope="module")
def http(trusted_artefact: Path) -> Iterator[TestClient]:
    with client(trusted_artefact) as started:
        yield started


def classified(http: TestClient, picture: bytes) -> dict[str, Any]:
    answer = http.post("/classify?maps=none", files={"image": picture})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def decided(answer: dict[str, Any]) -> dict[str, Any]:
    """The part of an answer that concerns the decision."""
    names = ("decision", "reasons", "novelty")
    return {name: answer[name] for name in names} | {"set": answer["prediction"]["set"]}


@pytest.mark.parametrize(
    "query",
    ["", "maps=none", "maps=attention,evidence", "maps=evidence&map_format=png&top_k=2", "map_format=overlay&top_k=99"],
)
def test_an_answer_is_written_as_its_document_would_be(http: TestClient, query: str) -> None:
    """Answers are written from their fields, without the document's validation."""
    for picture in (*known_cells(3, first_seed=50), red_cells(4)):
        body = http.post(f"/classify?{query}", files={"image": picture}).content
        assert ClassifyAnswer.model_validate_json(body, strict=True).json_bytes() == body
        item = http.post(f"/classify/batch?{query}", files=[("images", ("a.png", picture))]).json()["results"][0]
        document = BatchItem.model_validate_json(orjson.dumps(item), strict=True)
        assert orjson.loads(document.json_bytes()) == item


def test_known_cells_are_rarely_rejected_and_every_doubt_has_its_reason(http: TestClient) -> None:
    """The network has random weights: most sets hold several classes, so few cells are accepted."""
    answers = [classified(http, picture) for picture in known_cells(60, first_seed=1000)]
    decisions = [answer["decision"] for answer in answers]
    assert decisions.count("reject") < 9 and {"accept", "review"} <= set(decisions)
    for answer in answers:
        assert (answer["decision"] == "accept") == (answer["reasons"] == [])
        assert answer["prediction"]["set"][0] == answer["prediction"]["code"]
        assert 0 < answer["novelty"]["p_value"] <= 1 and answer["novelty"]["score"] >= 0
        for reason in answer["reasons"]:
            assert set(reason) == {"code", "detail"} and reason["detail"]


@pytest.mark.parametrize("kind", NOT_CELLS)
def test_a_picture_without_a_cell_is_rejected(http: TestClient, kind: str) -> None:
    answer = classified(http, NOT_CELLS[kind])
    assert answer["decision"] == "reject"
    assert {reason["code"] for reason in answer["reasons"]} & {"not_a_cell", "novel"}


def test_every_route_gives_the_same_decision(http: TestClient) -> None:
    pictures = [*known_cells(6, first_seed=500), *NOT_CELLS.values()]
    single = [decided(classified(http, picture)) for picture in pictures]
    files = [("images", (f"{at}.png", picture)) for at, picture in enumerate(pictures)]
    batch = http.post("/classify/batch?maps=none", files=files).json()
    decisions = [one["decision"] for one in single]
    counts = {each: decisions.count(each) for each in ("accept", "review", "reject")}
    assert batch["decisions"] == counts
    lines = http.post("/classify/batch?maps=none", files=files, headers={"Accept": "application/x-ndjson"}).text
    streamed = [orjson.loads(line)["result"] for line in lines.splitlines()[:-1]]
    for found in (*(item["result"] for item in batch["results"]), *streamed):
        expected = single.pop(0)
        single.append(expected)
        same = decided(found)
        assert same["novelty"] == pytest.approx(expected["novelty"], rel=1e-3)
        assert same | {"novelty": 0} == expected | {"novelty": 0}


def test_the_protocol_has_the_decision_as_outputs(http: TestClient, trusted_artefact: Path) -> None:
    pictures = [*known_cells(4, first_seed=700), NOT_CELLS["blank"]]
    expected = [classified(http, picture) for picture in pictures]
    metadata = http.get("/v2/models/micro").json()["outputs"]
    shapes = {output["name"]: output["shape"] for output in metadata}
    assert (shapes["decision"], shapes["prediction_set"], shapes["novelty"]) == ([-1, 1], [-1, 21], [-1, 2])
    answer = http.post("/v2/models/micro/infer", json=message(pictures)).json()
    found = {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in answer["outputs"]}
    codes = read_manifest(trusted_artefact.with_suffix(".json")).codes
    for at, one in enumerate(expected):
        assert ["accept", "review", "reject"][int(found["decision"][at, 0])] == one["decision"]
        in_set = {codes[place] for place in np.flatnonzero(found["prediction_set"][at])}
        assert in_set == set(one["prediction"]["set"])
        np.testing.assert_allclose(found["novelty"][at], list(one["novelty"].values()), rtol=1e-3)


def test_a_model_without_a_trust_reference_answers_as_before(artefact: Path) -> None:
    with client(artefact) as http:
        answer = classified(http, NOT_CELLS["blank"])
        assert not {"decision", "reasons", "novelty"} & set(answer) and "set" not in answer["prediction"]
        assert "decision" not in {output["name"] for output in http.get("/v2/models/micro").json()["outputs"]}
        assert "trust" not in http.get("/model").json()
        asked = message([NOT_CELLS["blank"]], outputs=[{"name": "decision"}])
        assert http.post("/v2/models/micro/infer", json=asked).status_code == 422


def test_decisions_are_counted(trusted_artefact: Path) -> None:
    with client(trusted_artefact) as http:
        expected = [classified(http, picture)["decision"] for picture in [*known_cells(8), *NOT_CELLS.values()]]
        counts = {each: expected.count(each) for each in ("accept", "review", "reject")}
        assert counted(http.get("/metrics")) == counts


def counted(page: httpx.Response) -> dict[str, float]:
    families = text_string_to_metric_families(page.text)
    samples = [sample for family in families for sample in family.samples]
    return {s.labels["decision"]: s.value for s in samples if s.name == "marrowlens_decisions_total"}


def test_a_laboratory_can_have_a_class_always_reviewed(http: TestClient, trusted_artefact: Path) -> None:
    accepted = next(
        (picture, answer["prediction"]["code"])
        for picture in known_cells(60, first_seed=1000)
        if (answer := classified(http, picture))["decision"] == "accept"
    )
    with client(trusted_artefact, review_classes=f"NIF, {accepted[1]}") as strict:
        answer = classified(strict, accepted[0])
    assert answer["decision"] == "review"
    assert [reason["code"] for reason in answer["reasons"]] == ["review_class"]


def test_an_unknown_class_to_review_is_refused_at_the_start(trusted_artefact: Path, artefact: Path) -> None:
    settings = Settings(artefact=trusted_artefact, review_classes="BLA,BLAST")
    with pytest.raises(ArtefactError, match="has no class BLAST, which MARROWLENS_REVIEW_CLASSES names"):
        load_session(settings)
    with pytest.raises(ArtefactError, match="has no trust reference, which MARROWLENS_REVIEW_CLASSES needs"):
        load_session(Settings(artefact=artefact, review_classes="BLA"))
    with pytest.raises(SettingsError, match="'BLA;PMO' is not a class code; separate codes by commas"):
        read_settings(review_classes="BLA;PMO")


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_batch_can_have_corrected_shares(http: TestClient, trusted_artefact: Path, accept: str) -> None:
    files = [("images", (f"{at}.png", picture)) for at, picture in enumerate(known_cells(30, first_seed=200))]

    def differential(query: str) -> dict[str, Any]:
        answer = http.post(f"/classify/batch?maps=none{query}", files=files, headers={"Accept": accept})
        found: dict[str, Any] = orjson.loads(answer.text.splitlines()[-1])["differential"]
        return found

    plain, corrected = differential(""), differential("&corrected=true")
    shares = corrected.pop("corrected")
    assert corrected == plain and "corrected" not in plain  # the counts stay as they are
    manifest = read_manifest(trusted_artefact.with_suffix(".json"))
    assert manifest.trust is not None
    countable = [each.code for each in manifest.classes if each.countable == "always"]
    assert [share["code"] for share in shares] == [code for code in countable if code in manifest.trust.confusion]
    assert sum(share["percent"] for share in shares) == pytest.approx(100)
    assert all(0 <= share["low"] <= share["percent"] <= share["high"] <= 100 for share in shares)


def test_without_a_trust_reference_nothing_is_corrected(artefact: Path) -> None:
    files = [("images", ("1.png", NOT_CELLS["blank"]))]
    with client(artefact) as http:
        answer = http.post("/classify/batch?maps=none&corrected=true", files=files)
    assert answer.status_code == 422 and "this model has no trust reference" in answer.json()["detail"]


def test_the_openapi_example_of_an_answer_has_a_decision(http: TestClient) -> None:
    schema = http.get("/openapi.json").json()["components"]["schemas"]
    assert {"decision", "reasons", "novelty"} <= schema["ClassifyAnswer"]["properties"].keys()
    assert not {"decision", "reasons", "novelty"} & set(schema["ClassifyAnswer"]["required"])
