"""Ray runs: skipped files are counted, vanished files end no run, links are refused."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from parts import as_folder, as_tar, rows, scored

from service.scoring.image_files import GONE
from service.scoring.ray import output
from service.scoring.ray.options import ScoreRequest
from service.scoring.ray.store import OutputFolder, StoreError
from service.scoring.tables import ScoringError

Draw = Callable[..., bytes]


def test_what_a_folder_and_a_shard_hold_besides_is_counted(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    folder = as_folder(
        tmp_path / "in", {"a.png": draw(1), "b/c.png": draw(2), "n.txt": b"", ".h.png": b"", ".d/e": b""}
    )
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    shard = as_tar(
        tmp_path / "s.tar", {"d.png": draw(3), "d.cls": b"1", "./.x/e.png": b"", "._d.png": b"", "readme": b""}
    )
    plan, _ = scored(ScoreRequest((folder, shard), str(tmp_path / "out")), artefact)
    wanted = {".txt": 1, "hidden": 4, "linked folder": 1, ".cls": 1, "without a suffix": 1}
    assert plan.pictures == 3 and plan.skipped == wanted
    output.write_summary(OutputFolder(str(tmp_path / "out")), plan, 0)
    assert json.loads((tmp_path / "out" / "_done.json").read_bytes())["skipped"] == wanted


def test_a_store_counts_as_a_folder_does(draw: Draw, tmp_path: Path, artefact: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, content in {"a.png": draw(1), "b/n.txt": b"", ".h.png": b"", ".d/e.png": b""}.items():
        store.pipe(f"/skipped/{name}", content)
    plan, _ = scored(ScoreRequest(("memory://skipped",), str(tmp_path / "out")), artefact)
    assert plan.skipped == {".txt": 1, "hidden": 2}
    store.pipe("/nothing-skipped/a.png", draw(1))
    plan, _ = scored(ScoreRequest(("memory://nothing-skipped",), str(tmp_path / "out2")), artefact)
    assert plan.skipped == {}


def test_a_plan_without_a_count_of_what_was_skipped_is_gone_on_with(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    folder = as_folder(tmp_path / "in", {"a.png": draw(1), "b.png": draw(2), "n.txt": b""})
    request = ScoreRequest((folder,), str(tmp_path / "out"), 1)
    scored(request, artefact)
    path = tmp_path / "out" / "_plan.json"
    kept = json.loads(path.read_text())
    del kept["skipped"]
    path.write_text(json.dumps(kept))
    (tmp_path / "out" / "part-000001.parquet").unlink()
    _, made = scored(request, artefact)
    assert len(made) == 1 and len(rows(tmp_path / "out")) == 2


def test_an_input_of_nothing_but_other_types_says_which(tmp_path: Path, artefact: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no pictures .*; skipped 1: 1 \.svs"):
        scored(ScoreRequest((as_folder(tmp_path / "in", {"a.svs": b""}),), str(tmp_path / "out")), artefact)
    with pytest.raises(ScoringError, match=r"no pictures; skipped 1: 1 \.cls"):
        scored(ScoreRequest((as_tar(tmp_path / "a.tar", {"a.cls": b""}),), str(tmp_path / "out2")), artefact)


def test_a_folder_that_vanishes_while_it_is_listed_is_counted(
    tmp_path: Path, draw: Draw, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_folder(tmp_path / "in", {"a/1.png": draw(1), "b/2.png": draw(2)})
    walk = os.walk

    def vanishing(*arguments: Any, **more: Any) -> Iterator[Any]:
        for found in walk(*arguments, **more):
            yield found
            shutil.rmtree(tmp_path / "in" / "b", ignore_errors=True)

    monkeypatch.setattr("service.scoring.image_files.os.walk", vanishing)
    plan, _ = scored(ScoreRequest((folder,), str(tmp_path / "out")), artefact)
    assert plan.pictures == 1 and plan.skipped == {GONE: 1}


def test_a_shard_that_vanishes_before_it_is_read_is_counted_and_the_run_goes_on(
    tmp_path: Path, draw: Draw, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        as_tar(tmp_path / f"{name}.tar", {f"{name}.png": draw(ord(name))})
    request = ScoreRequest((str(tmp_path / "*.tar"),), str(tmp_path / "out"), 1)
    from service.scoring.ray import plan as planning

    list_pictures = planning.list_pictures

    def vanishing(*arguments: Any) -> Iterator[Any]:
        (tmp_path / "b.tar").unlink(missing_ok=True)
        yield from list_pictures(*arguments)

    monkeypatch.setattr(planning, "list_pictures", vanishing)
    plan, _ = scored(request, artefact)
    assert plan.pictures == 2 and plan.skipped == {GONE: 1} and set(rows(tmp_path / "out")) == {"a.png", "c.png"}
    (tmp_path / "out" / "part-000001.parquet").unlink()
    assert len(scored(request, artefact)[1]) == 1, "resumed: the shard is not in its plan"


def test_a_folder_of_results_that_is_a_link_is_refused(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    folder = as_folder(tmp_path / "in", {"a.png": draw(1)})
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    for name in ("out", "out/"):
        with pytest.raises(StoreError, match="results are not written through links"):
            scored(ScoreRequest((folder,), str(tmp_path / name)), artefact)
    assert not list((tmp_path / "real").iterdir())


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", ["part-000000.parquet", "_plan.json", "_plan.parquet", "_done.json"])
def test_results_are_not_written_through_links_in_their_folder(
    name: str, link: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_bytes(b"of another user")
    out.mkdir()
    link(victim, out / name)
    OutputFolder(str(out)).write(name, b"ours")
    assert victim.read_bytes() == b"of another user"
    assert (out / name).read_bytes() == b"ours" and not (out / name).is_symlink()
