"""Class folders to samples to blocks: the published layouts, and what is said of a folder that is none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import Blocks, SourceConfig
from training.data import DataError, Sample, index_folder, split_blocks, split_list

CODES = ("BLA", "EOS", "PMO")


def _source(folder: str = "set") -> SourceConfig:
    return SourceConfig(name="set", folder=Path(folder), licence="CC0", attribution="nobody")


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).touch()


def test_flat_and_numbered_folders_read_alike(tmp_path: Path) -> None:
    _touch(tmp_path, "BLA/BLA_00002.jpg", "BLA/BLA_00001.jpg")
    _touch(tmp_path, "PMO/1001-2000/PMO_01001.jpg", "PMO/0001-1000/PMO_00002.jpg", "PMO/0001-1000/PMO_00001.png")
    found = index_folder(tmp_path, _source(), CODES)
    assert [(s.code, s.path.name) for s in found] == [
        ("BLA", "BLA_00001.jpg"),
        ("BLA", "BLA_00002.jpg"),
        ("PMO", "PMO_00001.png"),
        ("PMO", "PMO_00002.jpg"),
        ("PMO", "PMO_01001.jpg"),
    ]


def test_a_folder_for_each_patient_stays_together(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"BLA/{patient}/{number}.jpg" for number in (1, 2) for patient in ("p1", "p2", "p3")))
    found = index_folder(tmp_path, _source(), CODES)
    assert [s.name for s in found] == ["p1/1.jpg", "p1/2.jpg", "p2/1.jpg", "p2/2.jpg", "p3/1.jpg", "p3/2.jpg"]
    halves = split_blocks(found, Blocks(train=0.34, calibration=0.33, test=0.33))
    assert [{s.name[:2] for s in part} for part in halves.values()] == [{"p1"}, {"p2"}, {"p3"}]


def test_what_is_no_picture_is_not_a_sample(tmp_path: Path) -> None:
    _touch(tmp_path, "BLA/BLA_00001.JPG", "BLA/notes.txt", ".cache/x.jpg", "README.md")
    assert [s.path.name for s in index_folder(tmp_path, _source(), CODES)] == ["BLA_00001.JPG"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "no such folder; source 'set' expects one folder a class"),
        (("loose.jpg",), "no class folders; expected folders named BLA, EOS, PMO"),
        (("bla/BLA_00001.jpg",), "'bla' is not in the class list; did you mean BLA"),
        (("QQQ/QQQ_00001.jpg",), "'QQQ' is not in the class list; expected one of BLA, EOS, PMO"),
    ],
)
def test_a_folder_that_cannot_be_learned_from_is_named(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    _touch(tmp_path, *names)
    with pytest.raises(DataError, match=says) as caught:
        index_folder(tmp_path, _source(), CODES)
    assert caught.value.path.is_relative_to(tmp_path / "set")


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    train=st.floats(0.1, 0.8),
    calibration=st.floats(0.05, 0.15),
)
def test_blocks_are_contiguous_disjoint_and_whole(counts: list[int], train: float, calibration: float) -> None:
    blocks = Blocks(train=train, calibration=calibration, test=1 - train - calibration)
    samples = [
        Sample("set", code, f"{n:05d}.jpg", Path(f"{code}_{n:05d}.jpg"))
        for code, count in zip(CODES, counts, strict=False)
        for n in range(count)
    ]
    parts = split_blocks(samples, blocks)
    for code in CODES:
        mine = [s for s in samples if s.code == code]
        joined = [s for block in ("train", "calibration", "test") for s in parts[block] if s.code == code]
        assert joined == mine
        assert len([s for s in parts["train"] if s.code == code]) == round(len(mine) * train)


def test_the_split_is_written_in_the_open() -> None:
    samples = [Sample("set", "BLA", f"BLA_{n:05d}.jpg", Path(f"/somewhere/BLA_{n:05d}.jpg")) for n in range(10)]
    lines = split_list(split_blocks(samples, Blocks())).splitlines()
    assert lines[0] == "block,source,code,file"
    assert lines[1] == "train,set,BLA,BLA_00000.jpg"
    assert lines[-1] == "test,set,BLA,BLA_00009.jpg"
    assert len(lines) == 11
