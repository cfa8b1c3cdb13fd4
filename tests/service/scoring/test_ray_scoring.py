"""Parts scored without Ray: the same rows from every input and store, each exactly once, as planned."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from graphs import write_artefact
from hypothesis import given
from hypothesis import strategies as st
from parts import Pictures, as_folder, as_table, as_tar, rows, scored
from typer.testing import CliRunner

from model.image import decode
from service.cli.main import app
from service.runtime.session import open_session
from service.scoring.ray.options import Duplicates, ScoreRequest
from service.scoring.ray.output import finished_parts
from service.scoring.ray.plan import KeyIndex
from service.scoring.ray.store import OutputFolder, StoreError
from service.scoring.ray.worker import ScoredPart
from service.scoring.tables import ScoringError

Draw = Callable[..., bytes]


@pytest.fixture(scope="session")
def pictures(draw: Draw) -> Pictures:
    """23 pictures and two that are not readable, in the order of a folder's listing."""
    found = {f"{['EOS', 'LYT/0001'][number % 2]}/c{number:02d}.png": draw(number) for number in range(21)}
    found |= {"a.jpg": draw(90, format="JPEG"), "z.TIF": draw(91, format="TIFF")}
    found |= {"EOS/cut.jpg": draw(1, format="JPEG")[:300], "no.png": b""}
    return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))


@pytest.fixture
def plain(tmp_path: Path, pictures: Pictures, artefact: Path) -> dict[str, dict[str, Any]]:
    """The rows of a local `marrowlens score` of the folder, by path."""
    out = tmp_path / "plain.parquet"
    folder = as_folder(tmp_path / "plain", pictures)
    ran = CliRunner().invoke(app, ["score", folder, "--out", str(out), "--artefact", str(artefact)])
    assert ran.exit_code == 1, ran.output
    return {row["path"]: row for row in pq.read_table(out).to_pylist()}


def check(out: str | Path, plain: dict[str, dict[str, Any]], bad: set[str]) -> None:
    found = rows(out)
    assert set(found) == set(plain) | bad
    for key, row in plain.items():
        assert list(found[key])[:-1] == list(row) and found[key]["problem"] is None
        for column, value in row.items():
            close = pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
            assert found[key][column] == close, (key, column)
    for key in bad:
        empty = {column: value for column, value in found[key].items() if value is not None}
        assert set(empty) == {"path", "model_sha256", "problem"}


BAD = {"EOS/cut.jpg", "no.png"}


@pytest.mark.parametrize("form", ["folder", "tar", "shards", "table", "tables", "columns"])
def test_every_kind_of_input_gives_the_rows_of_a_plain_run(
    form: str, tmp_path: Path, pictures: Pictures, plain: dict[str, dict[str, Any]], artefact: Path
) -> None:
    items = list(pictures.items())
    where = tmp_path / "in"
    where.mkdir()
    if form == "folder":
        address = as_folder(where, pictures)
    elif form == "tar":
        address = as_tar(where / "a.tar", pictures, **{"EOS/c00.json": b"{}", ".c.png": b"", "EOS/.x/c.png": b""})
    elif form == "table":
        address = as_table(where / "a.parquet", pictures)
    else:
        for number in range(3):
            some = dict(items[number::3])
            if form == "shards":
                as_tar(where / f"{number}.tar", some)
            else:
                named = {"key": "name", "image": "cell"} if form == "columns" else {}
                as_table(where / f"{number}.parquet", some, **named)
        address = str(where / ("*.tar" if form == "shards" else "*.parquet"))
    named = {"key_column": "name", "image_column": "cell"} if form == "columns" else {}
    out = tmp_path / "out"
    plan, ended = scored(ScoreRequest((address,), str(out), 4, **named), artefact)
    assert plan.pictures == 25 and plan.parts == 7 and len(ended) == 7
    assert sum(done.problems for done in ended if isinstance(done, ScoredPart)) == 2
    check(out, plain, BAD)


