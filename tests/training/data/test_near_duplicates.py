"""Near duplicates: a cell rotated, mirrored, encoded again or slightly shifted is found; another cell is not."""

import csv
import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from checkout import SHARED
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from model.image import decode
from training.data.near_duplicates import (
    BITS,
    SIDE,
    DuplicatePair,
    find_near_duplicates,
    perceptual_hash,
    write_near_duplicates,
)
from training.data.samples import Sample
from training.data_config import NearDuplicatesConfig
from training.drawn.painter import paint

CELLS = SHARED / "cells"
NEAR = NearDuplicatesConfig().max_distance
#: Transformations of a picture.
TURNS: dict[str, Callable[[NDArray], NDArray]] = {
    "as it is": lambda p: p,
    "left to right": lambda p: p[:, ::-1],
    "top to bottom": lambda p: p[::-1],
    "half": lambda p: p[::-1, ::-1],
    "quarter": lambda p: np.rot90(p),
    "quarter back": lambda p: np.rot90(p, 3),
    "diagonal": lambda p: p.swapaxes(0, 1),
    "other diagonal": lambda p: np.rot90(p, 2).swapaxes(0, 1),
}
SAID = ("as it is", "mirrored", "mirrored", "turned by 180°", "turned by 90°", "turned by 90°", "mirrored", "mirrored")


