"""NVIDIA's tritonclient against `marrowlens serve` in another process, and the code examples of the docs page."""

import asyncio
import contextlib
import io
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from prometheus_client.parser import text_string_to_metric_families
from serving import Served, served
from tritonclient.utils import InferenceServerException

from model.contract import OUTPUTS
from model.image import decode
from service.runtime.artifact import bundled_artefact
from service.runtime.session import open_session

Draw = Callable[..., bytes]
PAGE = Path("docs/open-inference-protocol.md").read_text(encoding="utf-8")


def address(started: Served) -> str:
    return started.url.removeprefix("http://")


@pytest.fixture(scope="module")
def started(artefact: Path) -> Iterator[Served]:
    # A long queue delay, so that requests sent together share a batch on any machine.
    with served(artefact, max_batch_size="8", max_queue_delay_ms="2000", max_batch_images="40") as started:
        started.wait_listening()
        yield started


@pytest.fixture
def client(started: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(started), concurrency=16) as opened:
        yield opened


def tensor(values: Any, datatype: str) -> triton.InferInput:
    image = triton.InferInput("image", list(values.shape), datatype)
    return image.set_data_from_numpy(values)


def files(pictures: list[bytes]) -> triton.InferInput:
    return tensor(np.array(pictures, np.object_), "BYTES")


def said(infer: Callable[[], Any]) -> tuple[str, str]:
    """Status and message of an error, as tritonclient raises it."""
    with pytest.raises(InferenceServerException) as refusal:
        infer()
    return refusal.value.status(), refusal.value.message()


