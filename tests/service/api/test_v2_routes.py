"""The Open Inference Protocol through the whole stack: answers like the native routes, errors for both kinds of client,
and no effect of a failing request on others."""

import asyncio
import gzip
from base64 import b64encode
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from serving import Held, async_client, client, refused
from starlette.testclient import TestClient

from examples import examples
from model.contract import OUTPUTS, read_manifest
from model.image import decode
from service.api.schemas import InferenceProblem
from service.api.v2.routes import JSON_LENGTH

Draw = Callable[..., bytes]
MODEL = "/v2/models/micro"
INFER = f"{MODEL}/infer"
LIMITS = {"max_image_bytes": 100_000, "max_body_bytes": 400_000, "max_batch_images": 30, "request_timeout_s": 20}


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact, **LIMITS) as started:
        yield started


def message(pictures: list[bytes], **members: Any) -> dict[str, Any]:
    data = [b64encode(picture).decode() for picture in pictures]
    parameters = {"content_type": "base64"}
    image = {"name": "image", "datatype": "BYTES", "shape": [len(data)], "parameters": parameters, "data": data}
    return {"inputs": [image], **members}


def body(tensor: Any, datatype: str, **options: Any) -> dict[str, Any]:
    """The arguments of a POST with tritonclient's binary request."""
    image = triton.InferInput("image", list(tensor.shape), datatype).set_data_from_numpy(tensor)
    content, json_bytes = triton.InferenceServerClient.generate_request_body([image], **options)
    return {"content": content, "headers": {JSON_LENGTH: str(json_bytes)}}


def outputs(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    length = answer.headers.get(JSON_LENGTH)
    assert answer.headers["content-type"] == ("application/octet-stream" if length else "application/json")
    found = triton.InferenceServerClient.parse_response_body(
        answer.content, header_length=None if length is None else int(length)
    )
    return {output["name"]: found.as_numpy(output["name"]) for output in found.get_response()["outputs"]}


def refused_in_both(answer: Any, status: int, name: str) -> str:
    """The message of an answer that is both a problem and the protocol's error object."""
    refused(answer, status, name)
    problem = InferenceProblem.model_validate(answer.json())
    assert problem.error == problem.detail
    return problem.error


def test_the_server_and_the_model_describe_themselves(http: TestClient, artefact: Path) -> None:
    manifest = read_manifest(artefact.with_suffix(".json"))
    server = {"name": "marrowlens", "version": version("marrowlens"), "extensions": ["binary_tensor_data"]}
    assert http.get("/v2").json() == server
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    model = http.get(MODEL).json()
    assert (model["name"], model["versions"], model["platform"]) == ("micro", ["0.0.1"], "onnxruntime_onnx")
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 64, 64, 3]}]
    shapes = {output["name"]: output["shape"] for output in model["outputs"]}
    assert shapes == {name: [-1, *manifest.outputs[name][1:]] for name in OUTPUTS}
    assert model["parameters"]["classes"].split(",") == list(manifest.codes)
    parameters = model["parameters"]
    assert (parameters["sha256"], parameters["manifest_sha256"]) == (manifest.sha256, manifest.digest)
    assert http.get(f"{MODEL}/versions/0.0.1").json() == model
    for path in (f"{MODEL}/ready", f"{MODEL}/versions/0.0.1/ready"):
        assert http.get(path).json() == {"name": "micro", "ready": True}


def test_files_and_pixels_get_what_classify_answers(http: TestClient, draw: Draw) -> None:
    pictures = [draw(seed) for seed in range(20)]
    files = outputs(http.post(INFER, **body(np.array(pictures, np.object_), "BYTES")))
    pixels = outputs(http.post(INFER, **body(np.stack([decode(picture, 64) for picture in pictures]), "UINT8")))
    json = outputs(http.post(f"{MODEL}/versions/0.0.1/infer", json=message(pictures)))
    for name in OUTPUTS:
        np.testing.assert_allclose(pixels[name], files[name], atol=1e-5)
        np.testing.assert_allclose(json[name], files[name], atol=1e-5)
    for at in (0, 7, 19):
        alone = http.post("/classify?maps=evidence", files={"image": pictures[at]}).json()
        np.testing.assert_allclose(files["probabilities"][at], list(alone["probabilities"].values()), atol=1e-5)
        logits = [entry["logit"] for entry in alone["evidence"]]
        np.testing.assert_allclose(np.sort(files["logits"][at])[::-1][:5], logits, atol=1e-4)


