"""What is asked of a graph once it has computed, told apart from what it declares."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.contract import ArtefactError, Manifest, read_manifest
from model.probes import probe_images
from service.runtime.artifact import Tensor, check_computed, check_declared
from service.runtime.session import open_session

Computed = dict[str, NDArray[np.float32]]


@pytest.fixture
def manifest(artefact: Path) -> Manifest:
    return read_manifest(artefact.with_suffix(".json"))


@pytest.fixture
def computed(artefact: Path, manifest: Manifest) -> Computed:
    outputs = open_session(artefact, provider="cpu").run(probe_images(manifest))
    return {name: array.copy() for name, array in outputs._asdict().items()}


def test_what_keeps_every_promise_passes(artefact: Path, manifest: Manifest, computed: Computed) -> None:
    check_computed(artefact, manifest, computed)


def test_the_probe_is_two_unlike_pictures_and_always_the_same(manifest: Manifest) -> None:
    images = probe_images(manifest)
    assert (images.shape, images.dtype) == ((2, 64, 64, 3), np.uint8)
    assert (images[0] != images[1]).mean() > 0.9
    assert (images == probe_images(manifest)).all()


@pytest.mark.parametrize("name", ["probabilities", "logits", "attention", "evidence", "embedding"])
def test_a_shape_that_only_running_shows(artefact: Path, manifest: Manifest, computed: Computed, name: str) -> None:
    computed[name] = computed[name][:, :2]
    with pytest.raises(ArtefactError, match=f"computes {name} of shape"):
        check_computed(artefact, manifest, computed)


@pytest.mark.parametrize("name", ["probabilities", "logits", "attention", "evidence", "embedding"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number(artefact: Path, manifest: Manifest, computed: Computed, name: str, value: float) -> None:
    computed[name].flat[1] = value
    with pytest.raises(ArtefactError, match=f"computes {name} with NaN or infinite values"):
        check_computed(artefact, manifest, computed)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("evidence", "not the mean of"), ("logits", "not the mean of"), ("probabilities", "not softmax")],
)
def test_numbers_that_do_not_belong_together(
    artefact: Path, manifest: Manifest, computed: Computed, name: str, sentence: str
) -> None:
    computed[name][1, 3] += 0.01
    with pytest.raises(ArtefactError, match=sentence):
        check_computed(artefact, manifest, computed)


@pytest.mark.parametrize("shape", [("N", 64, 64, 3), (None, None, None, None), ("batch", "side", "side", 3)])
def test_a_size_left_open_agrees_with_any(artefact: Path, manifest: Manifest, shape: tuple[int | str | None]) -> None:
    outputs = [Tensor(name, "tensor(float)", shape) for name, shape in manifest.outputs.items()]
    check_declared(artefact, manifest, [Tensor("image", "tensor(uint8)", shape)], outputs)


@pytest.mark.parametrize("shape", [("N", 64, 64), ("N", 3, 64, 64), (4, 64, 64, 3), ()])
def test_another_shape_does_not(artefact: Path, manifest: Manifest, shape: tuple[int | str | None]) -> None:
    with pytest.raises(ArtefactError, match="has image of shape"):
        check_declared(artefact, manifest, [Tensor("image", "tensor(uint8)", shape)], [])


def test_a_second_input_is_one_too_many(artefact: Path, manifest: Manifest) -> None:
    inputs = [Tensor("image", "tensor(uint8)", ("N", 64, 64, 3)), Tensor("mask", "tensor(uint8)", ("N",))]
    with pytest.raises(ArtefactError, match=r"has the inputs \['image', 'mask'\]; required: \['image'\]"):
        check_declared(artefact, manifest, inputs, [])
