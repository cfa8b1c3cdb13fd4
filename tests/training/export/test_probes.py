"""Probe answers in the manifest: which graphs they distinguish, and the tolerance for each provider and precision."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import change_weight, edit_manifest, store_probes, write_artefact
from numpy.typing import NDArray

from model.contract import INPUT, ArtefactError, Manifest, read_manifest
from model.probes import STORED, images_sha256, probe_images, recorded, stored_summary, summary
from service.runtime.artifact import bundled_artefact, sha256
from service.runtime.parity import Run, probe_mismatch
from service.runtime.providers import Tolerance, tolerance
from service.runtime.session import OnnxSession, open_session
from training.export.fp16 import fp16_graph

Floats = NDArray[np.float32]
Change = Callable[[Floats], Floats]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """An artefact with probe answers in its manifest."""
    artefact = write_artefact(tmp_path)
    store_probes(artefact)
    return artefact


def manifest_of(artefact: Path) -> Manifest:
    return read_manifest(artefact.with_suffix(".json"))


def opened(artefact: Path) -> OnnxSession:
    return open_session(artefact, provider="cpu")


def running(session: OnnxSession) -> Run:
    return lambda images: session.run(images)._asdict()


def test_the_pictures_stay_what_they_are_or_no_stored_answer_is_worth_anything(artefact: Path) -> None:
    images = probe_images(manifest_of(artefact), STORED)
    assert images_sha256(images) == "f50bb2b14589076371c76df2ad902d38c7908001e0ec0454d45bbfb6e1cb00f8"
    assert (images[0] == 128).all()
    assert len({image.tobytes() for image in images}) == STORED
    shades = images[1:].reshape(STORED - 1, -1)
    assert shades.min(axis=1).max() < 32 and shades.max(axis=1).min() > 224


def test_a_right_graph_is_served_and_nothing_is_said(stored: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = manifest_of(stored)
    assert opened(stored).manifest == manifest
    assert manifest.probes and len(manifest.probes.logits) == STORED
    assert caplog.text == ""
    assert len(json.dumps(manifest.probes.model_dump())) < 4000


def other_colours(stem: Floats) -> Floats:
    return stem[:, ::-1]


def slightly(weight: Floats) -> Floats:
    return weight * np.float32(1.002)


def one_value(head: Floats) -> Floats:
    head = head.copy()
    head[3, 5] += 0.05
    return head


def scales_in_another_order(gate: Floats) -> Floats:
    return gate[::-1]


@pytest.mark.parametrize(
    ("weight", "change", "output"),
    [
        ("stem", other_colours, "logits"),
        ("stem", slightly, "logits"),
        ("head", one_value, "logits"),
        ("gate", scales_in_another_order, "attention"),
        ("mean", slightly, "logits"),
    ],
)
def test_a_graph_of_other_weights_is_refused_whatever_its_sha256(
    stored: Path, weight: str, change: Change, output: str
) -> None:
    change_weight(stored, weight, change)
    with pytest.raises(ArtefactError) as refused:
        opened(stored)
    assert refused.value.path == stored
    assert refused.value.reason.startswith(f"does not compute the outputs stored in its manifest: {output} differs")


def test_without_stored_answers_the_same_graph_is_served_as_before(
    artefact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert manifest_of(artefact).probes is None
    other = write_artefact(tmp_path)
    change_weight(other, "gate", scales_in_another_order)
    opened(other)
    assert caplog.text == ""


def test_answers_to_other_pictures_are_not_judged_and_the_log_says_so(
    stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probes = json.loads(stored.with_suffix(".json").read_text())["probes"]
    edit_manifest(stored, probes=probes | {"images_sha256": "0" * 64})
    change_weight(stored, "gate", scales_in_another_order)
    opened(stored)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == "micro: stored outputs not checked; they are of other probe images"


@pytest.fixture
def halved(tmp_path: Path) -> Path:
    """The same artefact in fp16, with the answers of the fp16 graph."""
    artefact = write_artefact(tmp_path, name="half")
    artefact.write_bytes(fp16_graph(onnx.load(artefact), 64))
    edit_manifest(artefact, sha256=sha256(artefact.read_bytes()), precision="fp16")
    store_probes(artefact)
    return artefact


def test_an_artefact_in_fp16_is_held_against_its_own_answers(halved: Path) -> None:
    assert opened(halved).manifest.precision == "fp16"
    change_weight(halved, "bias", lambda bias: bias[::-1].copy())
    with pytest.raises(ArtefactError):
        opened(halved)


def test_who_computes_more_coarsely_is_held_less_closely(stored: Path, halved: Path) -> None:
    """fp16 answers compared with fp32 ones, as for TensorRT, which rounds as much."""
    manifest, coarse = manifest_of(stored), running(opened(halved))
    assert probe_mismatch(manifest, coarse, tolerance("tensorrt", "fp32")) is None
    said = probe_mismatch(manifest, coarse, tolerance("cuda", "fp32"))
    assert said is not None and said.endswith("2e-04 of the largest value is allowed")


@pytest.mark.parametrize(("weight", "change"), [("stem", other_colours), ("gate", scales_in_another_order)])
def test_another_model_is_told_apart_even_coarsely(stored: Path, tmp_path: Path, weight: str, change: Change) -> None:
    other = write_artefact(tmp_path, name="other")
    change_weight(other, weight, change)
    assert probe_mismatch(manifest_of(stored), running(opened(other)), tolerance("tensorrt", "fp32"))


def test_what_is_no_number_never_agrees(stored: Path) -> None:
    session = opened(stored)

    def sick(images: NDArray[np.uint8]) -> dict[str, Floats]:
        outputs = session.run(images)._asdict()
        return outputs | {"embedding": np.full_like(outputs["embedding"], np.nan)}

    said = probe_mismatch(session.manifest, sick, Tolerance(1e9, 1e9, 1e9, 1e9))
    assert said is not None and said.startswith("embedding differs by nan")


def test_no_call_has_more_pictures_than_an_opening_has_computed_before(stored: Path) -> None:
    session, counts = opened(stored), []

    def counted(images: NDArray[np.uint8]) -> dict[str, Floats]:
        counts.append(len(images))
        return session.run(images)._asdict()

    assert probe_mismatch(session.manifest, counted, tolerance("cpu", "fp32")) is None
    assert counts == [2] * (STORED // 2)


def answers(**changes: Floats) -> dict[str, Floats]:
    random = np.random.default_rng(0)
    shapes = {"logits": (2, 5), "attention": (2, 3, 4, 4), "evidence": (2, 5, 4, 4), "embedding": (2, 96)}
    return {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()} | changes


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("evidence", lambda maps: maps.swapaxes(2, 3)),
        ("evidence", lambda maps: maps[..., ::-1]),
        ("attention", lambda maps: maps[:, [1, 0, 2]]),
        ("attention", lambda maps: maps[:, :, ::-1]),
        ("embedding", lambda features: features[:, ::-1]),
    ],
)
def test_order_counts_although_means_and_norms_stay(name: str, change: Change) -> None:
    found = summary(answers(**{name: change(answers()[name])}))[name]
    assert np.abs(found - summary(answers())[name]).min() > 0.05


def test_rounding_is_not_enlarged() -> None:
    random = np.random.default_rng(1)
    noise = {name: values + random.normal(0, 1e-4, values.shape) for name, values in answers().items()}
    for name, values in summary(noise).items():
        assert np.abs(values - summary(answers())[name]).max() < 4e-4


def test_what_is_stored_reads_back_to_seven_digits() -> None:
    probes = recorded(np.zeros((2, 64, 64, 3), np.uint8), answers())
    for name, values in stored_summary(probes).items():
        np.testing.assert_allclose(values, summary(answers())[name], rtol=1e-6)


def test_what_is_no_number_is_never_stored() -> None:
    with pytest.raises(ValueError, match="evidence of a probe image is not finite"):
        recorded(np.zeros((2, 64, 64, 3), np.uint8), answers(evidence=np.full((2, 5, 4, 4), np.inf, np.float32)))


def _no_graph(artefact: Path) -> None:
    artefact.write_bytes(b"no graph")
    edit_manifest(artefact, sha256=sha256(b"no graph"))


def _no_numbers(artefact: Path) -> None:
    change_weight(artefact, "std", lambda std: std * np.float32(np.nan))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_no_graph, "onnxruntime cannot run the graph"),
        (_no_numbers, "logits of a probe image is not finite"),
    ],
)
def test_answers_that_nobody_could_vouch_for_are_not_stored(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    artefact = write_artefact(tmp_path)
    spoil(artefact)
    with pytest.raises(ValueError, match=reason):
        store_probes(artefact)
    assert manifest_of(artefact).probes is None


def test_the_bundled_graph_gives_its_stored_answers_in_whatever_order_it_adds() -> None:
    """As it does on other processors: unfused, onnxruntime adds in another order."""
    manifest = open_session(provider="cpu").manifest
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_ENABLE_ALL, levels.ORT_DISABLE_ALL):
        options.graph_optimization_level = level
        graph = onnxruntime.InferenceSession(bundled_artefact(), options, providers=["CPUExecutionProvider"])

        def run(images: NDArray[np.uint8]) -> dict[str, Floats]:
            found = graph.run(list(manifest.output_names), {INPUT: images})  # noqa: B023
            return dict(zip(manifest.output_names, found, strict=True))

        assert manifest.probes and probe_mismatch(manifest, run, Tolerance(2e-5, 2e-5, 2e-5, 2e-5)) is None
