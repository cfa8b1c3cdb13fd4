"""Drift of the bundled model's real cells: the test block lies within the thresholds, and what is changed beyond them.

The reference is of the calibration block, which lies between the pictures learned from and those tested.
"""

import csv
from functools import cache

import numpy as np
import pytest
from checkout import SHARED
from drifting import Shift, blurred, compressed, darker, same, stained
from numpy.typing import NDArray
from PIL import Image

from model.drift.distance import DriftMeasurement
from model.drift.reference import read_reference
from model.image import decode
from service.inference.drift_window import DriftWindow
from service.runtime.artifact import bundled_artefact
from service.runtime.session import open_session

CELLS = SHARED / "cells"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CELLS.is_dir(), reason="no real cells: the folder ../shared/cells is not there"),
]
SESSION = cache(lambda: open_session(bundled_artefact(), provider="cpu"))


@cache
def cells(source: str = "matek2021") -> NDArray[np.uint8]:
    """Every picture of a source's test block, (N, 128, 128, 3), class by class in file order."""
    with bundled_artefact().with_suffix(".split.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["block"] == "test" and row["source"] == source]
    paths = [CELLS / source / row["code"] / row["file"] for row in rows]
    return np.stack([decode(path.read_bytes(), 128) for path in paths])


def window_of(images: NDArray[np.uint8]) -> DriftMeasurement:
    reference = read_reference(bundled_artefact().with_suffix(".drift.json"), SESSION().manifest.drift_sha256)
    window = DriftWindow(reference, 100_000)
    for start in range(0, len(images), 16):
        outputs = SESSION().run(images[start : start + 16])
        window.add(outputs.embedding, outputs.probabilities, images[start : start + 16])
    return window.measure()


def shifted(images: NDArray[np.uint8], shift: Shift) -> NDArray[np.uint8]:
    return np.stack([np.asarray(shift(Image.fromarray(image))) for image in images])


def mixed(count: int, seed: int) -> NDArray[np.uint8]:
    """So many of the test block, drawn at random."""
    return cells()[np.random.default_rng(seed).permutation(len(cells()))[:count]]


@pytest.mark.parametrize("part", ["all", "every other", "the others", "200 at random"])
def test_undrifted_pictures_lie_within_every_threshold(part: str) -> None:
    chosen = {"all": cells(), "every other": cells()[::2], "the others": cells()[1::2], "200 at random": mixed(200, 3)}
    reading = window_of(chosen[part])
    assert reading.pictures == len(chosen[part]) and len(reading.distances) == 4
    assert reading.drifted() == []


@pytest.mark.parametrize(
    ("shift", "kinds"),
    [
        (same, set()),
        (stained(1 / 32), {"colour"}),  # 11 degrees
        (darker(0.7), {"colour"}),
        (blurred(1.0), {"sharpness", "embedding"}),
        (compressed(30), {"embedding"}),
    ],
    ids=["same", "stain 11°", "0.7 of the light", "blur 1 px", "JPEG 30"],
)
def test_a_shift_raises_the_kinds_that_it_is_of(shift: Shift, kinds: set[str]) -> None:
    assert kinds <= set(window_of(shifted(mixed(300, 0), shift)).drifted())
    if not kinds:
        assert window_of(mixed(300, 0)).drifted() == []


def test_another_mix_of_classes_is_told_as_such_alone() -> None:
    """Blasts and segmented neutrophils alone, of the same slides."""
    reading = window_of(np.concatenate([cells()[:100], cells()[400:500]]))
    assert reading.drifted() == ["class_mix"]


def test_blood_from_another_camera_is_far_away() -> None:
    reading = window_of(cells("acevedo2020")[::3])
    assert set(reading.drifted()) == {"embedding", "colour", "sharpness", "class_mix"}
    assert reading.distances["colour"] > 4 * reading.thresholds["colour"]
