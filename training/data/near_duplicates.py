"""A picture → 255 bits that stay when it is encoded again, resized or lit otherwise: a perceptual hash.

Knows pixels and the cosine transform. Knows nothing of pairs, thresholds or splits (training/data/near_duplicates.py).

The signs of the lowest 16 x 16 frequencies of the luminance at 64 px, without the mean: the DCT hash of Zauner (2010,
"Implementation and benchmarking of perceptual image hash functions", section 3.2.1) with 255 bits for 63 and sign for
median. Cells are dark discs in the middle of light fields: with 63 bits some differ in 5 (docs/data.md). The signs
make turned and mirrored copies easy: mirroring changes the sign of each odd frequency along the axis, a diagonal
swaps the axes. ImageHash's phash has 64 bits by default, goes picture by picture and sees no turn.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.fft import dctn

from model import csv_file
from model.image import decode
from training.data.cache import Recipe, Rows, cached_rows
from training.data.images import decoder_version
from training.data.samples import Block, Sample

Hashes = NDArray[np.uint64]  # (N, 4): the signs by parity of the two frequencies, in the order of PARITIES
PARITIES = ((0, 0), (1, 1), (0, 1), (1, 0))  # (vertical, horizontal); 64 bits each, of which the mean's is always 0
BITS = 255
SIDE, FREQUENCIES = 64, 16
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as JPEG's Y


def perceptual_hash(picture: NDArray[np.uint8]) -> Hashes:
    """The hash (4,) of an RGB picture (64, 64, 3)."""
    spectrum = dctn(picture @ LUMINANCE)[:FREQUENCIES, :FREQUENCIES]
    signs = spectrum > 0
    signs[0, 0] = False
    return pack(signs[None])[0]


def pack(signs: NDArray[np.bool_]) -> Hashes:
    """Signs (N, 16, 16) → words (N, 4)."""
    flat = (len(signs), (FREQUENCIES // 2) ** 2)
    planes = [np.packbits(signs[:, v::2, h::2].reshape(flat), axis=1) for v, h in PARITIES]
    return np.ascontiguousarray(np.stack(planes, axis=1)).view(np.uint64)[..., 0]


def transposed(words: Hashes) -> Hashes:
    """The words (N, 4) of the pictures mirrored at their diagonal."""
    octets = np.ascontiguousarray(words)[..., None].view(np.uint8)  # (N, 4, 8)
    planes = np.unpackbits(octets, axis=2).reshape(len(words), len(PARITIES), FREQUENCIES // 2, FREQUENCIES // 2)
    signs = np.empty((len(words), FREQUENCIES, FREQUENCIES), bool)
    for (v, h), plane in zip(PARITIES, planes.swapaxes(0, 1), strict=True):
        signs[:, h::2, v::2] = plane.swapaxes(1, 2)
    return pack(signs)


def hash_samples(samples: list[Sample], cache: Path | None) -> Rows:
    """The hash (4,) of each sample that can be decoded; the whole picture counts, whatever its source's crop."""
    version = f"fingerprint {decoder_version(Path(__file__))}"
    recipe = Recipe(lambda _, data: perceptual_hash(decode(data, SIDE)), (len(PARITIES),), np.uint64, version)
    return cached_rows(samples, recipe, cache, "comparing pictures")


#: Rows and columns of a block of pairs: 8 bytes each, some 1 MB.
ROWS, COLUMNS = 32, 4096
#: By mirroring of the second picture: none, left to right, top to bottom, both; and the same once swapped diagonally.
TURNS = ("as it is", "mirrored", "mirrored", "turned by 180°", "mirrored", "turned by 90°", "turned by 90°", "mirrored")
#: Which words (even even, odd odd, even odd, odd even) change all their signs in each mirroring.
FLIPPED = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool)


class DuplicatePair(NamedTuple):
    """Two pictures of the same cell."""

    first: int  # index of a sample, smaller than the second
    second: int
    distance: int  # bits that differ
    turn: str  # what was done to the second


