"""Shifted crops of one field are found and kept in one block; other cells, and cells alike in outline, are not."""

import csv
import io
import tomllib
from pathlib import Path

import numpy as np
import pytest
from checkout import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from minimal_config import MINIMAL
from numpy.typing import NDArray
from PIL import Image

from examples import examples
from training.config import Config, validate_table
from training.data.index import index_data, leak_lines
from training.data.overlaps import MIN_SHARE, Overlap, find_overlaps, write_overlaps
from training.data.samples import Sample
from training.data_config import OverlapsConfig
from training.drawn.painter import paint

CELLS = SHARED / "cells"
LEAST = OverlapsConfig().min_correlation
SIDE = 100  # of a crop
CODES = ("BLA", "EOS", "LYT", "NGB", "MON", "PLM")


def _field(seed: int) -> NDArray[np.uint8]:
    """Nine drawn cells side by side: a field of 240 x 240 pixels."""
    random = np.random.default_rng(seed)
    cells = [paint(CODES[random.integers(len(CODES))], int(random.integers(1000)), 80).picture for _ in range(9)]
    return np.concatenate([np.concatenate(cells[row : row + 3], axis=1) for row in (0, 3, 6)])


def _crop(field: NDArray[np.uint8], top: int, left: int, path: Path, width: int = SIDE) -> Sample:
    """A crop as a file of its own, encoded as JPEG."""
    Image.fromarray(field[top : top + SIDE, left : left + width]).save(path, quality=85)
    return Sample("fields", "BLA", path.name, path)


Crops = tuple[list[Sample], int, int]  # two crops of one field and one of another; the second is shifted by two numbers


def _two_crops(folder: Path, seed: int, top: int, left: int, shift: tuple[int, int]) -> Crops:
    field = _field(seed)
    other = [min(max(at + by, 0), 140) for at, by in zip((top, left), shift, strict=True)]
    samples = [_crop(field, top, left, folder / "one.jpg"), _crop(field, *other, folder / "other.jpg")]
    samples.append(_crop(_field(99), 70, 70, folder / "elsewhere.jpg"))
    return samples, other[0] - top, other[1] - left


@settings(max_examples=examples(15))
@given(
    seed=st.integers(0, 50),
    top=st.integers(0, 140),
    left=st.integers(0, 140),
    shift=st.tuples(st.integers(-50, 50), st.integers(-45, 45)),
)
def test_what_is_found_are_the_crops_of_one_field_with_their_shift(
    tmp_path_factory: pytest.TempPathFactory, seed: int, top: int, left: int, shift: tuple[int, int]
) -> None:
    samples, down, right = _two_crops(tmp_path_factory.mktemp("crops"), seed, top, left, shift)
    for found in find_overlaps(samples, None, LEAST):
        assert (found.first, found.second) == (0, 1)
        assert found.share == pytest.approx((1 - abs(down) / SIDE) * (1 - abs(right) / SIDE), abs=0.03)
        assert (found.down, found.right) == (pytest.approx(down, abs=2), pytest.approx(right, abs=2))


def test_nearly_all_crops_of_one_field_are_found(tmp_path: Path) -> None:
    random, correlations = np.random.default_rng(0), []
    for seed in range(40):
        top, left, down, right = random.integers((0, 0, -50, -45), (141, 141, 51, 46)).tolist()
        samples, *_ = _two_crops(tmp_path, seed, top, left, (down, right))
        correlations += [found.correlation for found in find_overlaps(samples, None, LEAST)]
    # Keypoints and hashes miss a pair now and then.
    assert len(correlations) >= 39
    assert np.quantile(correlations, 0.1) > 0.9


def test_crops_of_different_shape_overlap_at_one_scale(tmp_path: Path) -> None:
    field = _field(3)
    samples = [_crop(field, 0, 0, tmp_path / "square.jpg"), _crop(field, 0, 60, tmp_path / "wide.jpg", width=130)]
    samples.append(_crop(_field(99), 0, 0, tmp_path / "elsewhere.jpg"))
    (found,) = find_overlaps(samples, None, LEAST)
    assert (found.first, found.second, round(found.right)) == (0, 1, 60)


