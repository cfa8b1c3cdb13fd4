"""`marrowlens score`: complete tables, resumed after any kill; a bad file does not affect the others."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import add_trust, write_artefact
from known import known_cells, red_cells
from numpy.typing import NDArray
from rich.console import Console
from serving import client
from typer.testing import CliRunner, Result

from model.image import decode
from service.cli.main import app
from service.config.settings import Settings
from service.runtime.loader import InferenceOptions
from service.runtime.session import OnnxSession, Outputs, open_session
from service.scoring.checkpoint import Checkpoint
from service.scoring.local import FILES_AT_ONCE, score_folder
from service.scoring.tables import Columns, ScoredPicture, ScoringError, TableError, read_table

FORMATS = ["csv", "jsonl", "parquet"]
Draw = Callable[..., bytes]


@pytest.fixture
def folder(tmp_path: Path, draw: Draw) -> Path:
    """Twelve pictures in folders and subfolders, of several types, and files that are not pictures."""
    cells = tmp_path / "cells"
    for number in range(12):
        suffix, form = [(".jpg", "JPEG"), (".PNG", "PNG"), (".tif", "TIFF")][number % 3]
        path = cells / ["EOS", "LYT/0001-1000", ""][number % 3] / f"cell_{number:02d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(number, format=form))
    (cells / "notes.txt").write_text("not a picture, and not called one")
    (cells / ".hidden.jpg").write_bytes(b"")
    return cells


def run(folder: Path, out: Path, artefact: Path) -> Result:
    return CliRunner().invoke(app, ["score", str(folder), "--out", str(out), "--artefact", str(artefact)])


def said(result: Result) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", result.output).split())


def columns_of(artefact: Path) -> Columns:
    manifest = open_session(artefact).manifest
    return Columns(manifest.codes, manifest.sha256)


def rows(out: Path, artefact: Path) -> dict[str, NDArray[np.float32]]:
    found = [(scored.path, scored.probabilities) for scored in read_table(out, columns_of(artefact))]
    assert len(dict(found)) == len(found), "a picture has two rows in the table"
    return dict(found)


def names(folder: Path) -> list[str]:
    suffixes = {".jpg", ".PNG", ".tif"}
    found = (path for path in folder.rglob("*") if path.suffix in suffixes and not path.name.startswith("."))
    return sorted(path.relative_to(folder).as_posix() for path in found)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("form", FORMATS)
def test_the_table_has_the_decisions(form: str, tmp_path: Path, trusted_artefact: Path) -> None:
    """Decision, reasons, prediction set and p-value are those that the service answers; interrupted or not."""
    cells, out = tmp_path / "cells", tmp_path / f"results.{form}"
    cells.mkdir()
    pictures = {f"{at:02d}.png": data for at, data in enumerate([*known_cells(8, first_seed=1000), red_cells(1)])}
    for name, data in list(pictures.items())[:5]:
        (cells / name).write_bytes(data)
    assert run(cells, out, trusted_artefact).exit_code == 0
    for name, data in pictures.items():
        (cells / name).write_bytes(data)
    assert run(cells, out, trusted_artefact).exit_code == 0  # the five rows are read back from the table
    columns = Columns.of(open_session(trusted_artefact).manifest, "")
    found = {scored.path: scored.decided for scored in read_table(out, columns)}
    with client(trusted_artefact) as http:
        for name, data in pictures.items():
            answer, row = http.post("/classify?maps=none", files={"image": data}).json(), found[name]
            assert row is not None and row.decision == answer["decision"]
            assert row.reasons == tuple(reason["code"] for reason in answer["reasons"])
            assert row.prediction_set == tuple(answer["prediction"]["set"])
            assert row.p_value == pytest.approx(answer["novelty"]["p_value"])
    assert found["08.png"] is not None and found["08.png"].decision == "reject"


def test_every_picture_of_several_groups_has_its_own_row(tmp_path: Path, artefact: Path, draw: Draw) -> None:
    """Files are read in groups; those that cannot be read lie at the ends of two of them."""
    cells, out = tmp_path / "cells", tmp_path / "results.csv"
    cells.mkdir()
    for number in range(2 * FILES_AT_ONCE + 3):
        (cells / f"{number:02d}.jpg").write_bytes(draw(number))
    broken = [0, FILES_AT_ONCE - 1, FILES_AT_ONCE]
    for number in broken:
        (cells / f"{number:02d}.jpg").write_bytes(b"no picture")
    assert run(cells, out, artefact).exit_code == 1
    session = open_session(artefact)
    size = session.manifest.preprocessing.input_size
    found = rows(out, artefact)
    assert sorted(found) == [f"{n:02d}.jpg" for n in range(2 * FILES_AT_ONCE + 3) if n not in broken]
    for name, probabilities in found.items():
        pixels = decode((cells / name).read_bytes(), size)
        np.testing.assert_allclose(probabilities, session.run(pixels[None]).probabilities[0], atol=1e-5)
    problems = out.with_name("results.csv.problems.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in problems] == [f"{n:02d}.jpg" for n in broken]


def test_rows_of_other_thresholds_are_not_mixed(
    tmp_path: Path, trusted_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = open_session(trusted_artefact).manifest
    cells, out = tmp_path / "cells", tmp_path / "results.csv"
    cells.mkdir()
    (cells / "one.png").write_bytes(red_cells(1))
    other = write_artefact(tmp_path)
    add_trust(other, np.stack([decode(data, 64) for data in known_cells(90, first_seed=5)]))
    assert run(cells, out, trusted_artefact).exit_code == 0
    refused = run(cells, out, other)
    assert refused.exit_code and "was written with manifest" in said(refused)
    monkeypatch.setenv("MARROWLENS_REVIEW_CLASSES", "BLA,PMO")
    refused = run(cells, out, trusted_artefact)
    assert refused.exit_code and "was written with review classes none, this is review classes BLA PMO" in said(refused)
    with pytest.raises(KeyboardInterrupt), Checkpoint(tmp_path / "one.partial", Columns.of(manifest, "")) as begun:
        begun.add(ScoredPicture("one.png", np.zeros(21, np.float32)))
        raise KeyboardInterrupt
    with pytest.raises(TableError, match="other thresholds or reviewed classes"):
        Checkpoint(tmp_path / "one.partial", Columns.of(manifest, "BLA"))


@pytest.mark.parametrize("form", FORMATS)
def test_every_picture_gets_the_models_own_answer(form: str, folder: Path, tmp_path: Path, artefact: Path) -> None:
    out = tmp_path / f"results.{form}"
    result = run(folder, out, artefact)
    assert result.exit_code == 0, result.output
    found = rows(out, artefact)
    assert list(found) == names(folder) and len(found) == 12
    session = open_session(artefact)
    for name, probabilities in found.items():
        expected = session.run(decode((folder / name).read_bytes(), 64)[None]).probabilities[0]
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert leftovers(tmp_path) == [out.name], "nothing but the table is left"


def test_a_model_without_attention_scores_like_the_same_with_it(
    folder: Path, tmp_path: Path, artefact: Path, inert_artefact: Path
) -> None:
    for each, out in ((artefact, tmp_path / "with.csv"), (inert_artefact, tmp_path / "without.csv")):
        assert run(folder, out, each).exit_code == 0
    found, expected = rows(tmp_path / "without.csv", inert_artefact), rows(tmp_path / "with.csv", artefact)
    assert list(found) == list(expected) == names(folder)
    for name, probabilities in found.items():
        np.testing.assert_allclose(probabilities, expected[name], atol=1e-6)


def plain_rows(out: Path) -> list[dict[str, Any]]:
    """The table, read by another library."""
    if out.suffix == ".csv":
        with out.open(newline="") as file:
            return list(csv.DictReader(file))
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    import pyarrow.parquet as pq

    return list(pq.read_table(out).to_pylist())


@pytest.mark.parametrize("form", FORMATS)
def test_the_columns_say_it_all(form: str, folder: Path, tmp_path: Path, artefact: Path) -> None:
    out = tmp_path / f"results.{form}"
    run(folder, out, artefact)
    manifest = open_session(artefact).manifest
    for row in plain_rows(out):
        probabilities = [f"p_{code}" for code in manifest.codes]
        assert list(row) == ["path", "code", "probability", "supported", *probabilities, "model_sha256"]
        assert str(row["supported"]) == str(row["code"] not in manifest.unsupported)
        by_code = {code: float(row[f"p_{code}"]) for code in manifest.codes}
        assert row["code"] == max(by_code, key=lambda code: by_code[code])
        assert float(row["probability"]) == by_code[row["code"]]
        assert sum(by_code.values()) == pytest.approx(1, abs=1e-5)
        assert row["model_sha256"] == manifest.sha256


def test_a_bad_file_stops_nothing_and_is_listed(folder: Path, tmp_path: Path, artefact: Path, draw: Draw) -> None:
    good = names(folder)
    (folder / "EOS" / "cut.jpg").write_bytes(draw(1, format="JPEG")[:300])
    (folder / "empty.tif").write_bytes(b"")
    (folder / "[bold]gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.jpg")
    out = tmp_path / "results.csv"
    result = run(folder, out, artefact)
    assert result.exit_code == 1
    assert list(rows(out, artefact)) == good
    problems = [json.loads(line) for line in (tmp_path / "results.csv.problems.jsonl").read_text().splitlines()]
    assert [problem["path"] for problem in problems] == ["EOS/cut.jpg", "[bold]gone.png", "empty.tif", "pipe.jpg"]
    for problem in problems:
        assert f"{problem['path']}: {problem['reason']}" in said(result)
    assert "cut off" in problems[0]["reason"] and "No such file" in problems[1]["reason"]


def test_many_bad_files_are_counted_and_all_in_the_file(folder: Path, tmp_path: Path, artefact: Path) -> None:
    for number in range(30):
        (folder / f"bad_{number:02d}.png").write_bytes(b"?")
    out = tmp_path / "results.jsonl"
    assert "30 could not be scored" in said(result := run(folder, out, artefact)) and "… and 10 more" in said(result)
    assert len((tmp_path / "results.jsonl.problems.jsonl").read_text().splitlines()) == 30
    assert len(rows(out, artefact)) == 12


@pytest.mark.parametrize("form", FORMATS)
def test_a_second_run_adds_what_is_new_and_nothing_else(
    form: str, folder: Path, tmp_path: Path, artefact: Path, draw: Draw
) -> None:
    out = tmp_path / f"results.{form}"
    (folder / "bad.jpg").write_bytes(b"")
    run(folder, out, artefact)
    first, before = out.read_bytes(), rows(out, artefact)
    assert "0 of them scored now" in said(again := run(folder, out, artefact)) and again.exit_code == 1
    assert out.read_bytes() == first
    (folder / "bad.jpg").write_bytes(draw(99, format="JPEG"))  # mended
    (folder / "EOS" / "new.jpg").write_bytes(draw(98, format="JPEG"))
    result = run(folder, out, artefact)
    assert result.exit_code == 0 and "14 pictures, 2 of them scored now" in said(result)
    after = rows(out, artefact)
    assert list(after) == names(folder) and len(after) == 14
    assert all((after[name] == before[name]).all() for name in before)
    assert leftovers(tmp_path) == [out.name], "the list of problems is gone with the problems"


class Counting:
    """A session that counts its pictures and fails after `fails_after` of them."""

    def __init__(self, session: OnnxSession, fails_after: float = float("inf")) -> None:
        self.manifest, self.provider, self.precision = session.manifest, session.provider, session.precision
        self._session, self._fails_after, self.seen = session, fails_after, 0

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        if images.any():  # the warm-up's are black
            self.seen += len(images)
            if self.seen > self._fails_after:
                raise RuntimeError("the device is lost")
        return self._session.run(images)


def test_a_failing_model_ends_the_run_and_the_next_goes_on(folder: Path, tmp_path: Path, artefact: Path) -> None:
    options = InferenceOptions.from_settings(Settings(max_batch_size=1, decode_threads=1))
    out, session, console = tmp_path / "results.csv", open_session(artefact), Console(quiet=True)
    with pytest.raises(ScoringError, match=r"the model failed at .*: the device is lost"):
        score_folder(folder, out, Counting(session, fails_after=5), options, console)
    assert leftovers(tmp_path) == ["results.csv.partial"]
    second = Counting(session)
    assert score_folder(folder, out, second, options, console) == 0
    assert second.seen == 12 - 5
    assert list(rows(out, artefact)) == names(folder)
    assert leftovers(tmp_path) == ["results.csv"]


KILLED_IN_THE_RUN = """
import os, signal, sys
from pathlib import Path
import numpy as np
from service.scoring.checkpoint import COMMIT_EVERY_S, Checkpoint
from service.scoring.tables import Columns, ScoredPicture
partial, sha256, *codes = sys.argv[1:]
names = sys.stdin.read().split()
now = 0.0
checkpoint = Checkpoint(Path(partial), Columns(tuple(codes), sha256), clock=lambda: now)
for number, name in enumerate(names):
    now += COMMIT_EVERY_S if number in (3, 6) else 0  # committed after the fourth and the seventh
    checkpoint.add(ScoredPicture(name, np.eye(len(codes), dtype=np.float32)[number]))
    if number == 8:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_loses_what_was_not_committed_and_no_more(folder: Path, tmp_path: Path, artefact: Path) -> None:
    out, columns = tmp_path / "results.csv", columns_of(artefact)
    arguments = [f"{out}.partial", columns.model_sha256, *columns.codes]
    dead = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_RUN, *arguments], input="\n".join(names(folder)), text=True, check=False
    )
    assert dead.returncode == -signal.SIGKILL
    result = run(folder, out, artefact)
    assert result.exit_code == 0 and "12 pictures, 5 of them scored now" in said(result)
    found = rows(out, artefact)
    assert list(found) == names(folder)
    kept = [number for number, row in enumerate(found.values()) if (row == np.eye(21)[number]).all()]
    assert kept == list(range(7)), "the dead run's own rows"
    assert leftovers(tmp_path) == ["results.csv"]


