"""Classical machine learning: features with names, and a classifier that knows nothing of pictures.

What a network is compared with where the question is what it adds over measuring. Knows features and labels; knows no
files and no networks. scikit-learn (BSD) learns; joblib, its own dependency, spreads the measuring over processes.
"""

import warnings
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.filters import threshold_multiotsu
from skimage.measure import label, moments_central, moments_hu, moments_normalized, regionprops
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Kind = Literal["boosting", "forest", "logistic"]


class ClassicalModel:
    """Colour, texture and shape of a cell → a class, with the methods that a comparison asks for.

    Args:
        classes: width of the answer; classes without a training picture get probability 0.
        kind: boosting (gradient-boosted trees), forest (random forest) or logistic (multinomial regression on
            standardised features).
        seed: of the trees.
        processes: that measure pictures side by side.
    """

    def __init__(self, classes: int, kind: Kind = "boosting", seed: int = 0, processes: int = 1) -> None:
        self.classes = classes
        self.processes = processes
        self._learner = make_pipeline(StandardScaler(), _classifier(kind, seed))

    def fit(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Self:
        """Learn from pictures (N, S, S, 3) and their classes (N,), each class weighted alike."""
        return self.learn(self.measure(images), labels)

    def learn(self, features: NDArray[np.float64], labels: NDArray[np.int64]) -> Self:
        """The same from features that were measured before, (N, F)."""
        self._learner.fit(features, labels)
        return self

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, classes) of pictures (N, S, S, 3) of the size that was learned from."""
        found = self._learner.predict_proba(self.measure(images))
        probabilities = np.zeros((len(images), self.classes), np.float32)
        probabilities[:, self._learner.classes_] = found
        return probabilities

    def measure(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Features (N, F) of pictures (N, S, S, 3)."""
        rows = Parallel(n_jobs=self.processes)(delayed(measure)(image) for image in images)
        return np.stack(rows)


def _classifier(kind: Kind, seed: int) -> ClassifierMixin:
    if kind == "boosting":
        return HistGradientBoostingClassifier(
            max_iter=200, learning_rate=0.08, l2_regularization=1.0, class_weight="balanced", random_state=seed
        )
    if kind == "forest":
        return RandomForestClassifier(500, min_samples_leaf=2, class_weight="balanced", random_state=seed)
    return LogisticRegression(C=0.3, max_iter=2000, class_weight="balanced")


Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

HARALICK = ("contrast", "homogeneity", "ASM", "correlation")
GREY_LEVELS = 16
#: Pixels between the two of a pair; what "fine" means thus goes with the size of the picture.
DISTANCES = (1, 2, 4)
QUARTER_TURNS = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)  # averaged: turned by 90°, a cell has the same texture
LOCAL_PATTERNS = ((8, 1), (16, 3))  # points on a circle, its radius in pixels
HISTOGRAM_BINS = 8


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the picture is what; bool (S, S) each."""

    nucleus: Mask
    cell: Mask

    @property
    def cytoplasm(self) -> Mask:
        """The cell without its nucleus."""
        return self.cell & ~self.nucleus


def measure(image: NDArray[np.uint8]) -> Values:
    """All features of one picture, RGB uint8 (S, S, 3) → (F,); F does not depend on the picture."""
    density = optical_density(image)
    lab = rgb2lab(image)
    parts = segment(density[..., 1])
    planes = np.concatenate([lab, density], axis=2)
    grey = np.digitize(density[..., 1], np.linspace(0, 1.2, GREY_LEVELS)).astype(np.uint8)  # 1..16
    regions = [parts.nucleus, parts.cytoplasm]
    return np.concatenate(
        [
            *(_colour_moments(planes, region) for region in regions),
            _colour_histograms(lab, parts.cell),
            *(_haralick(grey, region) for region in regions),
            _local_patterns(density[..., 1], parts.cell),
            _shape(parts),
        ]
    )


def optical_density(image: NDArray[np.uint8]) -> Values:
    """-log10 of the transmitted share, which adds up where stains lie over one another (Beer-Lambert), (S, S, 3)."""
    return -np.log10((image.astype(np.float64) + 1) / 256)


def segment(green_density: Values) -> Parts:
    """Nucleus and cell in the middle of the picture, from the optical density of green, (S, S).

    Two thresholds part background, cytoplasm and nucleus. Of each, what is connected to the middle third stays; where
    nothing is, everything above the threshold does.
    """
    smooth = ndimage.gaussian_filter(green_density, len(green_density) / 128)
    try:
        low, high = threshold_multiotsu(smooth, 3)
    except ValueError:  # fewer than three grey values
        low = high = float(smooth.mean())
    nucleus = _in_the_middle(smooth > high)
    cell = _in_the_middle((smooth > low) | nucleus)
    return Parts(nucleus & cell, cell)


def _in_the_middle(mask: Mask) -> Mask:
    side = len(mask)
    middle = slice(side // 3, side - side // 3)
    labels = label(mask, connectivity=1)
    met = np.unique(labels[middle, middle])
    kept = np.isin(labels, met[met > 0]) if met.any() else mask
    return ndimage.binary_fill_holes(kept)


def _colour_moments(planes: Values, region: Mask) -> Values:
    """Mean, deviation and skewness (its cube root) of each plane within a region; zeros where it is empty."""
    inside = planes[region]
    if not len(inside):
        return np.zeros(3 * planes.shape[2])
    mean = inside.mean(axis=0)
    third = ((inside - mean) ** 3).mean(axis=0)
    return np.concatenate([mean, inside.std(axis=0), np.cbrt(third)])


def _colour_histograms(lab: Values, region: Mask) -> Values:
    """Shares of lightness, chroma and hue (the angle in the a-b plane) within a region, 8 bins each."""
    lightness, a, b = lab[region].T
    chroma, hue = np.hypot(a, b), np.arctan2(b, a)
    ranges = ((0.0, 100.0), (0.0, 80.0), (-np.pi, np.pi))
    counts = [
        np.histogram(plane, HISTOGRAM_BINS, limits)[0]
        for plane, limits in zip((lightness, chroma, hue), ranges, strict=True)
    ]
    return np.concatenate(counts) / max(len(lightness), 1)


def _haralick(grey: NDArray[np.uint8], region: Mask) -> Values:
    """Haralick's texture (1973) of pairs that lie within a region, at three distances, averaged over directions."""
    inside = np.where(region, grey, 0)
    levels = GREY_LEVELS + 1
    pairs = graycomatrix(inside, DISTANCES, QUARTER_TURNS, levels, symmetric=True)[1:, 1:].astype(np.float64)
    pairs /= np.maximum(pairs.sum(axis=(0, 1)), 1)
    return np.concatenate([graycoprops(pairs, name).mean(axis=1) for name in HARALICK])