def test_crops_that_only_touch_and_blank_pictures_are_apart(tmp_path: Path) -> None:
    field = _field(4)
    samples = [_crop(field, 0, 0, tmp_path / "one.jpg"), _crop(field, 0, 92, tmp_path / "touching.jpg")]
    for name, shade in (("white", 255), ("black", 0), ("grey", 128)):
        samples.append(_crop(np.full((SIDE, SIDE, 3), shade, np.uint8), 0, 0, tmp_path / f"{name}.jpg"))
    assert find_overlaps(samples, None, LEAST) == []
    assert find_overlaps(samples[2:3], None, LEAST) == find_overlaps([], None, LEAST) == []


def test_drawn_cells_are_no_false_alarm(tmp_path: Path) -> None:
    samples = []
    for at in range(60):
        path = tmp_path / f"{at}.png"
        Image.fromarray(paint(CODES[at % len(CODES)], at, 64).picture).save(path)
        samples.append(Sample("drawn", "BLA", path.name, path))
    assert find_overlaps(samples, tmp_path / "cache", LEAST) == []


def _folder_of_fields(folder: Path) -> None:
    """Sixteen crops of each class; the last of each class is a shifted crop of the first."""
    for seed, code in enumerate(("BLA", "EOS")):
        (folder / "drawn" / code).mkdir(parents=True)
        for at in range(16):
            field = _field(100 * seed + at % 15)
            _crop(field, 44 if at == 15 else 0, 0, folder / "drawn" / code / f"{at:02}.jpg")


def _config(folder: Path, **data: object) -> Config:
    keys = tomllib.loads(MINIMAL)
    return validate_table(Config, keys | {"data": {**keys["data"], **data}}, folder)


def test_overlapping_crops_are_kept_in_one_block_and_listed(tmp_path: Path) -> None:
    _folder_of_fields(tmp_path)
    config = _config(tmp_path)
    index = index_data(config.data, tmp_path, config.codes, tmp_path / "cache")
    assert [(index.samples[one.first].name, index.samples[one.second].name) for one in index.overlaps] == [
        ("00.jpg", "15.jpg")
    ] * 2
    assert {index.planned[one.second] for one in index.overlaps} == {"test"}
    assert all(index.blocks[one.first] == index.blocks[one.second] == "train" for one in index.overlaps)
    lines = list(leak_lines(index, config.data))
    assert "overlaps: 2 pairs of shifted crops; 2 across blocks" in lines
    assert "moved to training because of these: 2 pictures" in lines
    write_overlaps(tmp_path / "overlaps.csv", index.overlaps, index.samples, index.planned, index.blocks)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "overlaps.csv").read_text())))
    assert [(row["file"], row["other_file"], row["block"], row["other_moved_from"]) for row in rows] == [
        ("00.jpg", "15.jpg", "train", "test")
    ] * 2
    assert {row["down_percent"] for row in rows} == {"44"}
    assert all(float(row["share"]) >= MIN_SHARE for row in rows)


@pytest.mark.parametrize(("action", "says"), [("list", "not moved"), ("off", "not searched")])
def test_overlaps_are_only_listed_or_not_searched_on_request(tmp_path: Path, action: str, says: str) -> None:
    _folder_of_fields(tmp_path)
    config = _config(tmp_path, overlaps={"action": action})
    index = index_data(config.data, tmp_path, config.codes, None)
    assert index.blocks == index.planned
    assert any(says in line for line in leak_lines(index, config.data))


@pytest.mark.slow
@pytest.mark.skipif(not (CELLS / "matek2021").is_dir(), reason="needs the cells of Matek 2021")
def test_the_overlaps_of_matek_2021_are_those_that_were_looked_at(tmp_path: Path) -> None:
    """47 pairs, each compared by eye: the same cells in both pictures. The next candidates, below 0.75, are not."""
    paths = sorted((CELLS / "matek2021").rglob("*.jpg"))
    samples = [Sample("matek2021", path.parent.name, path.name, path) for path in paths]
    found = find_overlaps(samples, tmp_path, 0.7)
    assert len([one for one in found if one.correlation >= LEAST]) == 47
    pairs = {(samples[one.first].name, samples[one.second].name): one for one in found}
    assert pairs["ART_00068.jpg", "ART_00125.jpg"].share == pytest.approx(0.64, abs=0.02)
    assert isinstance(found[0], Overlap)