def test_it_is_live_ready_and_described(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("micro") and client.is_model_ready("micro", "0.0.1")
    assert not client.is_model_ready("micro", "2") and not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "marrowlens"
    assert client.get_model_metadata("micro", "0.0.1")["inputs"][0]["shape"] == [-1, 64, 64, 3]


def test_outputs_are_the_sessions(client: triton.InferenceServerClient, artefact: Path, draw: Draw) -> None:
    pictures = [draw(seed, format="JPEG") for seed in range(8)]
    pixels = np.stack([decode(picture, 64) for picture in pictures])
    expected = open_session(artefact, provider="cpu").run(pixels)._asdict()
    for image in (files(pictures), tensor(pixels, "UINT8")):
        found = client.infer("micro", [image], request_id="7")
        assert found.get_response()["id"] == "7"
        for name in OUTPUTS:
            np.testing.assert_allclose(found.as_numpy(name), expected[name], atol=1e-4)
    wanted = [triton.InferRequestedOutput("evidence", binary_data=False), triton.InferRequestedOutput("logits")]
    found = client.infer("micro", [files(pictures)], model_version="0.0.1", outputs=wanted)
    np.testing.assert_allclose(found.as_numpy("evidence"), expected["evidence"], atol=1e-4)
    np.testing.assert_allclose(found.as_numpy("logits"), expected["logits"], atol=1e-4)
    assert found.as_numpy("probabilities") is None


def batches(started: Served) -> tuple[float, float]:
    """The numbers of computed pictures and batches so far."""
    families = text_string_to_metric_families(httpx.get(f"{started.url}/metrics").text)
    found = {sample.name: sample.value for family in families for sample in family.samples}
    return found["marrowlens_batch_pictures_sum"], found["marrowlens_batch_pictures_count"]


def test_requests_in_flight_together_share_batches(
    client: triton.InferenceServerClient, started: Served, artefact: Path, draw: Draw
) -> None:
    session = open_session(artefact, provider="cpu")
    before = batches(started)
    asked = [client.async_infer("micro", [files([draw(seed)])]) for seed in range(64)]
    for seed, answer in enumerate(asked):
        expected = session.run(decode(draw(seed), 64)[None]).logits
        np.testing.assert_allclose(answer.get_result().as_numpy("logits"), expected, atol=1e-4)
    pictures, runs = np.subtract(batches(started), before)
    assert pictures == 64
    assert runs < 32


async def test_the_asyncio_client_is_answered_too(started: Served, draw: Draw) -> None:
    async with triton_aio.InferenceServerClient(address(started)) as client:
        answers = await asyncio.gather(*(client.infer("micro", [files([draw(seed)])]) for seed in range(16)))
        assert all(answer.as_numpy("probabilities").shape == (1, 21) for answer in answers)
        with pytest.raises(InferenceServerException, match="no such model"):
            await client.infer("other", [files([draw(1)])])


def test_the_client_shows_what_was_wrong(client: triton.InferenceServerClient, draw: Draw) -> None:
    good = [draw(seed) for seed in range(3)]
    bad = files([*good, draw(4)[:-40]])
    status, sentence = said(lambda: client.infer("micro", [bad]))
    assert status == "422"
    assert sentence.startswith("picture 3 (counted from 0): the PNG data is cut off")
    assert said(lambda: client.infer("other", [bad]))[0] == "404"
    assert said(lambda: client.infer("micro", [bad], model_version="9"))[0] == "404"
    assert said(lambda: client.infer("micro", [tensor(np.zeros((1, 32, 32, 3), np.uint8), "UINT8")])) == (
        "422",
        "UINT8 of the shape [1, 32, 32, 3]; the model takes [N, 64, 64, 3]",
    )
    assert "BYTES" in said(lambda: client.infer("micro", [tensor(np.zeros((1, 64, 64, 3), np.float32), "FP32")]))[1]
    assert said(lambda: client.infer("micro", [files([b"x"] * 41)]))[0] == "413"
    assert "unsupported parameter" in said(lambda: client.infer("micro", [files(good)], priority=1))[1]
    assert "gzip" in said(lambda: client.infer("micro", [files(good)], request_compression_algorithm="gzip"))[1]
    late = said(lambda: client.infer("micro", [files(good[:1])], timeout=1))
    assert late == ("504", "the picture was not classified before its timeout; retry later")
    status, sentence = said(client.get_model_repository_index)
    assert (status, sentence.startswith("unknown path")) == ("404", True)


@pytest.fixture(scope="module")
def bundled() -> Iterator[Served]:
    with served(bundled_artefact()) as started:
        started.wait_listening()
        yield started


def test_the_pages_python_runs_and_prints_the_native_routes_classes(bundled: Served) -> None:
    (code,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace("localhost:8000", address(bundled)), "the page", "exec"), {})
    lines = []
    for name in ("blast.jpg", "cell.png"):
        sent = {"image": Path("examples", name).read_bytes()}
        prediction = httpx.post(f"{bundled.url}/classify?maps=none", files=sent).json()["prediction"]
        lines.append(f"{prediction['code']} {round(prediction['probability'], 2)}")
    assert printed.getvalue().splitlines() == lines


def test_the_pages_curl_body_is_answered_as_the_page_says(bundled: Served) -> None:
    (sent,) = re.findall(r"/v2/models/marrowlens-lite/infer -d '(.+?)'\n```", PAGE, re.DOTALL)
    body = re.sub(r"""'"\$\(.+?\)"'""", b64encode(Path("examples/blast.jpg").read_bytes()).decode(), sent)
    answer = httpx.post(f"{bundled.url}/v2/models/marrowlens-lite/infer", content=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    said_of_it = f'"model_version": "{found["model_version"]}"'
    assert said_of_it in PAGE
    assert set(found) == {"model_name", "model_version", "parameters", "outputs", "id"}
    assert f'"shape": {found["outputs"][0]["shape"]}' in PAGE


def test_the_pages_error_is_the_services(bundled: Served) -> None:
    with triton.InferenceServerClient(address(bundled)) as client:
        pictures = [Path("examples/blast.jpg").read_bytes(), b""]
        with pytest.raises(InferenceServerException) as refusal:
            client.infer("marrowlens-lite", [files(pictures)])
    assert f"`{refusal.value}`" in PAGE


def test_every_setting_and_decision_on_the_page_is_there() -> None:
    from service.config.settings import Settings, environment_name

    assert set(re.findall(r"MARROWLENS_\w+", PAGE)) <= {environment_name(name) for name in Settings.model_fields}
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", PAGE):
        assert Path("docs", link).exists()
