"""Input drift while serving: undrifted pictures below every threshold, shifted ones above, nothing of a single one."""

import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import forks
import httpx
import numpy as np
import pytest
from drifting import Shift, blurred, darker, drawn, encoded, same, stained
from graphs import edit_manifest, write_artefact
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import client, zipped
from starlette.testclient import TestClient
from worker_processes import metric, until, workers

from model.contract import ArtefactError, Manifest, read_manifest
from model.drift.distance import DriftMeter, FeatureSums, jensen_shannon
from model.drift.fitting import ReferenceSamples, fit_reference
from model.drift.reference import KINDS, DriftReference, read_reference, reference_text, text_sha256
from model.image import decode
from service.config.settings import Settings
from service.inference.drift_window import PARTS, DriftWindow
from service.runtime.artifact import bundled_artefact
from service.runtime.loader import load_session


def sent(count: int, first: int, shift: Shift = same) -> list[bytes]:
    return [encoded(shift(picture)) for picture in drawn(count, first)]


@pytest.fixture(scope="module")
def own(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference that the command has written of 400 drawn cells in twenty folders."""
    folder = tmp_path_factory.mktemp("muster-erika")
    for number, data in enumerate(sent(400, 0)):
        specimen = folder / f"specimen-{number % 20}"
        specimen.mkdir(exist_ok=True)
        (specimen / f"{number}.png").write_bytes(data)
    (folder / "broken.png").write_bytes(b"no picture")
    out = folder / "own.drift.json"
    done = command(artefact, "reference", str(folder), "--out", str(out), "--draws", "1000")
    assert done.returncode == 0, done.stderr
    assert "1 of 401 pictures could not be read" in done.stderr and "400 pictures of a laboratory" in done.stderr
    return out


def command(artefact: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return forks.run(["drift", *words, "--artefact", str(artefact)], os.environ, timeout=200)


def drift_of(http: TestClient) -> dict[str, dict[str, float]]:
    """Metric → kind → value as measured now; the window's pictures under the kind ''."""
    http.portal.call(http.app.state.models.measure_drift)  # the service does every few seconds
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        if family.name.startswith("marrowlens_drift_"):
            values = {sample.labels.get("kind", ""): sample.value for sample in family.samples}
            found[family.name.removeprefix("marrowlens_drift_")] = values
    return found


def above(found: dict[str, dict[str, float]]) -> set[str]:
    return {kind for kind, distance in found["distance"].items() if distance > found["threshold"][kind]}


def post(http: TestClient, pictures: list[bytes]) -> None:
    body = zipped([(f"{number}.png", data) for number, data in enumerate(pictures)])
    answer = http.post("/classify/batch?maps=none", content=body, headers={"content-type": "application/zip"})
    assert answer.json()["problems"] == 0


@pytest.fixture
def watched(artefact: Path, own: Path) -> Iterator[TestClient]:
    settings = Settings(artefact=artefact, drift_reference=own, drift_window=200)
    chosen: dict[str, Any] = {"drift_reference": own, "drift_window": 200}
    with client(artefact, session=load_session(settings), **chosen) as http:
        yield http


@pytest.mark.slow
def test_workers_measure_their_pictures_together(artefact: Path, own: Path, watched: TestClient) -> None:
    halves = sent(60, 1000), sent(60, 1060)
    with workers(artefact, drift_reference=str(own), drift_window="400") as service, ExitStack() as stack:
        # The second connection goes to the other worker, while the first one is open.
        for half in halves:
            http = stack.enter_context(httpx.Client(base_url=service.url))
            http.post("/classify/batch?maps=none", files=[("images", data) for data in half]).raise_for_status()
        until(lambda: metric(service, "marrowlens_drift_window_pictures") == 120)
        for http in (httpx.Client(base_url=service.url) for _ in range(4)):  # whichever worker answers
            with http:
                until(lambda http=http: http.get("/model/drift").json()["pictures"] == 120)
        together = {kind: metric(service, f'marrowlens_drift_distance{{kind="{kind}"}}') for kind in KINDS}
    post(watched, [*halves[0], *halves[1]])
    alone = drift_of(watched)["distance"]
    # The embedding of this small network has almost constant directions, where rounding shows.
    assert together.pop("embedding") == pytest.approx(alone.pop("embedding"), rel=0.2)
    assert together == pytest.approx(alone, rel=1e-6)


def test_the_reference_holds_no_name_and_no_single_picture(own: Path) -> None:
    text = own.read_text()
    assert not re.search(r"muster|erika|specimen-|\.png", text)
    reference = read_reference(own)
    assert (reference.pictures, reference.groups, sum(reference.class_pictures.values())) == (400, 20, 400)
    assert reference_text(reference) == text
    assert all(reference.class_pictures[code] >= 20 for code in reference.class_means)


@pytest.mark.slow
def test_undrifted_pictures_stay_below_and_shifted_ones_rise_above(watched: TestClient) -> None:
    assert drift_of(watched) == {"distance": {}, "threshold": {}, "window_pictures": {"": 0}}
    post(watched, sent(90, 1000))
    assert drift_of(watched)["distance"] == {}  # too few to say anything
    post(watched, sent(110, 1090))
    found = drift_of(watched)
    assert 180 <= found["window_pictures"][""] <= 200
    assert set(found["distance"]) == {"embedding", "colour", "sharpness", "class_mix"}
    assert above(found) == set()
    post(watched, sent(200, 2000, stained(1 / 16)))
    assert "colour" in above(drift_of(watched))
    post(watched, sent(220, 3000))
    assert above(drift_of(watched)) == set()  # what was shifted has left the window


@pytest.mark.parametrize(
    ("shift", "kind"), [(darker(0.8), "colour"), (blurred(2), "sharpness")], ids=["darker", "out of focus"]
)
def test_each_kind_sees_its_own(watched: TestClient, shift: Shift, kind: str) -> None:
    post(watched, sent(200, 1000, shift))
    assert kind in above(drift_of(watched))


def test_the_route_says_what_the_metrics_say(watched: TestClient) -> None:
    nothing = watched.get("/model/drift").json()
    assert (nothing["measured"], nothing["pictures"], nothing["kinds"], nothing["class_mix"]) == (True, 0, [], [])
    post(watched, sent(110, 1000, darker(0.8)))
    metrics, found = drift_of(watched), watched.get("/model/drift").json()
    assert {each["kind"]: each["distance"] for each in found["kinds"]} == pytest.approx(metrics["distance"])
    assert {each["kind"] for each in found["kinds"] if each["drifted"]} == above(metrics) >= {"colour"}
    assert sum(each["share"] for each in found["class_mix"]) == pytest.approx(1)
    assert found["decisions"] == {"accept": 0, "review": 0, "reject": 0}  # without a trust reference
    assert (found["pictures"], found["many_rejected"]) == (110, False)


def test_without_a_reference_the_route_says_so(artefact: Path) -> None:
    with client(artefact) as http:
        found = http.get("/model/drift").json()
        assert (found["measured"], found["pictures"], found["reference"]) == (False, 0, None)


def test_a_single_picture_and_the_open_inference_protocol_count_too(watched: TestClient) -> None:
    [picture] = sent(1, 1000)
    assert watched.post("/classify", files={"image": picture}).is_success
    pixels = decode(picture, 64).tolist()
    tensor = {"name": "image", "shape": [1, 64, 64, 3], "datatype": "UINT8", "data": pixels}
    assert watched.post("/v2/models/micro/infer", json={"inputs": [tensor]}).is_success
    assert watched.post("/classify", files={"image": b"no picture"}).status_code == 415
    assert drift_of(watched)["window_pictures"] == {"": 2}


def test_another_model_begins_anew_and_does_not_take_the_first_one_s_reference(
    tmp_path: Path, own: Path, artefact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in (".onnx", ".json"):
        shutil.copy(artefact.with_suffix(suffix), tmp_path)
    write_artefact(tmp_path, name="second", version="0.0.2", seed=2)
    first = tmp_path / artefact.name
    settings = Settings(artefact=first, drift_reference=own)
    assert load_session(settings).drift_reference is not None
    assert load_session(settings, artefact=tmp_path / "second.onnx").drift_reference is None
    assert "Input drift is not measured" in caplog.text and "belongs to another model" in caplog.text


@pytest.mark.slow
def test_a_folder_is_measured_by_the_command(artefact: Path, own: Path, tmp_path: Path) -> None:
    for name, shift in (("same", same), ("stained", stained(1 / 8))):
        (tmp_path / name).mkdir()
        for number, data in enumerate(sent(120, 5000, shift)):
            (tmp_path / name / f"{number}.png").write_bytes(data)
    done = command(artefact, "measure", str(tmp_path / "same"), "--against", str(own))
    assert done.returncode == 0 and "yes" not in done.stdout, done.stdout
    done = command(artefact, "measure", str(tmp_path / "stained"), "--against", str(own))
    assert done.returncode == 1 and re.search(r"colour .* yes", done.stdout), done.stdout
    (tmp_path / "few").mkdir()
    done = command(artefact, "measure", str(tmp_path / "few"), "--against", str(own))
    assert (done.returncode, "too few readable pictures" in done.stderr) == (2, True)


def test_measure_counts_the_decisions(tmp_path: Path) -> None:
    for number in range(100):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    done = command(bundled_artefact(), "measure", str(tmp_path))
    assert re.search(r"reject +100 +100\.0 +at least 3\.0", done.stdout), done.stdout
    assert re.search(r"accept +0 +0\.0", done.stdout), done.stdout


def test_too_few_pictures_or_ever_the_same_are_no_reference(artefact: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.json"
    for name, pictures, says in (
        ("few", sent(1, 0), "needs at least 200 pictures in 10 groups"),
        ("same", sent(1, 0) * 200, "same pictures"),
    ):
        (tmp_path / name).mkdir()
        for number, data in enumerate(pictures):
            (tmp_path / name / f"{number:03}.png").write_bytes(data)
        done = command(artefact, "reference", str(tmp_path / name), "--out", str(out), "--draws", "100")
        assert (done.returncode, done.stderr.count("\n"), out.exists()) == (2, 1, False)
        assert says in done.stderr


@pytest.fixture
def with_own(artefact: Path, own: Path, tmp_path: Path) -> Path:
    """An artefact with a reference beside it that its manifest vouches for."""
    for suffix in (".onnx", ".json"):
        shutil.copy(artefact.with_suffix(suffix), tmp_path)
    path = tmp_path / artefact.name
    shutil.copy(own, path.with_suffix(".drift.json"))
    edit_manifest(path, drift_sha256=text_sha256(own.read_text()))
    return path


def test_the_artefact_s_own_reference_is_taken(with_own: Path) -> None:
    assert load_session(Settings(artefact=with_own)).drift_reference is not None
    assert load_session(Settings(artefact=with_own, drift_window=0)).drift_reference is None


def test_one_that_is_gone_is_said_and_the_model_serves(with_own: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_own.with_suffix(".drift.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert load_session(Settings(artefact=with_own)).drift_reference is None
    assert "Input drift is not measured" in caplog.text


def test_one_that_is_damaged_is_refused(with_own: Path) -> None:
    path = with_own.with_suffix(".drift.json")
    path.write_text(path.read_text().replace('"pictures": 400', '"pictures": 401'))
    with pytest.raises(ArtefactError, match="damaged"):
        load_session(Settings(artefact=with_own))


def test_one_that_a_setting_names_must_be_there(artefact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="MARROWLENS_DRIFT_REFERENCE"):
        load_session(Settings(artefact=artefact, drift_reference=tmp_path / "none.json"))


def test_an_artefact_without_one_serves_as_before(artefact: Path) -> None:
    assert read_manifest(artefact.with_suffix(".json")).drift_sha256 is None
    with client(artefact, session=load_session(Settings(artefact=artefact))) as http:
        assert http.post("/classify", files={"image": sent(1, 0)[0]}).is_success
        assert drift_of(http) == {"distance": {}, "threshold": {}, "window_pictures": {"": 0}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"surprise": 1}, "surprise"),
        ({"centre": "?"}, "centre: must be float32"),
        ({"centre": ""}, "sizes of directions, centre and covariance do not match"),
        ({"thresholds": []}, "thresholds"),
        ({"covariance": [[0.0] * 21] * 21}, "positive definite"),
        ({"class_means": {"XYZ": [0.0] * 21}}, "names classes"),
        ({"class_means": {}}, "class_means"),
        ({"groups": 1}, "groups"),
        ({"pictures": "many"}, "pictures"),
    ],
)
def test_a_reference_at_odds_with_itself_is_refused(own: Path, tmp_path: Path, changes: dict, says: str) -> None:
    document = json.loads(own.read_text())
    assert len(document["covariance"]) == 21  # 12 numbers an embedding
    (tmp_path / "spoilt.json").write_text(json.dumps(document | changes))
    with pytest.raises(ArtefactError, match=says):
        read_reference(tmp_path / "spoilt.json")


@pytest.fixture(scope="module")
def meter(own: Path) -> DriftMeter:
    return DriftMeter(read_reference(own))


def at_the_means(reference: DriftReference, counts: list[int]) -> FeatureSums:
    """Pictures that each lie at the mean of their class."""
    sums = FeatureSums.empty(len(reference.class_pictures), len(reference.covariance))
    codes = list(reference.class_pictures)
    for code, count in zip(reference.class_means, counts, strict=False):
        named = np.full(count, codes.index(code))
        sums.add(named, np.tile(np.array(reference.class_means[code]), (count, 1)))
    return sums


@given(st.lists(st.integers(100, 900), min_size=21, max_size=21))
def test_a_mix_of_classes_alone_moves_no_appearance(meter: DriftMeter, counts: list[int]) -> None:
    reading = meter.measure(at_the_means(meter.reference, counts))
    assert max(reading.distances[kind] for kind in reading.distances if kind != "class_mix") < 1e-6


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_distance_of_mixes_is_one(first: list[float], second: list[float]) -> None:
    one, other = np.array(first) + 1e-6, np.array(second) + 1e-6
    one, other = one / one.sum(), other / other.sum()
    there, back = jensen_shannon(one, other), jensen_shannon(other, one)
    assert there == pytest.approx(back, abs=1e-6) and -1e-9 <= there <= 1 + 1e-9
    assert jensen_shannon(one, one) == pytest.approx(0, abs=1e-6)
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 100))
def test_a_window_forgets_by_tenths_and_what_is_no_number_never_enters(
    own: Path, calls: list[int], spoilt: int
) -> None:
    reference = read_reference(own)
    window, random = DriftWindow(reference, 200), np.random.default_rng(0)
    for number, count in enumerate(calls):
        embeddings = random.normal(size=(count, 12)).astype(np.float32)
        if number == spoilt:
            embeddings[0] = np.nan
        pictures = random.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        window.add(embeddings, random.random((count, 21), dtype=np.float32), pictures)
    reading, total = window.measure(), sum(calls) - (spoilt < len(calls))
    # A tenth is closed by the call that fills it, which may bring up to 39 pictures too many.
    assert min(total, 200 * (PARTS - 1) // PARTS) <= reading.pictures <= min(total, 200 + 39 * PARTS)
    assert all(np.isfinite(distance) for distance in reading.distances.values())


@pytest.mark.slow
def test_thresholds_hold_for_new_windows(artefact: Path, own: Path) -> None:
    """Of 40 windows of 200 undrifted cells that the reference has not seen, none is above."""
    session = load_session(Settings(artefact=artefact, drift_reference=own))
    images = np.stack([decode(data, 64) for data in sent(800, 7000)])
    outputs, random = session.run(images), np.random.default_rng(1)
    for _ in range(40):
        window, chosen = DriftWindow(read_reference(own), 10_000), random.permutation(800)[:200]
        window.add(outputs.embedding[chosen], outputs.probabilities[chosen], images[chosen])
        assert window.measure().drifted() == []


def test_the_same_pictures_make_the_same_reference(artefact: Path) -> None:
    manifest: Manifest = read_manifest(artefact.with_suffix(".json"))
    session = load_session(Settings(artefact=artefact))
    images = np.stack([decode(data, 64) for data in sent(240, 0)])
    outputs = session.run(images)
    texts = set()
    for _ in range(2):
        gathered = ReferenceSamples()
        gathered.add(outputs.embedding, outputs.probabilities, images, [number // 5 for number in range(240)])
        texts.add(reference_text(fit_reference(gathered, manifest, "drawn", draws=100)))
    assert len(texts) == 1
