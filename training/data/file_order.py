"""Does the file order follow slides? Autocorrelation of the appearance of neighbouring files, and its p value.

If neighbouring files came from one slide, they would be more alike in background, stain and sharpness than any two
files of the class. Where they are not, contiguous blocks of files are a random split in effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.appearance import BACKGROUND, SHARPNESS, STAIN, Appearance
from training.data.cache import Rows
from training.data.samples import Sample

PERMUTATIONS = 2000
#: Fewer pictures of a class are left out: their autocorrelation is noise.
MIN_PICTURES = 30
TRAITS = ("background lightness", "background tint", "stain", "sharpness")


@dataclass(frozen=True, slots=True)
class FileOrder:
    """Lag-1 autocorrelation of each of the TRAITS over the files of a class, with two-sided permutation p values."""

    source: str
    code: str
    n: int
    autocorrelation: tuple[float, ...]
    p: tuple[float, ...]


def measure_file_order(samples: Sequence[Sample], rows: Rows, seed: int = 0) -> list[FileOrder]:
    """The autocorrelation in each class of each source with at least MIN_PICTURES readable pictures.

    Args:
        rows: from `measure_appearance`.
    """
    order = sorted(range(len(rows.indices)), key=lambda row: samples[rows.indices[row]].sort_key)
    strata: dict[tuple[str, str], list[int]] = {}
    for row in order:
        sample = samples[rows.indices[row]]
        strata.setdefault((sample.source, sample.code), []).append(row)
    random = np.random.default_rng(seed)
    found = []
    for (source, code), members in strata.items():
        if len(members) >= MIN_PICTURES:
            measured = [autocorrelation(trait, random) for trait in traits(rows.array[members]).T]
            values, p = zip(*measured, strict=True)
            found.append(FileOrder(source, code, len(members), values, p))
    return found


def traits(appearance: Appearance) -> NDArray[np.float64]:
    """The TRAITS (N, 4): mean and red minus blue of the background, share of red in the stain, sharpness."""
    background, stain = appearance[:, BACKGROUND], appearance[:, STAIN]
    columns = (background.mean(axis=1), background[:, 0] - background[:, 2], stain[:, 0], appearance[:, SHARPNESS])
    return np.stack(columns, axis=1).astype(np.float64)


def autocorrelation(values: NDArray[np.float64], random: np.random.Generator) -> tuple[float, float]:
    """Lag-1 autocorrelation of a series (N,), and its two-sided p value over random orders of it.

    A constant series has 0 and p = 1.
    """
    centred = values - values.mean()
    power = float(centred @ centred)
    if not power:
        return 0.0, 1.0
    found = float(centred[1:] @ centred[:-1]) / power
    shuffled = random.permuted(np.tile(centred, (PERMUTATIONS, 1)), axis=1)
    draws = (shuffled[:, 1:] * shuffled[:, :-1]).sum(axis=1) / power
    as_far = int((np.abs(draws) >= abs(found) - 1e-12).sum())
    return found, (as_far + 1) / (PERMUTATIONS + 1)
