"""Drawn cells: the same everywhere, of the right parts, different by class, in the folders that training reads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from numpy.typing import NDArray
from PIL import Image

from model.contract import CLASSES
from training.drawn.morphology import MORPHOLOGIES
from training.drawn.painter import DrawnCell, UnknownClassError, paint, write_folder

CODES = [cell_class.code for cell_class in CLASSES]
EXAMPLES = ROOT / "examples"


def test_every_class_of_the_contract_can_be_drawn() -> None:
    assert sorted(MORPHOLOGIES) == sorted(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_painting_has_its_parts(code: str) -> None:
    for seed in range(3):
        picture, cell, nucleus = paint(code, seed, 96)
        assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8
        assert cell.shape == nucleus.shape == (96, 96) and cell.dtype == nucleus.dtype == bool
        assert picture.std() > 8
        if code == "ART":
            assert not cell.any() and not nucleus.any()
            continue
        assert (nucleus <= cell).all() and nucleus.any()
        assert cell[40:56, 40:56].any(), "the cell is in the middle"
        assert (nucleus == cell).all() == (code == "KSC")
        assert picture[nucleus].mean() < picture[~cell].mean() - 15, "a nucleus is darker than the ground"


def test_the_same_seed_is_the_same_picture() -> None:
    first, second = paint("NGS", 5, 80), paint("NGS", 5, 80)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    others = [paint("NGS", 6, 80), paint("NGB", 5, 80)]
    assert all((other.picture != first.picture).any() for other in others)


def test_the_same_seed_is_the_same_cell_at_any_size() -> None:
    for code in ("PMO", "NGB", "HAC"):
        small, large = paint(code, 2, 125).cell_mask, paint(code, 2, 250).cell_mask[::2, ::2]
        assert (small & large).sum() > 0.93 * (small | large).sum()


def test_the_examples_are_what_their_readme_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were drawn once, elsewhere; that they come out again is the promise "the same on every machine"."""
    program = (EXAMPLES / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path)
    exec(program, {})  # the README's own words
    redrawn = sorted((tmp_path / "examples").iterdir())
    assert [path.name for path in redrawn] == sorted(
        path.name for path in EXAMPLES.iterdir() if path.suffix in (".png", ".jpg")
    )
    for path in redrawn:
        with Image.open(path) as now, Image.open(EXAMPLES / path.name) as then:
            difference = np.abs(np.asarray(now).astype(int) - np.asarray(then))
        assert difference.max() <= (0 if path.suffix == ".png" else 4), path.name


def test_a_code_that_does_not_exist_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownClassError, match="no drawing of class 'ngx'; did you mean NG") as caught:
        paint("ngx", 0)
    assert caught.value.code == "ngx" and set(caught.value.near) >= {"NGS", "NGB"}
    with pytest.raises(UnknownClassError, match="ABE, ART"):
        paint("*", 0)


def share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    return float(part.sum() / whole.sum())


def cytoplasm(painting: DrawnCell) -> NDArray[np.float64]:
    """Mean colour between nucleus and rim, of the blue-ness that the light of the slide leaves."""
    ground = painting.picture[~painting.cell_mask].mean(axis=0)
    colour: NDArray[np.float64] = painting.picture[painting.cell_mask & ~painting.nucleus_mask].mean(axis=0) / ground
    return colour


def test_the_morphology_is_what_the_class_means() -> None:
    one = {code: [paint(code, seed, 125) for seed in range(6)] for code in CODES if code != "ART"}
    nuclear_share = {code: np.mean([share(p.nucleus_mask, p.cell_mask) for p in drawn]) for code, drawn in one.items()}
    area = {code: np.mean([p.cell_mask.sum() for p in drawn]) for code, drawn in one.items()}
    tone = {code: np.mean([cytoplasm(p) for p in drawn], axis=0) for code, drawn in one.items() if code != "KSC"}
    assert nuclear_share["BLA"] > nuclear_share["MYB"] > nuclear_share["PLM"] > nuclear_share["OTH"]
    assert nuclear_share["LYT"] > nuclear_share["EBO"]
    assert area["PEB"] > 2 * area["EBO"] and area["PMO"] > 2 * area["LYT"]
    red, green, blue = range(3)
    assert all(tone["EOS"][red] > tone[code][red] - tone[code][blue] + tone["EOS"][blue] for code in ("NGS", "PLM"))
    assert all(tone[code][blue] > tone[code][red] for code in ("PLM", "PEB", "LYI", "PMO"))
    assert tone["BAS"].mean() < tone["NGS"].mean()