def test_only_what_is_asked_for_is_answered_and_the_id_comes_back(http: TestClient, draw: Draw) -> None:
    wanted = [{"name": "embedding"}, {"name": "logits", "parameters": {"binary_data": True}}]
    answer = http.post(INFER, json=message([draw(1)], id="κ 7", outputs=wanted))
    assert list(outputs(answer)) == ["embedding", "logits"]
    head = orjson.loads(answer.content[: int(answer.headers[JSON_LENGTH])])
    assert (head["id"], head["model_name"], head["model_version"]) == ("κ 7", "micro", "0.0.1")
    assert head["parameters"]["unsupported"] == "ABE"
    assert "id" not in http.post(INFER, json=message([draw(1)])).json()


@pytest.mark.parametrize(
    "path", ["/v2/models/other", f"{MODEL}/versions/2", "/v2/models/other/versions/0.0.1", "/v2/models/MICRO"]
)
def test_another_model_or_version_is_404(http: TestClient, draw: Draw, path: str) -> None:
    for answer in (
        http.get(path),
        http.get(f"{path}/ready"),
        http.post(f"{path}/infer", json=message([draw(1)])),
    ):
        assert "micro, version 0.0.1" in refused_in_both(answer, 404, "unknown-model")


def test_every_error_below_v2_is_the_protocols_too_and_none_elsewhere(http: TestClient) -> None:
    refused_in_both(http.get("/v2/repository/index"), 404, "not-found")
    refused_in_both(http.get(INFER), 405, "method-not-allowed")
    refused_in_both(http.post(INFER, content=b"{"), 422, "malformed-body")
    refused_in_both(http.post(INFER, json=message([b"x"], outputs=[{"name": "heat"}])), 422, "invalid-tensor")
    for path in ("/nowhere", "/v2x", "/v22/health/live"):
        assert "error" not in http.get(path).json()


@pytest.mark.parametrize("declared", ["x", "-1", "1.5", "0", "99999999999999999999", "100000", "٣"])
def test_a_length_of_the_json_that_cannot_be(http: TestClient, draw: Draw, declared: str) -> None:
    sent = body(np.array([draw(1)], np.object_), "BYTES")
    answer = http.post(INFER, content=sent["content"], headers={JSON_LENGTH: declared.encode()})
    refused_in_both(answer, 422, "malformed-body")


@pytest.mark.parametrize(
    ("picture", "status", "name"),
    [
        (b"GIF89a" + b"x" * 50, 415, "unsupported-picture"),
        (b"", 422, "undecodable-picture"),
        (b"\0" * 100_001, 413, "picture-too-large"),
    ],
)
def test_one_bad_picture_fails_its_request_and_is_named(
    http: TestClient, draw: Draw, picture: bytes, status: int, name: str
) -> None:
    pictures = [draw(seed) for seed in range(5)]
    pictures[3] = picture
    answer = http.post(INFER, **body(np.array(pictures, np.object_), "BYTES"))
    assert refused_in_both(answer, status, name).startswith("picture 3 (counted from 0): ")
    alone = http.post(INFER, **body(np.array([picture], np.object_), "BYTES"))
    assert refused_in_both(alone, status, name).startswith("picture 0 (counted from 0): ")


def test_what_is_too_much_is_refused(http: TestClient, artefact: Path, draw: Draw) -> None:
    refused_in_both(http.post(INFER, content=b" " * 400_001), 413, "body-too-large")
    refused_in_both(http.post(INFER, json=message([b"x"] * 31)), 413, "too-many-pictures")
    with client(artefact, max_image_bytes=50_000, max_body_bytes=60_000) as small:
        many = message([draw(1, size=(16, 16))] * 30)
        assert "request fewer outputs" in refused_in_both(small.post(INFER, json=many), 422, "answer-too-large")
        few = [{"name": "probabilities"}]
        assert outputs(small.post(INFER, json=many | {"outputs": few}))["probabilities"].shape == (30, 21)


def test_a_compressed_body_is_refused_in_a_sentence(http: TestClient, draw: Draw) -> None:
    packed = gzip.compress(orjson.dumps(message([draw(1)])))
    answer = http.post(INFER, content=packed, headers={"content-encoding": "gzip"})
    assert "Content-Encoding gzip is not supported" in refused_in_both(answer, 415, "unsupported-body")


@pytest.mark.parametrize("count", [1, 3])
def test_the_requests_timeout_is_its_deadline(artefact: Path, draw: Draw, count: int) -> None:
    held = Held(artefact)
    pictures = [draw(seed) for seed in range(count)]
    with client(artefact, session=held) as http:
        held.hold()
        late = http.post(INFER, json=message(pictures, parameters={"timeout": 20_000}))
        held.gate.set()
        refused_in_both(late, 504, "deadline-expired")
        assert outputs(http.post(INFER, json=message(pictures, parameters={"timeout": 60_000_000})))


