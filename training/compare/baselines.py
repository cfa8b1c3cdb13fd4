"""Classical baselines: a scikit-learn classifier on hand-crafted colour, texture and shape features of a cell.

scikit-image measures the features. The nucleus is segmented as the part that absorbs most green light (azure and eosin
both do), by two Otsu thresholds on optical density. This is an approximation: these data sets have no outlines.
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

ClassicalKind = Literal["boosting", "forest", "logistic"]
Values = NDArray[np.float64]
Mask = NDArray[np.bool_]  # (S, S)

HARALICK = ("contrast", "homogeneity", "ASM", "correlation")
GREY_LEVELS = 16
DISTANCES = (1, 2, 4)  # pixels between the two of a pair: texture features depend on the picture size
ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)  # averaged: a rotation by 90° changes nothing
LOCAL_PATTERNS = ((8, 1), (16, 3))  # points on a circle, its radius in pixels
HISTOGRAM_BINS = 8


class ClassicalModel:
    """A classifier on colour, texture and shape features.

    Args:
        classes: number of probabilities; classes without a training picture get 0.
        kind: boosting (gradient-boosted trees), forest (random forest) or logistic (multinomial regression on
            standardised features).
        seed: random seed of the trees.
        processes: processes that measure features in parallel.
    """

    def __init__(self, classes: int, kind: ClassicalKind = "boosting", seed: int = 0, processes: int = 1) -> None:
        self.classes = classes
        self.processes = processes
        self._pipeline = make_pipeline(StandardScaler(), _classifier(kind, seed))

    def fit_features(self, features: Values, labels: NDArray[np.int64]) -> Self:
        """Fit to features (N, F) and class indices (N,), with balanced class weights."""
        self._pipeline.fit(features, labels)
        return self

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, classes) of pictures (N, S, S, 3) of the training size."""
        known = self._pipeline.predict_proba(self.measure(images))
        probabilities = np.zeros((len(images), self.classes), np.float32)
        probabilities[:, self._pipeline.classes_] = known
        return probabilities

    def measure(self, images: NDArray[np.uint8]) -> Values:
        """Features (N, F) of pictures (N, S, S, 3)."""
        rows = Parallel(n_jobs=self.processes)(delayed(measure_features)(image) for image in images)
        return np.stack(rows)


def _classifier(kind: ClassicalKind, seed: int) -> ClassifierMixin:
    if kind == "boosting":
        return HistGradientBoostingClassifier(
            max_iter=200, learning_rate=0.08, l2_regularization=1.0, class_weight="balanced", random_state=seed
        )
    if kind == "forest":
        return RandomForestClassifier(500, min_samples_leaf=2, class_weight="balanced", random_state=seed)
    return LogisticRegression(C=0.3, max_iter=2000, class_weight="balanced")


@dataclass(frozen=True, slots=True)
class CellMasks:
    """Masks of the nucleus and of the whole cell."""

    nucleus: Mask
    cell: Mask

    @property
    def cytoplasm(self) -> Mask:
        """The cell without its nucleus."""
        return self.cell & ~self.nucleus


def measure_features(image: NDArray[np.uint8]) -> Values:
    """All features (F,) of one picture, RGB uint8 (S, S, 3); F is the same for all pictures."""
    density = optical_density(image)
    lab = rgb2lab(image)
    masks = segment(density[..., 1])
    planes = np.concatenate([lab, density], axis=2)
    grey = np.digitize(density[..., 1], np.linspace(0, 1.2, GREY_LEVELS)).astype(np.uint8)  # 1..16
    regions = [masks.nucleus, masks.cytoplasm]
    return np.concatenate(
        [
            *(_colour_moments(planes, region) for region in regions),
            _colour_histograms(lab, masks.cell),
            *(_haralick(grey, region) for region in regions),
            _local_patterns(density[..., 1], masks.cell),
            _shape(masks),
        ]
    )


def optical_density(image: NDArray[np.uint8]) -> Values:
    """Optical density (S, S, 3): -log10 of the transmitted light, additive over stains (Beer-Lambert)."""
    return -np.log10((image.astype(np.float64) + 1) / 256)


def segment(green_density: Values) -> CellMasks:
    """Nucleus and cell in the middle of the picture, from the optical density of green, (S, S).

    Two thresholds separate background, cytoplasm and nucleus. Of each mask, the components that reach into the middle
    third are kept, or all components if none does.
    """
    smooth = ndimage.gaussian_filter(green_density, len(green_density) / 128)
    try:
        low, high = threshold_multiotsu(smooth, 3)
    except ValueError:  # fewer than three grey levels
        low = high = float(smooth.mean())
    nucleus = _central_components(smooth > high)
    cell = _central_components((smooth > low) | nucleus)
    return CellMasks(nucleus & cell, cell)


