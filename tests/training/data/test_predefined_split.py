"""Predefined splits: the published list, this program's own, and error messages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.samples import BLOCKS, DataError, Sample, group_by_block, split_csv
from training.data.splits import assign_blocks
from training.data.tables import PredefinedSplit, match_predefined_split
from training.split_config import BlockSplit, Columns, ListedSplit

PUBLISHED = "/lustre/groups/shared/histology_data/BM_cytomorphology_data/test"


def _cells(counts: dict[tuple[str, str], int]) -> list[Sample]:
    return [
        Sample(source, code, f"{code}_{n:05d}.jpg", Path(f"{source}/{code}_{n:05d}.jpg"))
        for (source, code), count in counts.items()
        for n in range(1, count + 1)
    ]


def _listed(tmp_path: Path, text: str, samples: list[Sample], **told: Any) -> tuple[PredefinedSplit, ListedSplit]:
    (tmp_path / "list.csv").write_text(text)
    split = ListedSplit(kind="list", path=Path("list.csv"), **told)
    return match_predefined_split(tmp_path, split, samples), split


def test_the_published_test_list_of_dinobloom_reads_as_is(tmp_path: Path) -> None:
    """Header, absolute paths and labels as in dinov2/eval/miccai/splits/bm_test.csv."""
    samples = [
        Sample("matek2021", code, f"0001-1000/{code}_{n:05d}.jpg", Path(f"{code}_{n:05d}.jpg"))
        for code in ("OTH", "NGB")
        for n in range(1, 201)
    ]
    named = [(code, n) for code in ("OTH", "NGB") for n in (167, 3, 28, 104)]
    rows = "".join(f"{PUBLISHED}/{code}/{code}_{n:05d}.jpg,{code}\n" for code, n in named)
    listed, split = _listed(tmp_path, f"Image Path,Label\n{rows}", samples)
    assert (listed.matched, listed.rows) == (8, 8)
    blocks = assign_blocks(samples, split, np.arange(len(samples)), listed.blocks)
    tested = {s.name for s, block in zip(samples, blocks, strict=True) if block == "test"}
    assert tested == {f"0001-1000/{code}_{n:05d}.jpg" for code, n in named}
    assert blocks.count("calibration") == 2 * round(196 * 0.1)


def test_a_split_list_of_this_program_is_a_list_too(tmp_path: Path) -> None:
    samples = _cells({("marrow", "BLA"): 30, ("blood", "BLA"): 30, ("blood", "EOS"): 10})
    parts = group_by_block(samples, assign_blocks(samples, BlockSplit(), np.arange(len(samples))))
    listed, split = _listed(tmp_path, split_csv(parts), samples)
    blocks = assign_blocks(samples, split, np.arange(len(samples)), listed.blocks)
    assert {block: [s for s, b in zip(samples, blocks, strict=True) if b == block] for block in BLOCKS} == parts


@pytest.mark.parametrize(
    ("text", "told", "says"),
    [
        ("file\nx.jpg\n", {}, "0 of 1 rows match a picture of --data; .*'x.jpg'; .*min_matched is 99%"),
        ("file\nBLA_00001.jpg\nx.jpg\n", {"min_matched": 0.6}, "1 of 2 rows"),
        (
            "file\nEOS_00001.jpg\n",
            {},
            "row 2: 'EOS_00001.jpg' matches marrow/.*, blood/.*; choose with data.split.sources",
        ),
        ("file\nBLA_00001.jpg\na/BLA_00001.jpg\n", {}, "row 3: 'BLA_00001.jpg' is already listed in row 2"),
        ("file,label\nBLA_00001.jpg,EOS\n", {}, "row 2: 'BLA_00001.jpg' has the label EOS, but is BLA in --data"),
        ("file,split\nBLA_00001.jpg,exam\n", {}, "row 2: unknown block 'exam'; expected one of train, "),
        ("name\nBLA_00001.jpg\n", {}, "no column for the file"),
        ("file\nBLA_00001.jpg\n", {"columns": Columns(file="path")}, "no column for the file, 'path'"),
    ],
)
def test_a_list_that_does_not_fit_names_its_row(tmp_path: Path, text: str, told: dict[str, Any], says: str) -> None:
    samples = _cells({("marrow", "BLA"): 5, ("marrow", "EOS"): 5, ("blood", "EOS"): 5})
    with pytest.raises(DataError, match=says):
        _listed(tmp_path, text, samples, **told)


def test_a_list_may_speak_of_one_source_and_of_more_than_is_there(tmp_path: Path) -> None:
    samples = _cells({("marrow", "EOS"): 5, ("blood", "EOS"): 5})
    text = "file\nD:\\cells\\EOS_00001.jpg\nEOS_00002.jpg\nlost.jpg\n"
    listed, _ = _listed(tmp_path, text, samples, sources=("blood",), min_matched=0.5)
    assert listed.blocks == {("blood", "EOS", f"EOS_0000{n}.jpg"): "test" for n in (1, 2)}
    assert (listed.matched, listed.rows) == (2, 3)
