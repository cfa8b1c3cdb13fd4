"""A model without attention maps and with inert parts: every route answers, and every answer names the inert parts."""

import json
import signal
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from graphs import mark_inert, write_artefact
from serving import Served, client, refused, served, zipped
from starlette.testclient import TestClient

from model.contract import inert_note, read_manifest
from model.image import decode
from service.api.schemas import ClassifyAnswer, ModelDescription
from service.runtime.session import open_session

Draw = Callable[..., bytes]
INERT = ["MLKA", "cross-scale attention"]
FOUR = ("probabilities", "logits", "evidence", "embedding")
INFER = "/v2/models/micro/infer"
NDJSON = "application/x-ndjson"
ADVICE = "query parameter maps: this model has no attention maps; send maps=evidence or maps=none"


@pytest.fixture(scope="module")
def service(inert_artefact: Path) -> Iterator[Served]:
    """`marrowlens serve` in another process."""
    with served(inert_artefact) as started:
        started.wait_listening()
        yield started


@pytest.fixture(scope="module")
def http(service: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as started:
        yield started


def classify(http: httpx.Client, picture: bytes, query: str = "", **headers: str) -> Any:
    return http.post(f"/classify{query}", content=picture, headers={"content-type": "image/png", **headers})


def line(picture: bytes) -> bytes:
    return json.dumps({"image": b64encode(picture).decode()}).encode() + b"\n"


def message(picture: bytes, **members: Any) -> dict[str, Any]:
    data = [b64encode(picture).decode()]
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": "base64"}, "data": data}
    return {"inputs": [image], **members}


@pytest.mark.parametrize("headers", [{}, {"x-request-timeout-ms": "60000"}])
def test_an_answer_has_no_attention_and_names_the_inert_parts(
    http: httpx.Client, draw: Draw, inert_artefact: Path, headers: dict[str, str]
) -> None:
    found = classify(http, draw(1), **headers).json()
    assert list(found) == ["request_id", "model", "prediction", "top", "probabilities"]
    assert found["model"]["inert"] == INERT
    ClassifyAnswer.model_validate(found)
    expected = open_session(inert_artefact).run(decode(draw(1), 64)[None])
    assert expected.attention is None
    np.testing.assert_allclose(list(found["probabilities"].values()), expected.probabilities[0], atol=1e-6)


@pytest.mark.parametrize("map_format", ["grid", "png", "overlay"])
def test_evidence_is_there_in_every_format(http: httpx.Client, draw: Draw, map_format: str) -> None:
    found = classify(http, draw(2), f"?maps=evidence&map_format={map_format}&top_k=3").json()
    assert "attention" not in found
    assert [entry["code"] for entry in found["evidence"]] == [entry["code"] for entry in found["top"]]
    assert all(("values" in entry) == (map_format == "grid") for entry in found["evidence"])


@pytest.mark.parametrize("headers", [{}, {"x-request-timeout-ms": "60000"}])
@pytest.mark.parametrize("query", ["?maps=attention", "?maps=evidence,attention", "?maps=attention&map_format=overlay"])
@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
def test_attention_on_request_is_422(
    http: httpx.Client, draw: Draw, path: str, query: str, headers: dict[str, str]
) -> None:
    name = "image" if path == "/classify" else "images"
    answer = http.post(f"{path}{query}", files={name: draw(3)}, headers=headers)
    assert refused(answer, 422, "invalid-parameter").detail == ADVICE


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
def test_a_batch_has_no_attention_and_names_the_inert_parts(http: httpx.Client, draw: Draw, accept: str) -> None:
    pictures = zipped([(f"{n}.png", draw(n)) for n in range(5)])
    answer = http.post(
        "/classify/batch?maps=none", content=pictures, headers={"content-type": "application/zip", "accept": accept}
    )
    default = http.post(
        "/classify/batch", content=pictures, headers={"content-type": "application/zip", "accept": accept}
    )
    for found in (answer, default):
        documents = [json.loads(each) for each in found.text.splitlines()]
        summary = documents[-1]
        items = summary["results"] if accept != NDJSON else documents[:-1]
        assert summary["model"]["inert"] == INERT
        assert [set(item["result"]) for item in items] == [{"prediction", "top", "probabilities"}] * 5


def test_ndjson_that_is_answered_while_it_arrives_has_no_attention(http: httpx.Client, draw: Draw) -> None:
    body = b"".join(line(draw(n)) for n in range(3))
    answer = http.post("/classify/batch", content=body, headers={"content-type": NDJSON})
    *items, summary = map(json.loads, answer.text.splitlines())
    assert ["attention" in item["result"] for item in items] == [False] * 3
    assert summary["model"]["inert"] == INERT
    asked = http.post("/classify/batch?maps=attention", content=body, headers={"content-type": NDJSON})
    assert refused(asked, 422, "invalid-parameter").detail == ADVICE


def test_the_model_describes_itself(http: httpx.Client, inert_artefact: Path) -> None:
    manifest = read_manifest(inert_artefact.with_suffix(".json"))
    found = http.get("/model").json()
    assert found["attention_scales"] == []
    assert list(found["outputs"]) == list(FOUR)
    assert (found["inert"], [entry["part"] for entry in found["lesions"]]) == (INERT, INERT)
    assert "attention" not in found["probes"]
    described = ModelDescription.model_validate(found).model_dump(
        exclude={"notice", "provider", "computed_in", "manifest_sha256"}
    )
    assert described == manifest.model_dump()
    assert http.get("/classes").json()["model"]["inert"] == INERT


def test_the_inference_protocol_has_four_outputs(http: httpx.Client, draw: Draw) -> None:
    model = http.get("/v2/models/micro").json()
    assert [output["name"] for output in model["outputs"]] == list(FOUR)
    assert model["parameters"]["inert"] == "MLKA,cross-scale attention"
    answer = http.post(INFER, json=message(draw(4))).json()
    assert [output["name"] for output in answer["outputs"]] == list(FOUR)
    assert answer["parameters"]["inert"] == "MLKA,cross-scale attention"


def test_the_inference_protocol_says_what_to_request_instead(http: httpx.Client, draw: Draw) -> None:
    asked = http.post(INFER, json=message(draw(5), outputs=[{"name": "attention"}]))
    assert refused(asked, 422, "invalid-tensor").detail == "this model has no attention maps; request evidence"
    unknown = http.post(INFER, json=message(draw(5), outputs=[{"name": "heat"}]))
    assert (
        "the outputs are probabilities, logits, evidence, embedding" in refused(unknown, 422, "invalid-tensor").detail
    )


def test_the_start_of_the_service_names_the_inert_parts(service: Served) -> None:
    service.wait_said(inert_note(INERT))
    assert inert_note(INERT) in service.lines  # a line of its own


def test_a_reload_changes_between_models_with_and_without_attention(tmp_path: Path, draw: Draw) -> None:
    artefact = write_artefact(tmp_path)
    with served(artefact) as service:
        service.wait_listening()
        with httpx.Client(base_url=service.url, timeout=60) as http:
            before = classify(http, draw(6)).json()
            mark_inert(write_artefact(tmp_path, attention=False, version="0.0.2"), *INERT)
            service.process.send_signal(signal.SIGHUP)
            service.wait_said("Now serving micro 0.0.2")
            after = classify(http, draw(6)).json()
        assert not [line for line in service.lines if line.startswith(inert_note([]))]
    assert ("attention" in before, "inert" in before["model"]) == (True, False)
    assert ("attention" in after, "inert" in after["model"]) == (False, True)
    assert after["probabilities"] == before["probabilities"]


def test_a_model_with_attention_answers_without_the_new_members(artefact: Path, draw: Draw) -> None:
    with client(artefact) as http:
        assert "inert" not in _texts(http, draw)
        assert "lesions" not in _texts(http, draw)


def _texts(http: TestClient, draw: Draw) -> str:
    answers = [http.get(path) for path in ("/model", "/classes", "/v2/models/micro")]
    answers += [http.post("/classify", files={"image": draw(7)}), http.post(INFER, json=message(draw(7)))]
    answers.append(http.post("/classify/batch", files={"images": draw(7)}))
    assert {answer.status_code for answer in answers} == {200}
    return "".join(answer.text for answer in answers)
