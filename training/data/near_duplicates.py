"""Near duplicates: pairs of pictures of the same cell, also rotated by 90°, mirrored, resized or encoded anew.

The perceptual hash is the sign of the lowest 16 x 16 DCT frequencies of the luminance at 64 px, without the mean: the
DCT hash of Zauner (2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.1) with 255
bits in place of 63 and the sign in place of the median. With 63 bits, different cells (dark discs in bright fields)
differ in as few as 5. With signs, orientations are cheap to compare: mirroring flips the sign of each odd frequency
along its axis, and mirroring at a diagonal swaps the axes. ImageHash's phash has 64 bits by default and detects no
rotation.

All pairs are compared exactly, in blocks that fit a core's cache. Trees do not help in 255 dimensions, and cells share
too many bits for locality-sensitive hashing. The distances of four words give four mirrorings at once: a mirrored word
differs in 64 minus its bits.
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

from model.image import decode
from training.data.cache import Recipe, Rows, cached_rows
from training.data.images import decoder_version
from training.data.pair_table import write_pairs
from training.data.samples import Block, Sample

Hashes = NDArray[np.uint64]  # (N, 4): the signs by parity of the two frequencies, in the order of PARITIES
PARITIES = ((0, 0), (1, 1), (0, 1), (1, 0))  # (vertical, horizontal); 64 bits each; the bit of the mean is always 0
BITS = 255
SIDE, FREQUENCIES = 64, 16
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as JPEG's Y

#: Rows and columns of a block of pairs: 8 bytes each, about 1 MB.
ROWS, COLUMNS = 32, 4096
#: Orientation of the second picture, by mirroring: none, horizontal, vertical, both; then the same after transposing.
TURNS = ("as it is", "mirrored", "mirrored", "turned by 180°", "mirrored", "turned by 90°", "turned by 90°", "mirrored")
#: Words (even even, odd odd, even odd, odd even) whose signs flip in each mirroring.
FLIPPED = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool)


class DuplicatePair(NamedTuple):
    """Two pictures of the same cell."""

    first: int  # index of a sample, smaller than the second
    second: int
    distance: int  # differing bits
    turn: str  # orientation of the second


def perceptual_hash(picture: NDArray[np.uint8]) -> Hashes:
    """The hash (4,) of an RGB picture (64, 64, 3)."""
    spectrum = dctn(picture @ LUMINANCE)[:FREQUENCIES, :FREQUENCIES]
    signs = spectrum > 0
    signs[0, 0] = False
    return _pack(signs[None])[0]


def _pack(signs: NDArray[np.bool_]) -> Hashes:
    """Signs (N, 16, 16) → words (N, 4)."""
    flat = (len(signs), (FREQUENCIES // 2) ** 2)
    planes = [np.packbits(signs[:, v::2, h::2].reshape(flat), axis=1) for v, h in PARITIES]
    return np.ascontiguousarray(np.stack(planes, axis=1)).view(np.uint64)[..., 0]


def _transposed(hashes: Hashes) -> Hashes:
    """The hashes (N, 4) of the transposed pictures."""
    octets = np.ascontiguousarray(hashes)[..., None].view(np.uint8)  # (N, 4, 8)
    planes = np.unpackbits(octets, axis=2).reshape(len(hashes), len(PARITIES), FREQUENCIES // 2, FREQUENCIES // 2)
    signs = np.empty((len(hashes), FREQUENCIES, FREQUENCIES), bool)
    for (v, h), plane in zip(PARITIES, planes.swapaxes(0, 1), strict=True):
        signs[:, h::2, v::2] = plane.swapaxes(1, 2)
    return _pack(signs)


def hash_samples(samples: list[Sample], cache: Path | None) -> Rows:
    """The hash (4,) of each readable sample; of the whole picture, regardless of its source's crop."""
    version = f"fingerprint {decoder_version(Path(__file__))}"
    recipe = Recipe(lambda _, data: perceptual_hash(decode(data, SIDE)), (len(PARITIES),), np.uint64, version)
    return cached_rows(samples, recipe, cache, "comparing pictures")


def find_near_duplicates(hashes: Hashes, indices: Sequence[int], max_distance: int) -> list[DuplicatePair]:
    """All pairs of hashes within a distance, in any of the eight orientations of a square.

    Identical hashes are paired with the first of them only: a thousand black frames are 999 pairs.

    Args:
        hashes: (N, 4).
        indices: the sample of each hash, ascending.
        max_distance: in bits of 255.
    """
    _, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    head_of = first[inverse.ravel()]
    pairs = [DuplicatePair(indices[head], indices[at], 0, TURNS[0]) for at, head in enumerate(head_of) if at != head]
    heads = np.sort(first)
    for (one, other), (distance, turn) in _nearest(hashes[heads], max_distance).items():
        pairs.append(DuplicatePair(indices[heads[one]], indices[heads[other]], distance, TURNS[turn]))
    return sorted(pairs)


def _nearest(hashes: Hashes, max_distance: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Pair (i < j) → its smallest distance and the orientation (index into TURNS) that gives it."""
    nearest: dict[tuple[int, int], tuple[int, int]] = {}
    swapped = _transposed(hashes)

    def compare(start: int) -> list[tuple[int, int, int, int]]:
        found = []
        for turn, others in ((0, hashes), (len(FLIPPED), swapped)):
            for column in range(start, len(hashes), COLUMNS):
                block = _compare(hashes[start : start + ROWS], others[column : column + COLUMNS], max_distance)
                found += [(start + i, column + j, distance, turn + flip) for i, j, distance, flip in block]
        return found

    starts = range(0, len(hashes), ROWS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy releases the GIL
        for found in track(pool.map(compare, starts), "near duplicates", len(starts), transient=True):
            for i, j, distance, turn in found:
                if i < j:
                    nearest[i, j] = min(nearest.get((i, j), (BITS + 1, 0)), (distance, turn))
    return nearest


def _compare(some: Hashes, others: Hashes, max_distance: int) -> list[tuple[int, int, int, int]]:
    """(row, column, distance, mirroring) of every pair within a distance.

    Two of the four words exclude most pairs: no mirroring changes the first, and the second differs in d or 64 - d.
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
    pairs: Iterable[DuplicatePair],
    samples: Sequence[Sample],
    planned: Sequence[Block],
    blocks: Sequence[Block],
) -> None:
    """Write twins.csv: one row per pair with distance and orientation (`write_pairs`)."""
    rows = (((pair.distance, pair.turn), pair.first, pair.second) for pair in pairs)
    write_pairs(path, ("distance", "turn"), "twin", rows, samples, planned, blocks)