def _central_components(mask: Mask) -> Mask:
    side = len(mask)
    middle = slice(side // 3, side - side // 3)
    labels = label(mask, connectivity=1)
    central = np.unique(labels[middle, middle])
    kept = np.isin(labels, central[central > 0]) if central.any() else mask
    return ndimage.binary_fill_holes(kept)


def _colour_moments(planes: Values, region: Mask) -> Values:
    """Mean, standard deviation and cube root of the third moment of each plane in a region; 0 if it is empty."""
    inside = planes[region]
    if not len(inside):
        return np.zeros(3 * planes.shape[2])
    mean = inside.mean(axis=0)
    third = ((inside - mean) ** 3).mean(axis=0)
    return np.concatenate([mean, inside.std(axis=0), np.cbrt(third)])


def _colour_histograms(lab: Values, region: Mask) -> Values:
    """Histograms of lightness, chroma and hue (the angle in the a-b plane) in a region, 8 bins each, as shares."""
    lightness, a, b = lab[region].T
    chroma, hue = np.hypot(a, b), np.arctan2(b, a)
    ranges = ((0.0, 100.0), (0.0, 80.0), (-np.pi, np.pi))
    counts = [
        np.histogram(plane, HISTOGRAM_BINS, limits)[0]
        for plane, limits in zip((lightness, chroma, hue), ranges, strict=True)
    ]
    return np.concatenate(counts) / max(len(lightness), 1)


def _haralick(grey: NDArray[np.uint8], region: Mask) -> Values:
    """Haralick features (1973) of the pairs inside a region, at three distances, averaged over directions."""
    inside = np.where(region, grey, 0)
    levels = GREY_LEVELS + 1
    pairs = graycomatrix(inside, DISTANCES, ANGLES, levels, symmetric=True)[1:, 1:].astype(np.float64)
    pairs /= np.maximum(pairs.sum(axis=(0, 1)), 1)
    return np.concatenate([graycoprops(pairs, name).mean(axis=1) for name in HARALICK])


def _local_patterns(density: Values, region: Mask) -> Values:
    """Histograms of rotation-invariant uniform local binary patterns (Ojala 2002) in a region, as shares."""
    grey = np.clip(density * 200, 0, 255).astype(np.uint8)
    shares = []
    for points, radius in LOCAL_PATTERNS:
        patterns = local_binary_pattern(grey, points, radius, "uniform")[region]
        shares.append(np.bincount(patterns.astype(np.int64), minlength=points + 2) / max(len(patterns), 1))
    return np.concatenate(shares)


def _shape(masks: CellMasks) -> Values:
    """Outline of nucleus and cell, number and size of lobes, nucleus-to-cell ratio, nuclear offset, Hu moments."""
    nucleus, cell = _outline(masks.nucleus), _outline(masks.cell)
    lobes = np.bincount(label(masks.nucleus, connectivity=1).ravel())[1:]
    lobes = lobes[lobes > 0.01 * masks.cell.sum()]
    ratio = masks.nucleus.sum() / max(masks.cell.sum(), 1)
    largest = lobes.max() / lobes.sum() if len(lobes) else 0.0
    offset = 0.0
    if masks.nucleus.any():
        centres = [np.array(ndimage.center_of_mass(mask)) for mask in (masks.nucleus, masks.cell)]
        offset = float(np.hypot(*(centres[0] - centres[1]))) / np.sqrt(masks.cell.sum() / np.pi)
    return np.array([*nucleus, *cell, len(lobes), largest, ratio, offset, *_hu(masks.nucleus)])


def _outline(mask: Mask) -> tuple[float, ...]:
    """Area (share of the picture), eccentricity, solidity, extent and roundness 4 π A / P² of a mask as one region."""
    if not mask.any():
        return (0.0,) * 5
    (region,) = regionprops(mask.astype(np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the convex hull of a line has no area
        solidity = region.solidity if region.area > 3 else 1.0
    roundness = 4 * np.pi * region.area / region.perimeter**2 if region.perimeter else 1.0
    return region.area / mask.size, region.eccentricity, solidity, region.extent, min(roundness, 2.0)


def _hu(mask: Mask) -> Values:
    """Hu's seven moments, invariant to rotation and scale, as signed logarithms.

    Mirroring changes the sign of the seventh, so its absolute value is used.
    """
    if not mask.any():
        return np.zeros(7)
    hu = moments_hu(moments_normalized(moments_central(mask.astype(np.float64))))
    hu[6] = abs(hu[6])
    return np.sign(hu) * -np.log10(np.abs(hu) + 1e-12)
