"""Novelty: the distance is that of a Gaussian (scikit-learn, pytorch-ood), and p-values keep their promise."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_ood.detector import Mahalanobis
from sklearn.decomposition import PCA

from model.packing import unpack_floats
from model.trust.fitting import DIRECTIONS, LabelledPredictions, fit_trust
from model.trust.novelty import MahalanobisDistance, p_values
from model.trust.reference import ClassGaussians, TrustReference

CODES = ("A", "B", "C")


def _cells(count: int, size: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings of three classes with means of their own and one covariance, and their labels."""
    generator = np.random.default_rng(seed)
    spread = np.random.default_rng(size).normal(size=(size, size)) * np.linspace(3, 0.2, size)
    means = np.random.default_rng(7).normal(size=(3, size)) * 10
    labels = np.repeat(np.arange(3), count)
    return (means[labels] + generator.normal(size=(3 * count, size)) @ spread.T).astype(np.float32), labels


def _reference(size: int, count: int = 200) -> TrustReference:
    embeddings, labels = _cells(count, size, 0)
    held_out, held_labels = _cells(count, size, 1)
    probabilities = np.eye(3, dtype=np.float32)[held_labels]
    known = LabelledPredictions(probabilities, held_out, np.ones((len(held_out), 6), np.float32), held_labels)
    return fit_trust(embeddings, labels, known, CODES, "drawn from Gaussians")


def test_with_all_directions_the_distance_is_that_of_pytorch_ood() -> None:
    size = DIRECTIONS  # the last direction alone is the residual: nothing is approximated
    embeddings, labels = _cells(200, size, 0)
    theirs = Mahalanobis(None).fit_features(torch.from_numpy(embeddings), torch.from_numpy(labels))
    asked, _ = _cells(50, size, 2)
    expected = np.sqrt(2 * len(embeddings) * theirs.predict_features(torch.from_numpy(asked)).numpy())
    found = MahalanobisDistance(_reference(size).novelty.gaussians).measure(asked)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_with_fewer_directions_the_distance_is_that_of_probabilistic_pca() -> None:
    """scikit-learn's log density of one class is -(d² + a constant) / 2 (Tipping and Bishop 1999)."""
    size = 40
    gaussians = _reference(size).novelty.gaussians
    embeddings, labels = _cells(200, size, 0)
    centred = embeddings - np.stack([embeddings[labels == at].mean(axis=0) for at in range(3)])[labels]
    pca = PCA(DIRECTIONS).fit(centred)
    asked, asked_labels = _cells(20, size, 3)
    nearest = asked - unpack_floats(gaussians.means).reshape(3, size)[asked_labels]  # the classes are far apart
    squared = -2 * pca.score_samples(nearest)
    constant = squared[0] - MahalanobisDistance(gaussians).measure(asked)[0] ** 2
    # scikit-learn divides by N - 1 instead of N.
    np.testing.assert_allclose(MahalanobisDistance(gaussians).measure(asked) ** 2, squared - constant, rtol=0.01)


def test_p_values_of_known_cells_are_uniform_and_of_others_small() -> None:
    reference = _reference(24)
    distance, known = (
        MahalanobisDistance(reference.novelty.gaussians),
        np.array(reference.novelty.distances, np.float32),
    )
    of_known = p_values(known, distance.measure(_cells(2000, 24, 5)[0]))
    for level in (0.03, 0.1, 0.5):
        assert np.mean(of_known <= level) == pytest.approx(level, abs=0.03)
    far = _cells(10, 24, 6)[0] + np.float32(100)
    np.testing.assert_allclose(p_values(known, distance.measure(far)), 1 / (len(known) + 1))


def test_p_values_count_the_picture_itself_and_nan_is_farthest() -> None:
    known = np.array([1, 2, 3, 4], np.float32)
    found = p_values(known, np.array([0.5, 1, 2.5, 4, 5, np.nan], np.float32))
    np.testing.assert_allclose(found, np.array([5, 5, 3, 2, 1, 1]) / 5)


def test_embeddings_of_one_value_have_a_finite_distance() -> None:
    """A constant direction has no variance; the distance stays finite, and other embeddings are far."""
    embeddings = np.ones((60, 20), np.float32)
    known = LabelledPredictions(
        np.ones((60, 1), np.float32), embeddings, np.ones((60, 6), np.float32), np.zeros(60, np.int64)
    )
    reference = fit_trust(embeddings, np.zeros(60, np.int64), known, ("A",), "equal cells")
    found = MahalanobisDistance(reference.novelty.gaussians).measure(np.stack([embeddings[0], embeddings[0] + 1]))
    assert found[0] < 1 and np.isfinite(found[1]) and found[1] > 1000


def test_gaussians_of_other_sizes_are_refused() -> None:
    gaussians = _reference(24).novelty.gaussians.model_dump()
    with pytest.raises(ValueError, match="sizes of means"):
        ClassGaussians.model_validate(gaussians | {"variances": gaussians["variances"][:-1]})
    with pytest.raises(ValueError, match="float32, little-endian, in base64"):
        ClassGaussians.model_validate(gaussians | {"means": "!"})