def find_near_duplicates(words: Hashes, indices: Sequence[int], max_distance: int) -> list[DuplicatePair]:
    """All pairs of fingerprints within a distance, in any of the eight orientations of a square.

    Pictures that agree in every bit are paired with the first of them alone, so that a thousand black frames are 999
    pairs.

    Args:
        words: (N, 4) fingerprints.
        indices: the sample that each belongs to, ascending.
        max_distance: bits of 255.
    """
    _, first, inverse = np.unique(words, axis=0, return_index=True, return_inverse=True)
    head_of = first[inverse.ravel()]
    twins = [DuplicatePair(indices[head], indices[at], 0, TURNS[0]) for at, head in enumerate(head_of) if at != head]
    heads = np.sort(first)
    for (one, other), (distance, turn) in _near(words[heads], max_distance).items():
        twins.append(DuplicatePair(indices[heads[one]], indices[heads[other]], distance, TURNS[turn]))
    return sorted(twins)


def _near(words: Hashes, max_distance: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Pair (i < j) → its distance and the orientation (index into TURNS) that gives it."""
    nearest: dict[tuple[int, int], tuple[int, int]] = {}
    swapped = transposed(words)

    def compare(start: int) -> list[tuple[int, int, int, int]]:
        found = []
        for turn, others in ((0, words), (len(FLIPPED), swapped)):
            for column in range(start, len(words), COLUMNS):
                block = _compare(words[start : start + ROWS], others[column : column + COLUMNS], max_distance)
                found += [(start + i, column + j, distance, turn + flip) for i, j, distance, flip in block]
        return found

    starts = range(0, len(words), ROWS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go of the interpreter while it counts
        for found in track(pool.map(compare, starts), "looking for twins", len(starts), transient=True):
            for i, j, distance, turn in found:
                if i < j:
                    nearest[i, j] = min(nearest.get((i, j), (BITS + 1, 0)), (distance, turn))
    return nearest


def _compare(some: Hashes, others: Hashes, max_distance: int) -> list[tuple[int, int, int, int]]:
    """(row, column, distance, mirroring) of every pair within a distance.

    Two of the four words rule most pairs out: no mirroring changes the first, and the second comes out as d or 64 - d.
    """
    even = np.bitwise_count(some[:, None, 0] ^ others[None, :, 0])
    odd = np.bitwise_count(some[:, None, 1] ^ others[None, :, 1])
    at_least = even + np.minimum(odd, 64 - odd)
    rows, columns = np.nonzero(at_least <= max_distance)
    differing = np.bitwise_count(some[rows] ^ others[columns]).astype(np.int64)  # (M, 4)
    distances = np.where(FLIPPED, 64 - differing[:, None], differing[:, None]).sum(axis=2)  # (M, 4 mirrorings)
    flips = distances.argmin(axis=1)
    best = distances[np.arange(len(flips)), flips]
    near = best <= max_distance
    return list(zip(*(column[near].tolist() for column in (rows, columns, best, flips)), strict=True))


def write_near_duplicates(
    path: Path,
    twins: Iterable[DuplicatePair],
    samples: Sequence[Sample],
    said: Sequence[Block],
    blocks: Sequence[Block],
) -> None:
    """One row a pair: distance, orientation, and of both pictures the source, class, file and block.

    `moved_from` is the block that a picture would stand in by the split alone, where that is another.
    """

    def of_one(at: int) -> tuple[str, ...]:
        return (*samples[at].key, blocks[at], said[at] if said[at] != blocks[at] else "")

    with csv_file.replacing(path) as rows:
        names = ("source", "code", "file", "block", "moved_from")
        rows.writerow(("distance", "turn", *names, *(f"twin_{name}" for name in names)))
        rows.writerows((twin.distance, twin.turn, *of_one(twin.first), *of_one(twin.second)) for twin in twins)