def test_a_run_killed_between_table_and_checkpoint_counts_nothing_twice(
    folder: Path, tmp_path: Path, artefact: Path
) -> None:
    out = tmp_path / "results.csv"
    run(folder, out, artefact)
    columns = columns_of(artefact)
    checkpoint = Checkpoint(tmp_path / "results.csv.partial", columns, lambda: read_table(out, columns))
    with pytest.raises(ZeroDivisionError), checkpoint:
        checkpoint.add(next(checkpoint.rows()))
        raise ZeroDivisionError
    assert leftovers(tmp_path) == ["results.csv", "results.csv.partial"]
    (folder / "EOS" / "cell_00.jpg").unlink()
    result = said(run(folder, out, artefact))
    assert "12 pictures, 0 of them scored now" in result and "kept 1 rows of the table without a picture" in result
    assert len(rows(out, artefact)) == 12 and leftovers(tmp_path) == ["results.csv"]


def test_another_model_does_not_go_on_with_a_table(folder: Path, tmp_path: Path, artefact: Path) -> None:
    other, out = write_artefact(tmp_path, name="other", seed=1), tmp_path / "results.parquet"
    shas = [columns_of(path).model_sha256[:12] for path in (artefact, other)]
    run(folder, out, artefact)
    before = out.read_bytes()
    result = run(folder, out, other)
    assert result.exit_code == 2 and all(sha in said(result) for sha in shas) and "another --out" in said(result)
    assert out.read_bytes() == before and not Path(f"{out}.partial").exists()


