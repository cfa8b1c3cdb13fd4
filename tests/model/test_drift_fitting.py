"""Thresholds of a drift reference without known groups: slides of unknown order do not raise false alarms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.contract import read_manifest
from model.drift.distance import DriftMeter, FeatureSums
from model.drift.features import features, picture_features
from model.drift.fitting import COLOUR_SPLITS, ReferenceSamples, colour_groups, fit_reference
from model.drift.reference import DriftReference
from service.runtime.artifact import bundled_artefact

MANIFEST = read_manifest(bundled_artefact().with_suffix(".json"))
EACH, CLASSES = 10, 5


def _pictures(slides: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.uint8]:
    """Pictures (N, 16, 16, 3) of noise around the colour of each slide."""
    colours = np.random.default_rng(99).uniform(110, 200, (slides.max() + 1, 3))[slides]
    noise = random.normal(0, 12, (len(slides), 16, 16, 3)) + random.normal(0, 4, (len(slides), 1, 1, 3))
    return np.rint(colours[:, None, None] + noise).clip(0, 255).astype(np.uint8)


def _outputs(count: int, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings and probabilities that do not depend on the slide."""
    probabilities = np.zeros((count, len(MANIFEST.codes)), np.float32)
    probabilities[np.arange(count), random.integers(CLASSES, size=count)] = 1
    return random.normal(size=(count, 12)).astype(np.float32), probabilities


def _reference(groups: list[int]) -> DriftReference:
    """Of 400 pictures of forty slides in a random order."""
    random = np.random.default_rng(0)
    slides = random.permutation(np.repeat(np.arange(40), EACH))
    samples = ReferenceSamples()
    samples.add(*_outputs(len(slides), random), _pictures(slides, random), groups)
    return fit_reference(samples, MANIFEST, "noise", draws=300)


def _alarms(reference: DriftReference) -> int:
    """Windows of colour above the threshold, of 60 windows of 100 pictures from eight other slides each."""
    random, meter, above = np.random.default_rng(1), DriftMeter(reference), 0
    for _ in range(60):
        slides = 40 + random.permutation(40)[:8][random.integers(8, size=100)]
        embeddings, probabilities = _outputs(100, random)
        rows = features(embeddings, _pictures(slides, random), reference.centre, reference.basis())
        sums = FeatureSums.empty(*meter.size)
        sums.add(probabilities.argmax(axis=1), rows)
        above += "colour" in meter.measure(sums).drifted()
    return above


def test_undrifted_pictures_of_few_slides_stay_below_and_runs_of_files_would_not_keep_them_there() -> None:
    assert _alarms(_reference([])) <= 2
    assert _alarms(_reference([at // 5 for at in range(400)])) > 20


@given(st.integers(1, 300), st.integers(1, 4))
def test_groups_of_like_colour_are_of_about_equal_size(count: int, classes: int) -> None:
    random = np.random.default_rng(count)
    predicted = random.integers(classes, size=count)
    groups = colour_groups(random.random((count, 8), dtype=np.float32), predicted)
    sizes = np.bincount(groups, minlength=2**COLOUR_SPLITS)
    assert len(groups) == count and sizes.max() - sizes.min() <= 1


def test_pictures_of_two_lights_are_in_no_common_group_whatever_their_class() -> None:
    random = np.random.default_rng(0)
    lights, predicted = np.repeat([0, 1], 100), random.integers(3, size=200)
    pictures = (
        random.integers(100, 110, (200, 8, 8, 3))
        + 60 * lights[:, None, None, None]
        + 20 * predicted[:, None, None, None]
    )
    groups = colour_groups(picture_features(pictures.astype(np.uint8)), predicted)
    assert not set(groups[lights == 0]) & set(groups[lights == 1])


def test_some_groups_are_not_enough() -> None:
    samples = ReferenceSamples()
    random = np.random.default_rng(0)
    samples.add(*_outputs(240, random), _pictures(np.arange(240), random), [at // 60 for at in range(240)])
    with pytest.raises(ValueError, match="240 pictures in 4 groups; a drift reference needs at least 200"):
        fit_reference(samples, MANIFEST, "noise", draws=100)