def _local_patterns(density: Values, region: Mask) -> Values:
    """Shares of the rotation-invariant uniform local binary patterns (Ojala 2002) within a region."""
    grey = np.clip(density * 200, 0, 255).astype(np.uint8)
    shares = []
    for points, radius in LOCAL_PATTERNS:
        patterns = local_binary_pattern(grey, points, radius, "uniform")[region]
        shares.append(np.bincount(patterns.astype(np.int64), minlength=points + 2) / max(len(patterns), 1))
    return np.concatenate(shares)


def _shape(parts: Parts) -> Values:
    """Sizes as shares of the picture, form of the nucleus, lobes, its share of the cell and its place in it."""
    nucleus, cell = _outline(parts.nucleus), _outline(parts.cell)
    lobes = np.bincount(label(parts.nucleus, connectivity=1).ravel())[1:]
    lobes = lobes[lobes > 0.01 * parts.cell.sum()]
    ratio = parts.nucleus.sum() / max(parts.cell.sum(), 1)
    largest = lobes.max() / lobes.sum() if len(lobes) else 0.0
    offset = 0.0
    if parts.nucleus.any():
        centres = [np.array(ndimage.center_of_mass(mask)) for mask in (parts.nucleus, parts.cell)]
        offset = float(np.hypot(*(centres[0] - centres[1]))) / np.sqrt(parts.cell.sum() / np.pi)
    return np.array([*nucleus, *cell, len(lobes), largest, ratio, offset, *_hu(parts.nucleus)])


def _outline(mask: Mask) -> tuple[float, ...]:
    """Area, eccentricity, solidity, extent and roundness 4 π A / P² of a mask taken as one region."""
    if not mask.any():
        return (0.0,) * 5
    (region,) = regionprops(mask.astype(np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hull of a line has no area, and is said to
        solidity = region.solidity if region.area > 3 else 1.0
    roundness = 4 * np.pi * region.area / region.perimeter**2 if region.perimeter else 1.0
    return region.area / mask.size, region.eccentricity, solidity, region.extent, min(roundness, 2.0)


def _hu(mask: Mask) -> Values:
    """Hu's seven moments, which turning and scaling leave alone, on a logarithmic scale that keeps their signs.

    The seventh changes its sign in a mirror; a cell has no handedness, so its sign is dropped.
    """
    if not mask.any():
        return np.zeros(7)
    hu = moments_hu(moments_normalized(moments_central(mask.astype(np.float64))))
    hu[6] = abs(hu[6])
    return np.sign(hu) * -np.log10(np.abs(hu) + 1e-12)
