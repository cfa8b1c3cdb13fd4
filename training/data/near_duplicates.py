"""Near duplicates among pictures: which pairs show the same cell, however turned, mirrored or encoded.

Knows fingerprints and distances. Reads no picture and moves none.

Every pair is compared, exactly: numpy counts bits in blocks that fit a core's cache. Trees do not help where all
distances are alike (255 bits), and bands of equal bits are crowded because cells resemble each other. One look at the
four words of a pair gives the distance in four mirrorings at once: a mirrored word differs in 64 minus its bits.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import track

from model import csv_file
from training.data.fingerprint import BITS, Words, transposed
from training.data.samples import Block, Sample

#: Rows and columns of a block of pairs: 8 bytes each, some 1 MB.
ROWS, COLUMNS = 32, 4096
#: By mirroring of the second picture: none, left to right, top to bottom, both; and the same once swapped diagonally.
TURNS = ("as it is", "mirrored", "mirrored", "turned by 180°", "mirrored", "turned by 90°", "turned by 90°", "mirrored")
#: Which words (even even, odd odd, even odd, odd even) change all their signs in each mirroring.
FLIPPED = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool)


class Twin(NamedTuple):
    """Two pictures of the same cell."""

    first: int  # index of a sample, smaller than the second
    second: int
    distance: int  # bits that differ
    turn: str  # what was done to the second


def find_twins(words: Words, indices: Sequence[int], max_distance: int) -> list[Twin]:
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
    twins = [Twin(indices[head], indices[at], 0, TURNS[0]) for at, head in enumerate(head_of) if at != head]
    heads = np.sort(first)
    for (one, other), (distance, turn) in _near(words[heads], max_distance).items():
        twins.append(Twin(indices[heads[one]], indices[heads[other]], distance, TURNS[turn]))
    return sorted(twins)


def _near(words: Words, max_distance: int) -> dict[tuple[int, int], tuple[int, int]]:
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


def _compare(some: Words, others: Words, max_distance: int) -> list[tuple[int, int, int, int]]:
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


def write_twins(
    path: Path, twins: Iterable[Twin], samples: Sequence[Sample], said: Sequence[Block], blocks: Sequence[Block]
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