def test_a_model_without_attention_scores_like_the_same_with_it(
    tmp_path: Path, pictures: Pictures, plain: dict[str, dict[str, Any]], inert_artefact: Path
) -> None:
    address = as_folder(tmp_path / "in", pictures)
    out = tmp_path / "out"
    scored(ScoreRequest((address,), str(out), 10), inert_artefact)
    other = {"model_sha256": open_session(inert_artefact).manifest.sha256}
    check(out, {key: row | other for key, row in plain.items()}, BAD)


def in_memory(pictures: Pictures, tmp_path: Path) -> tuple[str, str]:
    store = fsspec.filesystem("memory")
    for key, content in pictures.items():
        store.pipe_file(f"/{tmp_path.name}/in/{key}", content)
    store.pipe_file(f"/{tmp_path.name}/in/.hidden/x.png", b"")
    return f"memory://{tmp_path.name}/in", f"memory://{tmp_path.name}/out"


def in_a_zip(pictures: Pictures, tmp_path: Path) -> tuple[str, str]:
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as archive:
        for key, content in pictures.items():
            archive.writestr(f"cells/{key}", content)
    return f"zip://cells::{tmp_path / 'cells.zip'}", f"file://{tmp_path}/out"


def a_tar_in_memory(pictures: Pictures, tmp_path: Path) -> tuple[str, str]:
    shard = as_tar(tmp_path / "a.tar", pictures)
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/in/a.tar", Path(shard).read_bytes())
    return f"memory://{tmp_path.name}/in/*.tar", f"memory://{tmp_path.name}/out"


def a_table_in_memory(pictures: Pictures, tmp_path: Path) -> tuple[str, str]:
    table = as_table(tmp_path / "a.parquet", pictures)
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/in/a.parquet", Path(table).read_bytes())
    return f"memory://{tmp_path.name}/in/a.parquet", f"memory://{tmp_path.name}/out"


@pytest.mark.parametrize("place", [in_memory, in_a_zip, a_tar_in_memory, a_table_in_memory])
def test_every_store_gives_the_same_rows(
    place: Callable[[Pictures, Path], tuple[str, str]],
    tmp_path: Path,
    pictures: Pictures,
    plain: dict[str, dict[str, Any]],
    artefact: Path,
) -> None:
    address, out = place(pictures, tmp_path)
    scored(ScoreRequest((address,), out, 4), artefact)
    copy = tmp_path / "copy"
    fsspec.filesystem(out.split(":")[0]).get(out, str(copy), recursive=True)
    check(copy, plain, BAD)


# Exactly once


