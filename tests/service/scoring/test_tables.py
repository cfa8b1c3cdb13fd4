"""Tables: every format returns what was written, and files are written atomically."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyarrow import parquet

from examples import examples
from service.scoring.tables import Columns, ScoredPicture, TableError, check_table_path, read_table, write_table

FORMATS = ["csv", "jsonl", "parquet"]
COLUMNS = Columns(("NGS", "path", "b-2"), "a" * 64)

probabilities = arrays(np.float32, 3, elements=st.floats(0, 1, width=32))
# without control characters: `marrowlens score` escapes them
paths = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1)


@pytest.mark.parametrize("form", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(50))
@given(rows=st.lists(st.tuples(paths, probabilities), max_size=8))
def test_what_goes_in_comes_out_to_the_last_bit(form: str, tmp_path: Path, rows: list[tuple[str, np.ndarray]]) -> None:
    table = tmp_path / f"table.{form}"
    write_table(table, COLUMNS, (ScoredPicture(path, row) for path, row in rows))
    found = list(read_table(table, COLUMNS))
    assert [scored.path for scored in found] == [path for path, _ in rows]
    for scored, (_, row) in zip(found, rows, strict=True):
        assert scored.probabilities.dtype == np.float32 and (scored.probabilities == row).all()


def one_row(path: str = "a.png") -> list[ScoredPicture]:
    return [ScoredPicture(path, np.array([0.2, 0.7, 0.1], np.float32))]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("unsupported", [(), ("path",), ("NGS", "b-2")])
def test_a_row_says_whether_its_class_is_supported(form: str, tmp_path: Path, unsupported: tuple[str, ...]) -> None:
    table = tmp_path / f"table.{form}"
    write_table(table, Columns(COLUMNS.codes, COLUMNS.model_sha256, unsupported), one_row())
    if form == "csv":
        (found,) = csv.DictReader(table.read_text().splitlines())
        assert found["supported"] == str("path" not in unsupported)
    elif form == "jsonl":
        assert orjson.loads(table.read_bytes())["supported"] is ("path" not in unsupported)
    else:
        assert parquet.read_table(table)["supported"].to_pylist() == ["path" not in unsupported]


@pytest.mark.parametrize("form", FORMATS)
def test_more_rows_than_are_held_at_once(form: str, tmp_path: Path) -> None:
    table = tmp_path / f"table.{form}"
    write_table(table, COLUMNS, (one_row(f"{number:05d}")[0] for number in range(10_000)))
    assert [scored.path for scored in read_table(table, COLUMNS)] == [f"{number:05d}" for number in range(10_000)]


@pytest.mark.parametrize("form", FORMATS)
def test_another_model_or_other_columns_are_an_error(form: str, tmp_path: Path) -> None:
    table = tmp_path / f"table.{form}"
    write_table(table, COLUMNS, one_row())
    with pytest.raises(TableError, match="was written with model aaaaaaaaaaaa…, this is model bbbbbbbbbbbb…"):
        list(read_table(table, Columns(COLUMNS.codes, "b" * 64)))
    with pytest.raises(TableError, match="its columns are not"):
        list(read_table(table, Columns(("NGS", "NGB", "b-2"), "a" * 64)))


STRANGERS = {
    "text": b"patient,result\n4711,42\n",
    "bytes": bytes(range(256)),
    "json": b'{"path": "a"}\n[1, 2]\n',
    "half a row": b",".join(name.encode() for name in COLUMNS.names) + b"\na.png,NGS,0.5\n",
    "no numbers": b",".join(name.encode() for name in COLUMNS.names) + b"\na,b,c,d,e,f,g," + b"a" * 64 + b"\n",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", STRANGERS)
def test_somebody_elses_file_is_an_error(form: str, name: str, tmp_path: Path) -> None:
    table = tmp_path / f"table.{form}"
    table.write_bytes(STRANGERS[name])
    with pytest.raises(TableError, match="choose another --out"):
        list(read_table(table, COLUMNS))


KILLED_IN_THE_WRITING = """
import os, signal, sys
from pathlib import Path
import numpy as np
from service.scoring.tables import Columns, ScoredPicture, write_table
def rows():
    for number in range(10_000):
        yield ScoredPicture(f"dead_{number}.png", np.eye(3, dtype=np.float32)[0])
    os.kill(os.getpid(), signal.SIGKILL)
write_table(Path(sys.argv[1]), Columns(("NGS", "path", "b-2"), "a" * 64), rows())
"""


@pytest.mark.parametrize("form", FORMATS)
def test_a_writer_that_is_killed_leaves_the_old_table(form: str, tmp_path: Path) -> None:
    table = tmp_path / f"table.{form}"
    write_table(table, COLUMNS, one_row())
    before = table.read_bytes()
    dead = subprocess.run([sys.executable, "-c", KILLED_IN_THE_WRITING, str(table)], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert table.read_bytes() == before
    write_table(table, COLUMNS, one_row("b.png"))
    assert [scored.path for scored in read_table(table, COLUMNS)] == ["b.png"]
    assert list(tmp_path.iterdir()) == [table], "what the dead one left is gone"


@pytest.mark.parametrize("form", FORMATS)
def test_a_writer_that_fails_leaves_the_old_table_and_nothing_else(form: str, tmp_path: Path) -> None:
    table = tmp_path / f"table.{form}"
    write_table(table, COLUMNS, one_row())
    before = table.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_table(table, COLUMNS, (ScoredPicture(str(1 // number), one_row()[0].probabilities) for number in (1, 0)))
    assert table.read_bytes() == before and list(tmp_path.iterdir()) == [table]


def test_the_suffix_says_the_format(tmp_path: Path) -> None:
    for form in FORMATS:
        check_table_path(tmp_path / f"table.{form}")
    for name in ("table.xlsx", "table", "table.CSV"):
        with pytest.raises(TableError, match="one of .parquet, .csv, .jsonl"):
            check_table_path(tmp_path / name)