def test_lobes_and_bands() -> None:
    """In a ring around the middle of a band there is a gap; segments have several, and threads between them."""
    for seed in range(5):
        band, segmented, round_nucleus = (paint(code, seed, 250).nucleus_mask for code in ("NGB", "NGS", "MYB"))
        assert solidity(round_nucleus) > 0.9
        assert solidity(band) < 0.75
        assert solidity(segmented) < 0.85


def solidity(mask: NDArray[np.bool_]) -> float:
    """Area by the area of the convex hull (as the intersection of half planes in 64 directions)."""
    rows, columns = np.indices(mask.shape)
    hull = np.ones_like(mask)
    for angle in np.linspace(0, np.pi, 64, endpoint=False):
        along = rows * np.sin(angle) + columns * np.cos(angle)
        hull &= (along >= along[mask].min()) & (along <= along[mask].max())
    return share(mask, hull)


def features(painting: DrawnCell) -> NDArray[np.float64]:
    """Colour by distance from the middle: mean and spread in rings, by the light of the corner."""
    size = painting.picture.shape[0]
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    rings = (np.hypot(rows, columns) / size * 25).astype(int)
    light = painting.picture / np.percentile(painting.picture, 95, axis=(0, 1))
    return np.concatenate([[light[rings == ring].mean(axis=0), light[rings == ring].std(axis=0)] for ring in range(10)])


def test_the_classes_can_be_told_apart() -> None:
    """By the nearest mean of crude features, far above the 1 in 21 of guessing: there is something to learn."""
    known = np.array([[features(paint(code, seed, 64)).ravel() for seed in range(8)] for code in CODES])
    means, spread = known.mean(axis=1), known.std(axis=(0, 1))
    right = 0
    for index, code in enumerate(CODES):
        for seed in range(100, 104):
            distances = np.linalg.norm((features(paint(code, seed, 64)).ravel() - means) / spread, axis=1)
            right += int(distances.argmin()) == index
    assert right / (4 * len(CODES)) > 0.7


def test_a_folder_as_published(tmp_path: Path) -> None:
    files = write_folder(tmp_path, ["LYT", "EOS"], 3, size=40, first_seed=7, suffix=".png")
    assert [str(path.relative_to(tmp_path)) for path in files] == [
        f"{code}/{code}_0000{n}.png" for code in ("LYT", "EOS") for n in (1, 2, 3)
    ]
    assert sorted(files) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with Image.open(files[4]) as picture:
        assert (np.asarray(picture) == paint("EOS", 8, 40).picture).all()


def test_a_folder_with_numbered_subfolders(tmp_path: Path) -> None:
    files = write_folder(tmp_path, ["NGS"], 5, size=32, per_subfolder=2)
    assert [str(path.relative_to(tmp_path / "NGS")) for path in files] == [
        "0001-0002/NGS_00001.jpg",
        "0001-0002/NGS_00002.jpg",
        "0003-0004/NGS_00003.jpg",
        "0003-0004/NGS_00004.jpg",
        "0005-0006/NGS_00005.jpg",
    ]
    with Image.open(files[0]) as picture:
        assert picture.format == "JPEG" and picture.size == (32, 32)


def test_nothing_is_written_when_a_code_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UnknownClassError, match="PLM"):
        write_folder(tmp_path, ["LYT", "PLN"], 2)
    assert not list(tmp_path.iterdir())


def test_drawing_needs_no_torch() -> None:
    script = "import sys, training.drawn.painter as p; p.paint('EOS', 0, 32); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=EXAMPLES.parent).returncode == 0
