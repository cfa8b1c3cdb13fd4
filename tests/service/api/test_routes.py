"""`POST /classify` and the GET routes through the whole stack: shapes, documented numeric properties, problems."""

from base64 import b64decode
from collections.abc import Callable, Iterator
from io import BytesIO
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import write_artefact
from numpy.typing import NDArray
from PIL import Image
from serving import client
from starlette.testclient import TestClient

from model.contract import CLASSES, CellClass, Manifest, read_manifest
from model.image import decode
from service.api.openapi import document
from service.api.schemas import ClassifyAnswer, ModelDescription
from service.runtime.session import Outputs, open_session

Draw = Callable[..., bytes]
PNG = {"content-type": "image/png"}
SCALES = ("3-5-1", "5-7-1", "7-9-1")


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact, max_image_bytes=100_000, max_body_bytes=200_000, max_pixels=250_000) as started:
        yield started


@pytest.fixture(scope="module")
def manifest(artefact: Path) -> Manifest:
    return read_manifest(artefact.with_suffix(".json"))


def classify(http: TestClient, picture: bytes, query: str = "") -> dict[str, Any]:
    answer = http.post(f"/classify{query}", content=picture, headers=PNG)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert ClassifyAnswer.model_validate(found).model_dump(mode="json", exclude_none=True).keys() == found.keys()
    return found


# One picture, one answer


def test_an_answer_has_the_documented_shape(http: TestClient, draw: Draw, manifest: Manifest) -> None:
    found = classify(http, draw(1))
    assert list(found) == ["request_id", "model", "prediction", "top", "probabilities", "attention"]
    assert found["model"] == {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": manifest.sha256,
        "manifest_sha256": manifest.digest,
        "unsupported": list(manifest.unsupported),
    }
    assert list(found["probabilities"]) == list(manifest.codes)
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert [scale["kernel"] for scale in found["attention"]["scales"]] == list(SCALES)


def test_the_prediction_is_the_most_probable_class(http: TestClient, draw: Draw, manifest: Manifest) -> None:
    found = classify(http, draw(2), "?top_k=3")
    ranked = sorted(found["probabilities"].items(), key=lambda item: -item[1])
    assert [(entry["code"], entry["probability"]) for entry in found["top"]] == ranked[:3]
    code, probability = ranked[0]
    names = {cell_class.code: cell_class.name for cell_class in manifest.classes}
    expected = {"code": code, "name": names[code], "probability": probability}
    assert found["prediction"] == expected | {"supported": code not in manifest.unsupported}


def test_form_and_raw_body_give_the_same_answer(http: TestClient, draw: Draw) -> None:
    raw = classify(http, draw(3), "?maps=attention,evidence")
    form = http.post("/classify?maps=attention&maps=evidence", files={"image": ("cell.png", draw(3))}).json()
    assert {**raw, "request_id": ""} == {**form, "request_id": ""}


def test_answers_are_the_session_s_own_numbers(http: TestClient, draw: Draw, artefact: Path) -> None:
    found = classify(http, draw(4), "?maps=attention,evidence&top_k=21")
    outputs = open_session(artefact).run(decode(draw(4), 64)[None])
    np.testing.assert_allclose(list(found["probabilities"].values()), outputs.probabilities[0], atol=1e-6)
    scales = [scale["values"] for scale in found["attention"]["scales"]]
    np.testing.assert_allclose(scales, outputs.attention[0], atol=1e-6)


