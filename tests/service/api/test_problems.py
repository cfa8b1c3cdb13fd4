"""Failing requests through the whole stack: correct status, a problem document, no internal details."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serving import client, refused
from starlette.testclient import TestClient

from service.app import create_app
from service.config.settings import Settings
from service.runtime.session import Outputs, open_session

Draw = Callable[..., bytes]
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact, max_image_bytes=100_000, max_body_bytes=200_000, max_pixels=250_000) as started:
        yield started


def test_bad_pictures_are_told_apart(http: TestClient, draw: Draw) -> None:
    def post(body: bytes) -> Any:
        return http.post("/classify", content=body, headers=PNG)

    refused(post(b"GIF89a" + b"x" * 100), 415, "unsupported-picture")
    refused(post(b"PK\x03\x04" + b"x" * 100), 415, "unsupported-picture")
    refused(post(draw(1)[:-30]), 422, "undecodable-picture")
    refused(post(draw(1, size=(600, 500))), 413, "picture-too-large")
    refused(post(b"x" * 100_001), 413, "body-too-large")
    refused(post(b""), 422, "undecodable-picture")


def test_a_body_of_another_type_is_415(http: TestClient) -> None:
    refused(
        http.post("/classify", content=b"{}", headers={"content-type": "application/json"}), 415, "unsupported-body"
    )
    refused(http.post("/classify"), 415, "unsupported-body")


def test_a_form_without_the_picture_is_422(http: TestClient) -> None:
    refused(http.post("/classify", files={"picture": b"x"}), 422, "malformed-body")


def test_chunks_without_a_length_are_bounded_too(http: TestClient) -> None:
    answer = http.post("/classify", content=(b"x" * 10_000 for _ in range(20)), headers=PNG)
    refused(answer, 413, "body-too-large")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("top_k=0", "top_k"),
        ("top_k=many", "top_k"),
        ("top_k=1001", "top_k"),
        ("maps=heat", "maps"),
        ("maps=", "maps"),
        ("map_format=gif", "map_format"),
        ("map=evidence", "map: unknown; did you mean maps?"),
    ],
)
def test_a_parameter_that_is_off_is_named(http: TestClient, draw: Draw, query: str, names: str) -> None:
    answer = http.post(f"/classify?{query}", content=draw(1), headers=PNG)
    assert names in refused(answer, 422, "invalid-parameter").detail


def test_unknown_paths_and_wrong_methods_are_problems_too(http: TestClient) -> None:
    refused(http.get("/nowhere"), 404, "not-found")
    refused(http.get("/docs/static/nowhere.js"), 404, "not-found")
    wrong = http.get("/classify")
    refused(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"
    refused(http.post("/model"), 405, "method-not-allowed")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/classify/", "it ends in a slash; did you mean /classify?"),
        ("/classify/batch/", "it ends in a slash; did you mean /classify/batch?"),
        ("/classify//", "did you mean /classify?"),
        ("/classify//batch", "did you mean /classify/batch?"),
        ("/Classify", "did you mean /classify?"),
        ("/specimens/", "did you mean /specimens?"),
        (f"/specimens/{'0' * 32}/cells/", f"did you mean /specimens/{'0' * 32}/cells?"),
        ("/v2/models/micro/infer/", "did you mean /v2/models/micro/infer?"),
        ("/v2/models/Micro/infer/", "did you mean /v2/models/Micro/infer?"),
        ("/health/ready/", "did you mean /health/ready?"),
        ("/predict", "GET /docs lists"),
        ("/classify/batches", "GET /docs lists"),
        ("/%C3%A4/", "GET /docs lists"),
    ],
)
def test_a_path_that_is_nearly_right_names_the_right_one(http: TestClient, path: str, meant: str) -> None:
    assert meant in refused(http.post(path, content=b"x"), 404, "not-found").detail


class Fails:
    """A session that fails after its warm-up."""

    def __init__(self, artefact: Path, warm_ups: int) -> None:
        self._session = open_session(artefact)
        self.manifest = self._session.manifest
        self.provider, self.precision = self._session.provider, self._session.precision
        self._runs, self._warm_ups = 0, warm_ups

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        self._runs += 1
        if self._runs > self._warm_ups:
            raise RuntimeError("device lost: /dev/secret")
        return self._session.run(images)


def test_a_failing_model_is_a_500_that_tells_nothing_inside(
    artefact: Path, draw: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    with client(artefact, session=Fails(artefact, warm_ups=2)) as http:
        answer = http.post("/classify", files={"image": ("Smith-John.png", draw(1))})
        problem = refused(answer, 500, "internal-error")
        assert "secret" not in answer.text and "Traceback" not in answer.text
        assert problem.request_id in caplog.text
        assert "Smith" not in caplog.text
        assert http.get("/health/live").status_code == 200


def test_without_a_model_the_service_lives_but_is_not_ready(artefact: Path, draw: Draw) -> None:
    with TestClient(create_app(Settings(artefact=artefact)), base_url="http://localhost") as http:
        assert http.get("/health/live").status_code == 200
        for answer in (http.get("/health/ready"), http.get("/model"), http.post("/classify", files={"image": draw(1)})):
            refused(answer, 503, "not-ready")
            assert int(answer.headers["retry-after"]) >= 1