def test_the_operators_timeout_bounds_the_clients(artefact: Path, draw: Draw) -> None:
    held = Held(artefact)
    with client(artefact, session=held, request_timeout_s=0.02) as http:
        held.hold()
        late = http.post(INFER, json=message([draw(1)], parameters={"timeout": 2**63}))
        held.gate.set()
        refused_in_both(late, 504, "deadline-expired")


async def sizes(http: httpx.AsyncClient) -> tuple[float, float]:
    """The numbers of computed pictures and batches."""
    families = text_string_to_metric_families((await http.get("/metrics")).text)
    found = {sample.name: sample.value for family in families for sample in family.samples}
    return found["marrowlens_batch_pictures_sum"], found["marrowlens_batch_pictures_count"]


async def test_requests_at_the_same_time_share_batches(artefact: Path, draw: Draw) -> None:
    held = Held(artefact)
    async with async_client(artefact, session=held, max_batch_size=8) as http:
        held.hold()
        first = asyncio.create_task(http.post(INFER, json=message([draw(0)])))
        await asyncio.to_thread(held.called.wait)
        others = [asyncio.create_task(http.post(INFER, json=message([draw(seed)]))) for seed in range(1, 17)]
        while "marrowlens_decode_duration_seconds_count 17.0" not in (await http.get("/metrics")).text:  # noqa: ASYNC110 (seen from outside only)
            await asyncio.sleep(0)
        held.gate.set()
        answers = await asyncio.gather(first, *others)
        pictures, batches = await sizes(http)
        assert pictures == 17
        assert batches in (3, 4)  # the last one decoded may have come to its place a moment too late
        for seed, answer in enumerate(answers):
            alone = (await http.post("/classify", files={"image": draw(seed)})).json()
            found = outputs(answer)["probabilities"][0]
            np.testing.assert_allclose(found, list(alone["probabilities"].values()), atol=1e-5)


async def test_a_bad_picture_harms_no_other_request(artefact: Path, draw: Draw) -> None:
    async with async_client(artefact, max_batch_size=4) as http:
        bodies = [message([draw(seed), draw(seed + 1), b"GIF89a" if seed % 3 == 0 else draw(9)]) for seed in range(12)]
        answers = await asyncio.gather(*(http.post(INFER, json=sent) for sent in bodies))
    for seed, answer in enumerate(answers):
        if seed % 3 == 0:
            assert "picture 2" in refused_in_both(answer, 415, "unsupported-picture")
        else:
            assert outputs(answer)["logits"].shape == (3, 21)


async def test_large_json_bodies_at_the_same_time_are_all_answered(artefact: Path, draw: Draw) -> None:
    pixels = [np.stack([decode(draw(seed), 64)] * 4) for seed in range(6)]
    image = {"name": "image", "datatype": "UINT8", "shape": [4, 64, 64, 3]}
    bodies = [{"inputs": [image | {"data": found.ravel().tolist()}]} for found in pixels]
    async with async_client(artefact) as http:
        answers = await asyncio.gather(*(http.post(INFER, json=sent) for sent in bodies))
        for seed, answer in enumerate(answers):
            alone = await http.post(INFER, json=message([draw(seed)]))
            np.testing.assert_allclose(outputs(answer)["logits"][3], outputs(alone)["logits"][0], atol=1e-4)


class Fails(Held):
    """A session that fails while its gate is closed."""

    def run(self, images: Any) -> Any:
        if not self.gate.is_set():
            raise RuntimeError("device lost: /dev/secret")
        return super().run(images)


def test_a_failing_model_is_a_500_that_tells_nothing(
    artefact: Path, draw: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    session = Fails(artefact)
    with client(artefact, session=session) as http:
        session.hold()
        answer = http.post(INFER, json=message([draw(1)], id="Smith-John"))
        session.gate.set()
    refused_in_both(answer, 500, "internal-error")
    assert "secret" not in answer.text
    assert "Smith" not in caplog.text


@hypothesis_settings(max_examples=examples(150), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_body_is_a_fault_of_the_service(http: TestClient, draw: Draw, data: st.DataObject) -> None:
    """A valid binary request with bytes replaced, removed and added, with any declared JSON length."""
    pictures = np.array([draw(seed, size=(16, 16)) for seed in range(2)], np.object_)
    good = body(pictures, "BYTES")
    content = bytearray(good["content"])
    at = data.draw(st.integers(0, 400))
    content[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    lengths = st.just(good["headers"][JSON_LENGTH]) | st.integers(0, len(content) + 1).map(str)
    answer = http.post(INFER, content=bytes(content), headers={JSON_LENGTH: data.draw(lengths)})
    if answer.status_code != 200:
        assert answer.status_code in (413, 415, 422)
        assert InferenceProblem.model_validate(answer.json()).error