def test_the_sum_rule_and_the_softmax_can_be_checked_from_the_answer(
    http: TestClient, draw: Draw, manifest: Manifest
) -> None:
    found = classify(http, draw(5), "?maps=evidence&top_k=21")
    assert len(found["evidence"]) == 21
    for entry in found["evidence"]:
        values = np.array(entry["values"])
        assert values.shape == (entry["height"], entry["width"])
        assert values.mean() + entry["bias"] == pytest.approx(entry["logit"], abs=1e-3)
    scaled = {entry["code"]: exp(entry["logit"] / manifest.temperature) for entry in found["evidence"]}
    for code, probability in found["probabilities"].items():
        assert scaled[code] / sum(scaled.values()) == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize(
    ("query", "present"),
    [
        ("", {"attention"}),
        ("?maps=none", set()),
        ("?maps=evidence", {"evidence"}),
        ("?maps=evidence,attention", {"attention", "evidence"}),
        ("?maps=attention&maps=attention", {"attention"}),
        ("?maps=none&maps=evidence", {"evidence"}),
    ],
)
def test_maps_are_there_when_asked_for(http: TestClient, draw: Draw, query: str, present: set[str]) -> None:
    assert {"attention", "evidence"} & set(classify(http, draw(6), query)) == present


def pixels(png: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(b64decode(png, validate=True))))


@pytest.mark.parametrize("map_format", ["png", "overlay"])
def test_maps_come_as_pictures(http: TestClient, draw: Draw, map_format: str) -> None:
    found = classify(http, draw(7), f"?maps=attention,evidence&map_format={map_format}&top_k=2")
    height, width = found["attention"]["height"], found["attention"]["width"]
    expected = (height, width) if map_format == "png" else (64, 64, 3)
    drawn = [*found["attention"]["scales"], *found["evidence"]]
    assert len(drawn) == 5
    assert [pixels(entry["png"]).shape for entry in drawn] == [expected] * 5
    assert not any("values" in entry for entry in drawn)


def test_grey_maps_and_numbers_say_the_same(http: TestClient, draw: Draw) -> None:
    numbers = classify(http, draw(8), "?maps=evidence&top_k=4")["evidence"]
    drawn = classify(http, draw(8), "?maps=evidence&top_k=4&map_format=png")["evidence"]
    for number, entry in zip(numbers, drawn, strict=True):
        step = (entry["high"] - entry["low"]) / 255
        np.testing.assert_allclose(entry["low"] + pixels(entry["png"]) * step, number["values"], atol=step)


def test_top_k_beyond_the_classes_gives_all(http: TestClient, draw: Draw) -> None:
    assert len(classify(http, draw(9), "?top_k=1000")["top"]) == len(CLASSES)


class Insists:
    """A session that always predicts one class with certainty."""

    def __init__(self, artefact: Path, code: str) -> None:
        self._session = open_session(artefact)
        self.manifest = self._session.manifest
        self.provider, self.precision = self._session.provider, self._session.precision
        self._at = self.manifest.codes.index(code)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        outputs = self._session.run(images)
        sure = np.zeros_like(outputs.probabilities)
        sure[:, self._at] = 1
        return outputs._replace(probabilities=sure)


def test_an_unsupported_class_can_win_and_the_answer_says_so(artefact: Path, draw: Draw, manifest: Manifest) -> None:
    code = manifest.unsupported[0]
    with client(artefact, session=Insists(artefact, code)) as http:
        found = classify(http, draw(1))
    assert (found["prediction"]["code"], found["prediction"]["supported"]) == (code, False)
    assert code in found["model"]["unsupported"]


def test_nothing_assumes_the_21_classes(tmp_path: Path, draw: Draw) -> None:
    classes = [CellClass(code=code, name=code.lower()) for code in ("X", "Y", "Z")]
    with client(write_artefact(tmp_path, classes=classes)) as http:
        found = classify(http, draw(1), "?maps=evidence")
        assert list(found["probabilities"]) == ["X", "Y", "Z"]
        assert len(found["evidence"]) == 3
        assert [entry["code"] for entry in http.get("/classes").json()["classes"]] == ["X", "Y", "Z"]


# Ids, headers, the other routes


def test_a_sane_request_id_is_kept_and_another_is_replaced(http: TestClient) -> None:
    def ask(sent: str) -> str:
        return str(http.get("/health/live", headers={"x-request-id": sent}).headers["x-request-id"])

    assert ask("order-4711.a:b") == "order-4711.a:b"
    for insane in ("", "a b", "x" * 65, "a\tb", "<script>"):
        assert ask(insane) != insane
    assert ask("") != ask("")