def _hashes(*pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.stack([perceptual_hash(np.ascontiguousarray(picture)) for picture in pictures])


def _found(hashes: NDArray[np.uint64], max_distance: int = NEAR) -> list[DuplicatePair]:
    return find_near_duplicates(hashes, range(len(hashes)), max_distance)


@pytest.mark.parametrize(("turn", "said"), list(zip(TURNS, SAID, strict=True)))
def test_a_turned_or_mirrored_copy_is_a_twin_and_the_turn_is_named(turn: str, said: str) -> None:
    cell, other = (paint(code, 5, SIDE).picture for code in ("NGB", "LYT"))
    assert _found(_hashes(cell, other, TURNS[turn](cell))) == [DuplicatePair(0, 2, 0, said)]


def test_distances_are_those_of_the_cosine_transforms_of_all_eight_copies() -> None:
    """Compared with hashes of rotated pictures; the search transforms the bits of the hashes only."""
    random = np.random.default_rng(0)
    grey = [random.integers(0, 256, (SIDE, SIDE)).astype(np.uint8) for _ in range(40)]
    noisy = [
        np.clip(TURNS[turn](grey[at]) + random.normal(0, 40, (SIDE, SIDE)), 0, 255) for at, turn in enumerate(TURNS)
    ]
    pictures = [np.repeat(picture.astype(np.uint8)[..., None], 3, axis=2) for picture in (*grey, *noisy)]

    def signs(picture: NDArray) -> NDArray[np.bool_]:
        return (dctn(picture[..., 0].astype(float))[:16, :16] > 0).ravel()[1:]

    plain = [signs(picture) for picture in pictures]
    turned = [[signs(turn(picture)) for turn in TURNS.values()] for picture in pictures]
    expected = {
        (i, j): min(int((plain[i] != copy).sum()) for copy in turned[j])
        for i, j in combinations(range(len(pictures)), 2)
    }
    for limit in (NEAR, 48, 100):
        found = {(twin.first, twin.second): twin.distance for twin in _found(_hashes(*pictures), limit)}
        assert found == {pair: distance for pair, distance in expected.items() if distance <= limit}
    assert len(found) > len(noisy)


def test_more_fingerprints_than_a_block_holds_are_all_compared() -> None:
    """5,000 random hashes with three planted pairs at the edges of the blocks."""
    words = np.random.default_rng(0).integers(0, 2**64, (5000, 4), dtype=np.uint64)
    for first, second in ((0, 4999), (31, 32), (4095, 4096)):
        words[second] = words[first]
        words[second, 2] ^= np.uint64(0b1011)
    assert [(t.first, t.second, t.distance) for t in _found(words)] == [(0, 4999, 3), (31, 32, 3), (4095, 4096, 3)]


def test_copies_are_paired_with_the_first_alone() -> None:
    cell, other = (paint(code, 0, SIDE).picture for code in ("EOS", "MON"))
    assert [(t.first, t.second) for t in _found(_hashes(cell, other, cell, cell))] == [(0, 2), (0, 3)]
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert len(_found(_hashes(*[black] * 50))) == 49


def test_indices_are_those_of_the_samples_that_could_be_read() -> None:
    cell = paint("EOS", 0, SIDE).picture
    assert find_near_duplicates(_hashes(cell, cell), [3, 8], NEAR) == [DuplicatePair(3, 8, 0, "as it is")]


def test_without_a_picture_there_is_no_twin() -> None:
    assert _found(np.empty((0, 4), np.uint64)) == []


def _encoded(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def test_other_drawn_cells_are_no_twins_and_every_way_to_store_one_is() -> None:
    drawn = [Image.fromarray(paint(code, seed, 160).picture) for code in ("BLA", "EBO", "NGS") for seed in range(8)]
    words = _hashes(*(np.array(cell.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for cell in drawn))
    assert _found(words) == []
    for stored in (
        _encoded(drawn[0], 50),
        _encoded(drawn[0].resize((100, 100)), 90),
        _encoded(drawn[0].crop((1, 1, 160, 160)), 90),
    ):
        (twin,) = _found(np.concatenate([words, _hashes(decode(stored, SIDE))]))
        assert (twin.first, twin.second, twin.turn) == (0, len(drawn), "as it is")
        assert twin.distance <= NEAR


@pytest.mark.skipif(not CELLS.is_dir(), reason="no real cells: the folder ../shared/cells is not there")
def test_of_real_cells_the_originals_are_found_among_their_copies_and_nothing_else() -> None:
    """At least 35 originals are in matek2021 too, encoded again; every fourth cell of it is added as a decoy."""
    originals = sorted((CELLS / "originals").rglob("*.jpg"))
    copies = [CELLS / "matek2021" / path.parent.name / path.name for path in originals]
    decoys = sorted((CELLS / "matek2021").rglob("*.jpg"))[::4]
    others = sorted({path for path in copies if path.exists()} | set(decoys))
    words = _hashes(*(decode(path.read_bytes(), SIDE) for path in (*originals, *others)))
    pairs = {(twin.first, twin.second - len(originals)): twin.distance for twin in _found(words)}
    assert {(originals[i], others[j]) for i, j in pairs} == {
        (path, copy) for path, copy in zip(originals, copies, strict=True) if copy.exists()
    }
    assert len(pairs) >= 35
    assert max(pairs.values()) <= NEAR // 2


def test_the_list_of_twins_says_who_was_moved_from_where(tmp_path: Path) -> None:
    samples = [Sample("set", code, f"{code}.jpg", Path(code)) for code in ("BLA", "EOS")]
    write_near_duplicates(
        tmp_path / "twins.csv", [DuplicatePair(0, 1, 7, "mirrored")], samples, ["train", "test"], ["train", "train"]
    )
    with (tmp_path / "twins.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "distance": "7",
        "turn": "mirrored",
        "source": "set",
        "code": "BLA",
        "file": "BLA.jpg",
        "block": "train",
        "moved_from": "",
        "twin_source": "set",
        "twin_code": "EOS",
        "twin_file": "EOS.jpg",
        "twin_block": "train",
        "twin_moved_from": "test",
    }


def test_a_fingerprint_has_255_bits_and_is_that_of_the_light_alone() -> None:
    cell = paint("BAS", 3, SIDE).picture
    assert (
        np.bitwise_count(perceptual_hash(cell) ^ perceptual_hash(255 - cell)).sum() == BITS
    )  # no frequency is exactly 0
    assert np.bitwise_count(perceptual_hash(cell) ^ perceptual_hash(cell // 2)).sum() <= NEAR