def test_two_runs_do_not_write_one_table(folder: Path, tmp_path: Path, artefact: Path) -> None:
    out = tmp_path / "results.csv"
    with Checkpoint(Path(f"{out}.partial"), columns_of(artefact)):
        result = run(folder, out, artefact)
    assert result.exit_code == 2 and "another run" in said(result) and not out.exists()


def test_what_cannot_run_says_why(folder: Path, tmp_path: Path, artefact: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for where, out, why in [
        (folder, tmp_path / "results.xlsx", ".parquet, .csv, .jsonl"),
        (tmp_path / "none", tmp_path / "r.csv", "none: not a folder"),
        (folder, tmp_path / "none" / "r.csv", "none: not a folder"),
        (empty, tmp_path / "r.csv", "holds no pictures (.jpg"),
    ]:
        result = run(where, out, artefact)
        assert result.exit_code == 2 and why in said(result), result.output
    result = run(folder, tmp_path / "r.csv", tmp_path / "none.onnx")
    assert result.exit_code == 2 and "none" in said(result)
    assert leftovers(tmp_path) == []


def test_the_services_limits_hold(
    folder: Path, tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sorted((path.stat().st_size, path) for path in folder.rglob("cell_*"))
    monkeypatch.setenv("MARROWLENS_MAX_IMAGE_BYTES", str(sizes[-1][0] - 1))
    result = run(folder, tmp_path / "r.csv", artefact)
    assert result.exit_code == 1 and f"the picture has {sizes[-1][0]} bytes" in said(result)
    monkeypatch.setenv("MARROWLENS_MAX_PIXEL", "1")
    result = run(folder, tmp_path / "r.csv", artefact)
    assert result.exit_code == 2 and "MARROWLENS_MAX_PIXELS" in said(result)


def test_odd_names_survive(tmp_path: Path, artefact: Path, draw: Draw) -> None:
    cells = tmp_path / "cells"
    cells.mkdir()
    odd = ["a,b.png", 'say "cell".png', "Ümlaut\u202f.png", "=1+1.png", "[red].png"]
    for number, name in enumerate([*odd, "two\nlines.png", "cr\rlf.png", "\x1b[2J.png", "back\\n.png"]):
        (cells / name).write_bytes(draw(number))
    Path(os.fsdecode(os.fsencode(cells) + b"/latin\xe9.png")).write_bytes(draw(9))
    for form in FORMATS:
        out = tmp_path / f"results.{form}"
        assert run(cells, out, artefact).exit_code == 0
        escaped = [r"latin\xe9.png", r"two\x0alines.png", r"cr\x0dlf.png", r"\x1b[2J.png", r"back\\n.png"]
        assert sorted(rows(out, artefact)) == sorted([*odd, *escaped])
        assert "0 of them scored now" in said(run(cells, out, artefact))
