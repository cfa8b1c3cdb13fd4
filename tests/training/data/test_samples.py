"""Bytes of a picture, split.csv, and the split of a resumed run."""

import pickle
from pathlib import Path

import pytest

from training.data.samples import DataError, Sample, Span, Split, read_image_bytes, sha256_of, split_csv, split_from_csv

CELLS = [Sample("set", "BLA", f"BLA_{n:05d}.jpg", Path(f"/there/BLA/BLA_{n:05d}.jpg")) for n in range(10)]
PARTS: Split = {"train": CELLS[:8], "calibration": CELLS[8:9], "test": CELLS[9:]}


def test_the_split_is_written_in_the_open() -> None:
    lines = split_csv(PARTS).splitlines()
    assert lines[0] == "block,source,code,file"
    assert lines[1] == "train,set,BLA,BLA_00000.jpg"
    assert lines[-1] == "test,set,BLA,BLA_00009.jpg"
    assert len(lines) == 11


def test_a_list_gives_back_the_blocks_it_was_made_of() -> None:
    again = split_from_csv(reversed(CELLS), split_csv(PARTS), Path("there"), complete=True)
    assert again == PARTS
    assert sha256_of(split_csv(again)) == sha256_of(split_csv(PARTS))


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (CELLS[1:], "1 of its pictures are missing, for example BLA_00000.jpg"),
        (
            [*CELLS, Sample("set", "BLA", "new.jpg", Path("new.jpg"))],
            "1 pictures are not in its split.csv, for example new.jpg",
        ),
    ],
)
def test_other_pictures_than_those_of_the_list_are_refused(there: list[Sample], says: str) -> None:
    with pytest.raises(DataError, match=says):
        split_from_csv(there, split_csv(PARTS), Path("there"), complete=True)


def test_where_a_share_is_used_the_list_names_fewer_than_there_are() -> None:
    more = [*CELLS, Sample("set", "BLA", "new.jpg", Path("new.jpg"))]
    assert split_from_csv(more, split_csv(PARTS), Path("there"), complete=False) == PARTS


def test_a_span_is_read_from_its_file_and_a_cut_off_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "many").write_bytes(b"..picture.")
    sample = Sample("set", "BLA", "a.jpg", tmp_path / "many", span=Span(2, 7))
    assert read_image_bytes(pickle.loads(pickle.dumps(sample))) == b"picture"
    with pytest.raises(OSError, match="ends within a.jpg"):
        read_image_bytes(Sample("set", "BLA", "a.jpg", tmp_path / "many", span=Span(2, 70)))