def test_answers_about_cells_are_not_stored_on_the_way(http: TestClient, draw: Draw) -> None:
    assert http.post("/classify", content=draw(1), headers=PNG).headers["cache-control"] == "no-store"


def test_model_is_the_manifest_with_the_notice(http: TestClient, manifest: Manifest) -> None:
    found = ModelDescription.model_validate_json(http.get("/model").content)
    assert found.notice.startswith("Research use only")
    assert (found.provider, found.computed_in, found.manifest_sha256) == ("cpu", "fp32", manifest.digest)
    assert found.model_dump(exclude={"notice", "provider", "computed_in", "manifest_sha256"}) == manifest.model_dump()


def test_classes_say_what_is_supported(http: TestClient, manifest: Manifest) -> None:
    found = http.get("/classes").json()
    assert [entry["code"] for entry in found["classes"]] == list(manifest.codes)
    unsupported = [entry["code"] for entry in found["classes"] if not entry["supported"]]
    assert unsupported == found["model"]["unsupported"] == list(manifest.unsupported)


def test_health_of_a_started_service(http: TestClient) -> None:
    assert http.get("/health/live").json() == {"status": "alive"}
    assert http.get("/health/ready").json() == {"status": "ready"}


def test_head_is_get_without_its_body(http: TestClient) -> None:
    for path in ("/health/live", "/model", "/docs", "/docs/static/docs.js"):
        got, head = http.get(path), http.head(path)
        assert head.status_code == got.status_code == 200
        assert head.content == b""
        assert head.headers["content-length"] == str(len(got.content))
    refused_head = http.head("/classify")
    assert (refused_head.status_code, refused_head.headers["allow"]) == (405, "POST")


def test_metrics_count_by_route_and_status_and_hold_nothing_of_the_client(artefact: Path, draw: Draw) -> None:
    with client(artefact) as http:
        http.post(
            "/classify?top_k=7", files={"image": ("Smith-John.png", draw(1))}, headers={"x-request-id": "order-1"}
        )
        http.post("/classify", content=b"x", headers=PNG)
        http.get("/patients/smith")
        http.head("/model")
        text = http.get("/metrics").text
    assert 'marrowlens_requests_total{route="/classify",status="200"} 1.0' in text
    assert 'marrowlens_requests_total{route="/classify",status="415"} 1.0' in text
    assert 'marrowlens_requests_total{route="/model",status="200"} 1.0' in text
    assert 'marrowlens_requests_total{route="other",status="404"} 1.0' in text
    assert 'marrowlens_refusals_total{reason="unsupported-picture"} 1.0' in text
    assert not any(word in text for word in ("Smith", "smith", "order-1", "top_k"))


def test_docs_work_without_the_internet(http: TestClient) -> None:
    page = http.get("/docs").text
    assert "http" not in page
    for file in ("swagger-ui.css", "swagger-ui-bundle.js", "docs.js", "favicon-32x32.png"):
        assert file in page
        assert http.get(f"/docs/static/{file}").status_code == 200
    assert http.get("/openapi.json").json()["info"]["title"] == "marrowlens"


def test_the_openapi_document_is_encoded_once_and_has_an_etag(artefact: Path) -> None:
    with client(artefact) as http:
        first = http.get("/openapi.json")
        assert first.json() == document(http.app)  # type: ignore[arg-type]
        assert first.headers["content-type"] == "application/json" and first.headers["cache-control"] == "no-cache"
        http.app.openapi_schema["info"]["title"] = "read anew"  # type: ignore[attr-defined]
        again = http.get("/openapi.json")
        assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
        for known in (first.headers["etag"], f'"another", W/{first.headers["etag"]}', "*"):
            unchanged = http.get("/openapi.json", headers={"If-None-Match": known})
            assert (unchanged.status_code, unchanged.content) == (304, b"")
            assert unchanged.headers["etag"] == first.headers["etag"]
        assert http.get("/openapi.json", headers={"If-None-Match": '"another"'}).content == first.content
        assert http.head("/openapi.json").headers["content-length"] == str(len(first.content))