def test_what_is_there_is_not_scored_again(tmp_path: Path, pictures: Pictures, artefact: Path) -> None:
    request = ScoreRequest((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"), 4)
    scored(request, artefact)
    before, whole = rows(request.out), {path.name: path.read_bytes() for path in Path(request.out).iterdir()}
    for part in (0, 3):
        Path(request.out, f"part-{part:06d}.parquet").unlink()
    _, ended = scored(ScoreRequest(request.inputs, request.out), artefact)
    assert len(ended) == 2 and rows(request.out).keys() == before.keys()
    kept = {path.name: path.read_bytes() for path in Path(request.out).iterdir()}
    assert {name for name in whole if kept[name] != whole[name]} <= {"part-000000.parquet", "part-000003.parquet"}
    assert scored(request, artefact)[1] == []


def test_a_part_that_two_score_is_there_once(tmp_path: Path, pictures: Pictures, artefact: Path) -> None:
    request = ScoreRequest((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"), 30)
    (first,) = scored(request, artefact)[1]
    os.rename(part := tmp_path / "out" / "part-000000.parquet", aside := tmp_path / "aside")
    (second,) = scored(request, artefact)[1]
    shutil.copy(aside, part)  # an actor that was thought dead writes its file late
    assert first == second and len(rows(request.out)) == 25


def test_a_key_that_comes_twice(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    one, other = {"a.png": draw(1), "b.png": draw(2)}, {"b.png": draw(3), "c.png": draw(4)}
    inputs = (as_tar(tmp_path / "1.tar", one), as_folder(tmp_path / "2", other))
    with pytest.raises(ScoringError, match=r"b\.png is in .*1\.tar and again in .*2/b\.png"):
        scored(ScoreRequest(inputs, str(tmp_path / "out")), artefact)
    assert not (tmp_path / "out" / "_plan.json").exists()
    plan, _ = scored(ScoreRequest(inputs, str(tmp_path / "out"), duplicates=Duplicates.FIRST), artefact)
    assert (plan.pictures, plan.repeated) == (3, 1)
    found = rows(tmp_path / "out")
    expected = open_session(artefact).run(decode(draw(2), 64)[None]).probabilities[0]
    np.testing.assert_allclose([v for k, v in found["b.png"].items() if k.startswith("p_")], expected, atol=1e-5)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4)))
def test_a_key_is_seen_when_it_comes_again(keys: list[str]) -> None:
    with KeyIndex() as seen:
        places = [seen.add(key, str(at)) for at, key in enumerate(keys)]
    assert places == [None if keys.index(key) == at else str(keys.index(key)) for at, key in enumerate(keys)]


# The plan of a resumed run


@pytest.mark.parametrize("change", ["model", "inputs", "new picture", "shard", "size", "column", "limit"])
def test_another_run_does_not_go_on_with_it(
    change: str, tmp_path: Path, pictures: Pictures, artefact: Path, draw: Draw
) -> None:
    folder, shard = as_folder(tmp_path / "in", pictures), as_tar(tmp_path / "a.tar", {"x.png": draw(7)})
    inputs, out = (folder, shard), str(tmp_path / "out")
    scored(ScoreRequest(inputs, out, 10), artefact)
    before = {path.name: path.read_bytes() for path in Path(out).iterdir()}
    request, model, settings = ScoreRequest(inputs, out), artefact, {}
    why = "input files have changed" if change in ("new picture", "shard") else "choose another --out"
    if change == "model":
        model = write_artefact(tmp_path, name="other", seed=1)
    elif change == "inputs":
        request = ScoreRequest((folder,), out)
    elif change == "new picture":
        (tmp_path / "in" / "new.png").write_bytes(draw(8))
    elif change == "shard":
        as_tar(tmp_path / "a.tar", {"x.png": draw(9, size=(200, 100)), "y.png": draw(9)})
    elif change == "size":
        request = ScoreRequest(inputs, out, 11)
    elif change == "column":
        request = ScoreRequest(inputs, out, image_column="cell")
    else:
        settings = {"max_image_bytes": 5000}
    with pytest.raises(ScoringError, match=why):
        scored(request, model, **settings)
    assert {path.name: path.read_bytes() for path in Path(out).iterdir()} == before


def test_files_that_are_none_of_its_own_stop_it(tmp_path: Path, pictures: Pictures, artefact: Path) -> None:
    request = ScoreRequest((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"), 10)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(StoreError, match=r"other files \(mine\.txt\)"):
        scored(request, artefact)
    (tmp_path / "out" / "mine.txt").unlink()
    scored(request, artefact)
    other = ScoreRequest((as_folder(tmp_path / "in2", pictures),), str(tmp_path / "out2"), 10)
    scored(other, artefact)
    shutil.copy(tmp_path / "out2" / "part-000001.parquet", tmp_path / "out")
    with pytest.raises(StoreError, match=r"part-000001\.parquet: belongs to another run"):
        scored(request, artefact)
    (tmp_path / "out" / "part-000001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match="damaged; remove it"):
        scored(request, artefact)


def test_a_run_killed_while_it_planned_or_wrote_leaves_nothing_in_the_way(
    tmp_path: Path, pictures: Pictures, artefact: Path
) -> None:
    request = ScoreRequest((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"), 10)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_plan.parquet").write_bytes(b"a listing, and no plan yet")
    (tmp_path / "out" / ".part-000001.parquet.0.unfinished").write_bytes(b"half")
    plan, _ = scored(request, artefact)
    assert len(rows(request.out)) == 25
    folder = OutputFolder(request.out)
    assert sum(part.pictures for part in finished_parts(folder, plan)) == 25
    folder.remove_unfinished()
    assert not list(Path(request.out).glob(".*"))
