"""Splits by appearance: synthetic slides stay whole, and the file order is tested for slides."""

import re
from pathlib import Path

import commands
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stress.training.drawn_config import DRAWN_CONFIG
from training.config import read_config
from training.data.appearance import BACKGROUND, STAIN, appearance
from training.data.index import DataIndex, index_data
from training.data.samples import Sample
from training.data.splits import describe_split

CODES = ("EOS", "LYT", "NGS")
SLIDES, EACH = 8, 12
# The drawn blobs are alike enough to overlap.
ALONE = '[data.overlaps]\naction = "off"\n'
KFOLD = ALONE + '[data.split]\nkind = "kfold"\nk = 4\nby = "appearance"\nclusters = 8\n'


def _cell(seed: int) -> NDArray[np.float64]:
    """Amount of stain (48, 48) of a cell: blobs at random places."""
    random, (y, x) = np.random.default_rng(seed), np.indices((48, 48))
    amount = np.zeros((48, 48))
    for _ in range(6):
        (down, right), radius = random.uniform(8, 40, 2), random.uniform(3, 7)
        amount += np.exp(-((y - down) ** 2 + (x - right) ** 2) / (2 * radius**2))
    return amount


def _on_slide(slide: int, cell: NDArray[np.float64], light: float = 1.0) -> NDArray[np.uint8]:
    """A cell (48, 48) in the stain of a slide, before its background."""
    background = 0.6 + 0.3 * np.array([slide & 1, slide >> 1 & 1, slide >> 2 & 1])
    density = np.array([0.3 + 0.1 * (slide % 4), 0.8, 0.2])
    return np.rint(255 * light * background * np.exp(-cell[..., None] * density)).astype(np.uint8)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of three classes on eight slides, numbered slide by slide, and again in a random order."""
    folder, light = tmp_path_factory.mktemp("slides"), np.random.default_rng(0)
    for number, code in enumerate(CODES):
        cells = [
            _on_slide(at // EACH, _cell(200 * number + at), light.uniform(0.98, 1.0)) for at in range(SLIDES * EACH)
        ]
        shuffled = np.random.default_rng(1).permutation(len(cells))
        for name, order in (("drawn", range(len(cells))), ("shuffled", shuffled)):
            (folder / name / code).mkdir(parents=True)
            for place, at in enumerate(order):
                Image.fromarray(cells[at]).save(folder / name / code / f"{place:03d}-slide-{at // EACH}.png")
    return folder


def _slide(sample: Sample) -> str:
    return sample.name.removesuffix(".png").partition("slide-")[2]


def _index(folder: Path, split: str, cache: Path | None = None) -> DataIndex:
    path = folder / "split.toml"
    path.write_text(DRAWN_CONFIG + split)
    config = read_config(path)
    return index_data(config.data, folder, config.codes, cache)


@pytest.mark.parametrize("source", ["drawn", "shuffled"])
def test_slides_of_known_backgrounds_are_kept_whole_in_one_fold(slides: Path, tmp_path: Path, source: str) -> None:
    tested: list[str] = []
    for fold in range(4):
        text = KFOLD.replace("k = 4", f"k = 4\nfold = {fold}")
        path = tmp_path / "split.toml"
        path.write_text(DRAWN_CONFIG.replace('folder = "drawn"', f'folder = "{source}"') + text)
        config = read_config(path)
        split = index_data(config.data, slides, config.codes, tmp_path / "cache").split
        blocks = {block: {_slide(sample) for sample in members} for block, members in split.items()}
        assert not blocks["test"] & blocks["train"] and not blocks["test"] & blocks["calibration"]
        assert not blocks["train"] & blocks["calibration"]
        tested += sorted(blocks["test"])
    assert sorted(tested) == sorted(map(str, range(SLIDES)))


def test_a_grouped_split_keeps_slides_whole_and_says_that_they_are_a_proxy(slides: Path) -> None:
    index = _index(slides, ALONE + '[data.split]\nkind = "grouped"\nby = "appearance"\nclusters = 8\n')
    blocks = [{_slide(sample) for sample in members} for members in index.split.values()]
    assert sum(map(len, blocks)) == len(set.union(*blocks)) == SLIDES
    text = describe_split(read_config(slides / "split.toml").data)
    assert "whole clusters of like background and stain, 8 per source (a proxy for slides, not slides)" in text


def test_near_duplicates_join_no_clusters(slides: Path, tmp_path: Path) -> None:
    """The same cell on two slides: one of them moves to the other's cluster, and the slides stay apart."""
    for code in CODES:
        (tmp_path / "drawn" / code).mkdir(parents=True)
        for path in sorted((slides / "drawn" / code).iterdir()):
            (tmp_path / "drawn" / code / path.name).write_bytes(path.read_bytes())
    for slide in range(SLIDES):
        Image.fromarray(_on_slide(slide, _cell(900))).save(tmp_path / "drawn" / "EOS" / f"900-slide-{slide}.png")
    index = _index(tmp_path, ALONE + '[data.split]\nkind = "grouped"\nby = "appearance"\nclusters = 8\n')
    assert len(index.duplicates) >= SLIDES - 1
    others = [{_slide(s) for s in members if not s.name.startswith("900")} for members in index.split.values()]
    assert sum(map(len, others)) == len(set.union(*others))
    assert sum(any(s.name.startswith("900") for s in members) for members in index.split.values()) == 1


def test_background_and_stain_are_told_apart() -> None:
    """A disc of known optical density on a background of known colour."""
    background, density = np.array([0.9, 0.8, 0.85]), np.array([0.4, 1.0, 0.2])
    picture = np.ones((96, 96, 3)) * background
    disc = np.hypot(*(np.indices((96, 96)) - 48)) < 20
    picture[disc] = background * np.exp(-density)
    found = appearance(np.rint(picture * 255).astype(np.uint8))
    assert found[BACKGROUND] == pytest.approx(background, abs=0.01)
    assert found[STAIN] == pytest.approx(density / density.sum(), abs=0.01)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_colour_has_finite_values(value: int) -> None:
    assert np.isfinite(appearance(np.full((96, 96, 3), value, np.uint8))).all()


@pytest.mark.slow
def test_the_file_order_follows_slides_only_where_it_does(slides: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "order.toml", tmp_path / "log"
    shuffled = ', {name = "shuffled", folder = "shuffled", licence = "CC0", attribution = "drawn"}]'
    path.write_text(DRAWN_CONFIG.replace('painter.py"}]', 'painter.py"}' + shuffled))
    assert commands.run("file-order", path, "--data", slides, log=log) == 0, log.read_text()
    assert re.search(r"drawn: [1-9]\d* of 12 differ from 0 .*: the file order shows structure", log.read_text())
    assert re.search(r"shuffled: 0 of 12 differ from 0 .*: the file order shows no slide structure", log.read_text())
