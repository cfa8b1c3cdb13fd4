"""Appearance of a picture: colour of background and stain, and sharpness; clusters of it as a proxy for slides.

Slides differ in light and stain. If patients are unknown, pictures of like background and stain are kept together in
place of those of a slide. This is a proxy: two slides may look alike, and one slide may be in two clusters.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from model.drift.features import picture_features
from model.image import decode
from training.data.cache import Recipe, Rows, cached_rows
from training.data.images import decoder_version
from training.data.samples import Sample

Appearance = NDArray[np.float32]  # (N, 7): background red, green, blue; stain red, green, blue; sharpness
BACKGROUND, STAIN, SHARPNESS = slice(0, 3), slice(3, 6), 6
COLOURS = slice(0, 6)  # of background and stain
SIDE = 96
#: The background are the brightest and least saturated pixels.
BACKGROUND_SHARE = 0.2
#: Smallest optical density, summed over red, green and blue, of a stained pixel.
STAINED = 0.3
#: Initialisations of k-means; the best is used.
INITIALISATIONS = 10
_DARKEST = 1 / 255


def appearance(picture: NDArray[np.uint8]) -> Appearance:
    """Appearance (7,) of an RGB picture (S, S, 3).

    Background: median colour, 0 to 1. Stain: share of each channel in the optical density of the stained pixels
    (Beer-Lambert, relative to the background), which hardly depends on the size of the cell. Sharpness: logarithm of
    the mean absolute second difference (model/drift/features.py).
    """
    pixels = picture.reshape(-1, 3).astype(np.float32) / 255  # (S * S, 3)
    grey = pixels.mean(axis=1) - (pixels.max(axis=1) - pixels.min(axis=1))  # lightness minus saturation
    background = np.median(pixels[grey >= np.quantile(grey, 1 - BACKGROUND_SHARE)], axis=0)
    density = np.log(np.maximum(background, _DARKEST) / np.maximum(pixels, _DARKEST)).clip(min=0)
    totals = density[density.sum(axis=1) > STAINED].sum(axis=0)
    stain = totals / totals.sum() if totals.sum() else np.full(3, 1 / 3, np.float32)
    return np.concatenate([background, stain, picture_features(picture[None])[0, -1:]], dtype=np.float32)


def measure_appearance(samples: Sequence[Sample], cache: Path | None) -> Rows:
    """The appearance (7,) of each readable sample; of the whole picture, regardless of its source's crop."""
    version = f"appearance {decoder_version(Path(__file__))}"
    recipe = Recipe(lambda _, data: appearance(decode(data, SIDE)), (7,), np.float32, version)
    return cached_rows(samples, recipe, cache, "measuring appearance")


def appearance_pairs(
    samples: Sequence[Sample], rows: Rows, groups: NDArray[np.int64], clusters: int, seed: int
) -> list[tuple[int, int]]:
    """Pairs that connect all pictures of a cluster of background and stain colour within a source.

    k-means on colours that are standardised within the source. The result does not depend on the order of the samples.
    Unreadable pictures are in no pair.

    Args:
        rows: from `measure_appearance`.
        groups: (N,) number of each sample's group of near duplicates, which are clustered as one picture.
        clusters: clusters of each source, or fewer if a source has fewer groups.
    """
    heads: dict[tuple[str, int], list[int]] = defaultdict(list)  # source and group → rows
    for row in sorted(range(len(rows.indices)), key=lambda row: samples[rows.indices[row]].sort_key):
        at = rows.indices[row]
        heads[samples[at].source, int(groups[at])].append(row)
    pairs: list[tuple[int, int]] = []
    for source in dict.fromkeys(source for source, _ in heads):
        members = [found for (name, _), found in heads.items() if name == source]
        colours = np.array([rows.array[found][:, COLOURS].mean(axis=0, dtype=np.float64) for found in members])
        clustered: dict[int, list[int]] = defaultdict(list)
        for found, cluster in zip(members, _clusters(colours, clusters, seed), strict=True):
            clustered[cluster] += [rows.indices[row] for row in found]
        pairs += [pair for together in clustered.values() for pair in pairwise(together)]
    return pairs


def _clusters(colours: NDArray[np.float64], count: int, seed: int) -> list[int]:
    spread = colours.std(axis=0)
    scaled = (colours - colours.mean(axis=0)) / np.where(spread > 0, spread, 1)
    count = min(count, len(np.unique(scaled, axis=0)))
    found: list[int] = KMeans(count, n_init=INITIALISATIONS, random_state=seed).fit_predict(scaled).tolist()
    return found
