"""`marrowlens score`: skipped files are counted, vanished files end no run, links are not written through."""

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parts import said
from rich.console import Console
from typer.testing import CliRunner, Result

from model.csv_file import unguarded
from service.cli.main import app
from service.config.settings import Settings
from service.runtime.loader import InferenceOptions
from service.runtime.session import open_session
from service.scoring.image_files import Skipped, find_pictures
from service.scoring.local import score_folder

Draw = Callable[..., bytes]
LINKS = pytest.mark.parametrize("link", [os.symlink, os.link])


@pytest.fixture
def folder(tmp_path: Path, draw: Draw) -> Path:
    cells = tmp_path / "cells"
    (cells / "EOS").mkdir(parents=True)
    for number in range(4):
        (cells / "EOS" / f"{number}.png").write_bytes(draw(number))
    return cells


def run(folder: Path, out: Path, artefact: Path) -> Result:
    return CliRunner().invoke(app, ["score", str(folder), "--out", str(out), "--artefact", str(artefact)])


# What is skipped


def test_what_is_skipped_is_counted_and_changes_no_exit_code(folder: Path, tmp_path: Path, artefact: Path) -> None:
    for name in (
        "a.txt",
        "b.TXT",
        "c.heic",
        "none",
        ".hidden.jpg",
        "EOS/._0.png",
        "d.pages.with-a-very-long-ending-of-it",
    ):
        (folder / name).write_bytes(b"x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "in.png").write_bytes(b"x")
    (folder / "elsewhere").symlink_to(tmp_path)
    result = run(folder, tmp_path / "r.csv", artefact)
    assert result.exit_code == 0
    kinds = ["3 hidden", "2 .txt", "1 linked folder", "1 .heic", "1 without a suffix", "1 other suffixes"]
    assert "skipped 9: " in said(result.output) and all(kind in said(result.output) for kind in kinds)
    assert said(run(folder, tmp_path / "r.csv", artefact).output).count("skipped 9: ") == 1, "again by the next run"


def test_a_folder_of_nothing_but_other_types_says_which(tmp_path: Path, artefact: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "slide.svs").touch()
    result = run(tmp_path / "cells", tmp_path / "r.csv", artefact)
    assert result.exit_code == 2 and "skipped 1: 1 .svs" in said(result.output)


def test_kinds_that_are_skipped_are_bounded() -> None:
    skipped = Skipped()
    for number in range(5000):
        skipped.add(f"a.{number}")
    assert len(skipped) <= 1001 and skipped.total() == 5000


def test_unreadable_pictures_are_problems_and_not_skipped(folder: Path, tmp_path: Path, artefact: Path) -> None:
    (folder / "gone.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.png")
    (folder / "a folder.png").mkdir()
    result = run(folder, tmp_path / "r.csv", artefact)
    assert result.exit_code == 1 and "2 could not be scored" in said(result.output)
    assert "skipped" not in said(result.output)


# What vanishes


def test_pictures_and_folders_that_vanish_end_no_run(
    folder: Path, tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They vanish between listing and reading, as if another program moved them."""
    for name in ("A", "Z"):
        shutil.copytree(folder / "EOS", folder / name)
    walks: list[int] = []

    def vanishing(*arguments: object) -> Iterator[tuple[str, Path]]:
        walks.append(1)
        for number, found in enumerate(find_pictures(*arguments)):  # type: ignore[arg-type]
            if len(walks) == 2 and number == 0:
                found[1].unlink()
                shutil.rmtree(folder / "Z")
            yield found

    monkeypatch.setattr("service.scoring.local.find_pictures", vanishing)
    console = Console(quiet=True)
    problems = score_folder(
        folder, tmp_path / "r.csv", open_session(artefact), InferenceOptions.from_settings(Settings()), console
    )
    assert problems == 1
    with (tmp_path / "r.csv").open(newline="") as file:
        assert [row["path"][0] for row in csv.DictReader(file)] == [*"AAAEEEE"]


# Links


@LINKS
@pytest.mark.parametrize("name", ["r.csv.partial", "r.csv.partial-journal", "r.csv.partial-wal"])
def test_a_checkpoint_is_not_written_through_a_link(
    name: str, link: Callable[[Path, Path], None], folder: Path, tmp_path: Path, artefact: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    link(victim, tmp_path / name)
    result = run(folder, tmp_path / "r.csv", artefact)
    assert result.exit_code == 2 and f"{name}: is a link or not a regular file; remove it" in said(result.output)
    assert victim.read_bytes() == b"" and (tmp_path / name).exists()


@LINKS
@pytest.mark.parametrize("name", [".r.csv.unfinished", "r.csv.problems.jsonl", ".r.csv.problems.jsonl.unfinished"])
def test_files_beside_the_table_are_not_written_through_links(
    name: str, link: Callable[[Path, Path], None], folder: Path, tmp_path: Path, artefact: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"of another user")
    link(victim, tmp_path / name)
    (folder / "bad.png").write_bytes(b"?")
    assert run(folder, tmp_path / "r.csv", artefact).exit_code == 1
    assert victim.read_bytes() == b"of another user" and victim.stat().st_nlink == 1
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_a_table_that_is_a_link_is_refused_before_anything_is_scored(
    there: bool, folder: Path, tmp_path: Path, artefact: Path
) -> None:
    victim = tmp_path / "victim"
    if there:
        victim.write_bytes(b"of another user")
    (tmp_path / "r.csv").symlink_to(victim)
    result = run(folder, tmp_path / "r.csv", artefact)
    assert result.exit_code == 2 and "results are not written through links" in said(result.output)
    assert victim.exists() == there and (not there or victim.read_bytes() == b"of another user")


def test_a_table_with_a_second_name_leaves_that_as_it_was(folder: Path, tmp_path: Path, artefact: Path) -> None:
    run(folder, tmp_path / "r.csv", artefact)
    os.link(tmp_path / "r.csv", tmp_path / "kept.csv")
    before = (tmp_path / "kept.csv").read_bytes()
    shutil.copy(folder / "EOS" / "0.png", folder / "new.png")
    assert run(folder, tmp_path / "r.csv", artefact).exit_code == 0
    assert (tmp_path / "kept.csv").read_bytes() == before != (tmp_path / "r.csv").read_bytes()


# Formulas


def test_no_name_in_a_table_is_a_formula(tmp_path: Path, artefact: Path, draw: Draw) -> None:
    names = ["=cmd|' C'!A0.png", "+1.png", "-1.png", "@SUM(1).png", "'=1.png", "'plain.png", "＝1.png"]
    (tmp_path / "cells").mkdir()
    for number, name in enumerate(names):
        (tmp_path / "cells" / name).write_bytes(draw(number))
    out = tmp_path / "r.csv"
    assert run(tmp_path / "cells", out, artefact).exit_code == 0
    with out.open(newline="", encoding="utf-8") as file:
        written = [row["path"] for row in csv.DictReader(file)]
    assert not any(cell.startswith(("=", "+", "-", "@", "＝")) for cell in written)
    assert sorted(map(unguarded, written)) == sorted(names)
    assert "7 pictures, 0 of them scored now" in said(run(tmp_path / "cells", out, artefact).output)
