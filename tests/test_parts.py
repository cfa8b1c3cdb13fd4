"""A run in parts, without Ray: the same rows from every kind of input and store, once each, and held to its plan."""

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import write_artefact
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from parts import Pictures, as_folder, as_table, as_tar, rows, scored
from typer.testing import CliRunner

from model.image import decode
from service.cli import app
from service.parts.faults import CannotScore, StoreError
from service.parts.inputs import Kind
from service.parts.listing import Entry
from service.parts.plan import Listing
from service.parts.reading import Unreadable, blocks
from service.parts.request import Duplicates, Request
from service.parts.results import finished
from service.parts.scoring import Done, Failed, Fault
from service.parts.seen import Seen
from service.parts.stores import Folder
from service.session import open_session

Draw = Callable[..., bytes]


@pytest.fixture(scope="session")
def pictures(draw: Draw) -> Pictures:
    """Twenty-three pictures and two bad ones, in the order in which a folder lists them."""
    found = {f"{['EOS', 'LYT/0001'][number % 2]}/c{number:02d}.png": draw(number) for number in range(21)}
    found |= {"a.jpg": draw(90, format="JPEG"), "z.TIF": draw(91, format="TIFF")}
    found |= {"EOS/cut.jpg": draw(1, format="JPEG")[:300], "no.png": b""}
    return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))


@pytest.fixture
def plain(tmp_path: Path, pictures: Pictures, artefact: Path) -> dict[str, dict[str, Any]]:
    """What `marrowlens score` says of the folder, by path."""
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
    plan, ended = scored(Request((address,), str(out), 4, **named), artefact)
    assert plan.pictures == 25 and plan.parts == 7 and len(ended) == 7
    assert sum(done.problems for done in ended if isinstance(done, Done)) == 2
    check(out, plain, BAD)


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
    scored(Request((address,), out, 4), artefact)
    copy = tmp_path / "copy"
    fsspec.filesystem(out.split(":")[0]).get(out, str(copy), recursive=True)
    check(copy, plain, BAD)


# Exactly once


def test_what_is_there_is_not_scored_again(tmp_path: Path, pictures: Pictures, artefact: Path) -> None:
    request = Request((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"), 4)
    scored(request, artefact)
    before, whole = rows(request.out), {path.name: path.read_bytes() for path in Path(request.out).iterdir()}
    for part in (0, 3):
        Path(request.out, f"part-{part:06d}.parquet").unlink()
    _, ended = scored(Request(request.inputs, request.out), artefact)
    assert len(ended) == 2 and rows(request.out).keys() == before.keys()
    kept = {path.name: path.read_bytes() for path in Path(request.out).iterdir()}
    assert {name for name in whole if kept[name] != whole[name]} <= {"part-000000.parquet", "part-000003.parquet"}
    assert scored(request, artefact)[1] == []


def test_a_part_that_two_score_is_there_once(tmp_path: Path, pictures: Pictures, artefact: Path) -> None:
    request = Request((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"), 30)
    (first,) = scored(request, artefact)[1]
    os.rename(part := tmp_path / "out" / "part-000000.parquet", aside := tmp_path / "aside")
    (second,) = scored(request, artefact)[1]
    shutil.copy(aside, part)  # the one thought dead places its own, late
    assert first == second and len(rows(request.out)) == 25


def test_a_key_that_comes_twice(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    one, other = {"a.png": draw(1), "b.png": draw(2)}, {"b.png": draw(3), "c.png": draw(4)}
    inputs = (as_tar(tmp_path / "1.tar", one), as_folder(tmp_path / "2", other))
    with pytest.raises(CannotScore, match=r"b\.png stands in .*1\.tar and again in .*2/b\.png"):
        scored(Request(inputs, str(tmp_path / "out")), artefact)
    assert not (tmp_path / "out" / "_plan.json").exists()
    plan, _ = scored(Request(inputs, str(tmp_path / "out"), duplicates=Duplicates.FIRST), artefact)
    assert (plan.pictures, plan.repeated) == (3, 1)
    found = rows(tmp_path / "out")
    expected = open_session(artefact).run(decode(draw(2), 64)[None]).probabilities[0]
    np.testing.assert_allclose([v for k, v in found["b.png"].items() if k.startswith("p_")], expected, atol=1e-5)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4)))
def test_a_key_is_seen_when_it_comes_again(keys: list[str]) -> None:
    with Seen() as seen:
        places = [seen.earlier(key, str(at)) for at, key in enumerate(keys)]
    assert places == [None if keys.index(key) == at else str(keys.index(key)) for at, key in enumerate(keys)]


# Held to its plan


@pytest.mark.parametrize("change", ["model", "inputs", "new picture", "shard", "size", "column", "limit"])
def test_another_run_does_not_go_on_with_it(
    change: str, tmp_path: Path, pictures: Pictures, artefact: Path, draw: Draw
) -> None:
    folder, shard = as_folder(tmp_path / "in", pictures), as_tar(tmp_path / "a.tar", {"x.png": draw(7)})
    inputs, out = (folder, shard), str(tmp_path / "out")
    scored(Request(inputs, out, 10), artefact)
    before = {path.name: path.read_bytes() for path in Path(out).iterdir()}
    request, model, settings = Request(inputs, out), artefact, {}
    why = {"new picture": "hold other files", "shard": "hold other files"}.get(change, "choose another --out")
    if change == "model":
        model = write_artefact(tmp_path, name="other", seed=1)
    elif change == "inputs":
        request = Request((folder,), out)
    elif change == "new picture":
        (tmp_path / "in" / "new.png").write_bytes(draw(8))
    elif change == "shard":
        as_tar(tmp_path / "a.tar", {"x.png": draw(9, size=(200, 100)), "y.png": draw(9)})
    elif change == "size":
        request = Request(inputs, out, 11)
    elif change == "column":
        request = Request(inputs, out, image_column="cell")
    else:
        settings = {"max_image_bytes": 5000}
    with pytest.raises(CannotScore, match=why):
        scored(request, model, **settings)
    assert {path.name: path.read_bytes() for path in Path(out).iterdir()} == before


def test_files_that_are_none_of_its_own_stop_it(tmp_path: Path, pictures: Pictures, artefact: Path) -> None:
    request = Request((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"), 10)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(StoreError, match=r"other files \(mine\.txt\)"):
        scored(request, artefact)
    (tmp_path / "out" / "mine.txt").unlink()
    scored(request, artefact)
    other = Request((as_folder(tmp_path / "in2", pictures),), str(tmp_path / "out2"), 10)
    scored(other, artefact)
    shutil.copy(tmp_path / "out2" / "part-000001.parquet", tmp_path / "out")
    with pytest.raises(StoreError, match=r"part-000001\.parquet: is of another run"):
        scored(request, artefact)
    (tmp_path / "out" / "part-000001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match="damaged; remove it"):
        scored(request, artefact)


def test_a_run_killed_while_it_planned_or_wrote_leaves_nothing_in_the_way(
    tmp_path: Path, pictures: Pictures, artefact: Path
) -> None:
    request = Request((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"), 10)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_plan.parquet").write_bytes(b"a listing, and no plan yet")
    (tmp_path / "out" / ".part-000001.parquet.0.unfinished").write_bytes(b"half")
    plan, _ = scored(request, artefact)
    assert len(rows(request.out)) == 25
    folder = Folder(request.out)
    assert sum(part.pictures for part in finished(folder, plan)) == 25
    folder.sweep()
    assert not list(Path(request.out).glob(".*"))


# What cannot be read


@pytest.mark.parametrize("cut", ["in a picture", "in a header", "before the end mark"])
def test_a_damaged_shard_is_no_shorter_one(cut: str, tmp_path: Path, draw: Draw, artefact: Path) -> None:
    shard = Path(as_tar(tmp_path / "a.tar", {"a.png": draw(1), "b.png": draw(2)}))
    with tarfile.open(shard) as archive:
        _, second = archive.getmembers()
    end = {"in a picture": second.offset_data + 100, "in a header": second.offset + 100}
    padded = second.offset_data + -(-second.size // 512) * 512
    shard.write_bytes(shard.read_bytes()[: end.get(cut, padded)])
    with pytest.raises(StoreError, match=r"a\.tar: .*(cut off|damaged)"):
        scored(Request((str(shard),), str(tmp_path / "out")), artefact)


def test_two_archives_in_one_file_are_not_half_read(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    shard = Path(as_tar(tmp_path / "a.tar", {"a.png": draw(1)}))
    shard.write_bytes(shard.read_bytes() * 2)
    with pytest.raises(StoreError, match="several archives in one"):
        scored(Request((str(shard),), str(tmp_path / "out")), artefact)


def test_links_and_lengths_in_a_tar_are_problems_of_their_rows(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("./link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in (("./good.png", draw(1)), ("large.png", bytes(9000))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    scored(Request((str(tmp_path / "a.tar"),), str(tmp_path / "out")), artefact, max_image_bytes=8000)
    found = {key: row["problem"] for key, row in rows(tmp_path / "out").items()}
    assert found["good.png"] is None
    assert found["link.png"] == "a link or a special file in the archive"
    assert found["large.png"] == "the picture has 9000 bytes; 8000 are allowed"


def test_what_cannot_be_listed_says_what_to_do(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed.tar.gz").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "no.parquet").write_bytes(b"x")
    table = as_table(tmp_path / "t.parquet", {"a": draw(1)}, key="name")
    pq.write_table(pa.table({"key": [1.5], "image": [b""]}), tmp_path / "f.parquet")
    pq.write_table(pa.table({"key": ["a"], "image": ["text"]}), tmp_path / "g.parquet")
    pq.write_table(pa.table({"key": pa.array([None], pa.string()), "image": [b""]}), tmp_path / "h.parquet")
    for address, why in {
        "none": "is not there",
        "no*.tar": "nothing has such a name",
        "empty": r"holds no pictures .*FOLDER/\*\.tar",
        "packed.tar.gz": "unpack it to .tar first",
        "notes.txt": "neither a folder of pictures nor",
        "no.parquet": "is no Parquet file",
        table: "no column key; say which with --key-column: image, name",
        "f.parquet": "keys are text or whole numbers",
        "g.parquet": "pictures are bytes",
        "h.parquet": "row 0 has no key",
        "nowhere://x": "nowhere",
    }.items():
        where = address if "://" in address else str(tmp_path / address)
        with pytest.raises(StoreError, match=why):
            scored(Request((where,), str(tmp_path / "out")), artefact)
        assert not (tmp_path / "out" / "_plan.json").exists()


def test_rows_without_a_picture_and_structs_of_bytes(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    images = pa.array([{"bytes": draw(1), "path": "a"}, {"bytes": None, "path": "b"}])
    pq.write_table(pa.table({"key": [10, 11], "image": images}), tmp_path / "a.parquet")
    scored(Request((str(tmp_path / "a.parquet"),), str(tmp_path / "out")), artefact)
    assert {key: row["problem"] for key, row in rows(tmp_path / "out").items()} == {
        "10": None,
        "11": "its row has no picture",
    }


def test_a_picture_that_is_gone_gets_its_row_and_a_store_that_is_away_stops_the_part(
    tmp_path: Path, draw: Draw, artefact: Path
) -> None:
    folder = as_folder(tmp_path / "in", {"a.png": draw(1), "b.png": draw(2)})
    shard = as_tar(tmp_path / "s.tar", {"c.png": draw(3)})
    request = Request((folder, shard), str(tmp_path / "out"), 2)
    scored(request, artefact)
    for part in (0, 1):
        (tmp_path / "out" / f"part-{part:06d}.parquet").unlink()
    listing = Listing(Folder(request.out))
    (tmp_path / "in" / "a.png").unlink()
    (found,) = blocks(listing.part(0), lambda _: fsspec.filesystem("file"), "image", 10**6)
    assert isinstance(found[0], Unreadable) and found[0].permanent and found[1] == draw(2)
    away = [Entry("c.png", 0, Kind.TABLE, str(tmp_path / "s.tar"), 0)]  # no table: as bytes that come spoilt
    ((spoilt,),) = blocks(away, lambda _: fsspec.filesystem("file"), "image", 10**6)
    assert isinstance(spoilt, Unreadable) and not spoilt.permanent


def test_a_store_that_fails_is_no_problem_of_its_pictures(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    table = Path(as_table(tmp_path / "a.parquet", {"a": draw(1), "b": draw(2)}))
    request, times = Request((str(table),), str(tmp_path / "out")), table.stat()
    scored(request, artefact)
    (tmp_path / "out" / "part-000000.parquet").unlink()
    spoilt = table.read_bytes().replace(b"PAR1", b"PARX")
    table.write_bytes(spoilt)
    os.utime(table, ns=(times.st_atime_ns, times.st_mtime_ns))
    (ended,) = scored(request, artefact)[1]
    assert isinstance(ended, Failed) and ended.fault is Fault.STORE and "cannot be read" in ended.reason
    assert not (tmp_path / "out" / "part-000000.parquet").exists()


# Reading, in blocks

_SETTINGS = hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_SETTINGS
@given(wanted=st.sets(st.integers(0, 99)), group=st.integers(1, 60))
def test_any_rows_of_a_table_come_in_their_order(wanted: set[int], group: int, tmp_path: Path) -> None:
    table = as_table(tmp_path / "a.parquet", {str(row): f"{row}".encode() for row in range(100)}, group=group)
    entries = [Entry(str(row), 0, Kind.TABLE, table, row) for row in sorted(wanted)]
    found = [one for block in blocks(entries, lambda _: fsspec.filesystem("file"), "image", 99) for one in block]
    assert found == [f"{row}".encode() for row in sorted(wanted)]


def test_a_stretch_of_a_tar_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.parts.reading._STRETCH_BYTES", 3000)
    pictures = {f"{number}.png": bytes([number]) * (number * 400) for number in range(12)}
    shard = as_tar(tmp_path / "a.tar", pictures)
    with tarfile.open(shard) as archive:
        entries = [Entry(m.name, 0, Kind.TAR, shard, m.offset_data, m.size) for m in archive.getmembers()]
    found = list(blocks(entries, lambda _: fsspec.filesystem("file"), "image", 10**6))
    assert [one for block in found for one in block] == list(pictures.values())
    assert len(found) > 4 and all(sum(map(len, block)) <= 4400 for block in found)


# The command


def test_the_plan_can_be_read_by_a_person(tmp_path: Path, pictures: Pictures, artefact: Path) -> None:
    request = Request((as_folder(tmp_path / "in", pictures),), str(tmp_path / "out"))
    scored(request, artefact)
    said = json.loads((tmp_path / "out" / "_plan.json").read_text())
    assert (said["pictures"], said["parts"], said["part_size"], said["model_name"]) == (25, 1, 2000, "micro")


@pytest.mark.parametrize(
    "more", [["more"], ["--address", "auto"], ["--duplicates", "first"], ["--part-size", "10"], ["s3://x/y"]]
)
def test_what_only_ray_does_is_said_without_it(more: list[str], tmp_path: Path, artefact: Path) -> None:
    (tmp_path / "in").mkdir()
    command = ["score", *([] if "://" in more[0] else [str(tmp_path / "in")]), "--out", str(tmp_path / "r.csv"), *more]
    ran = CliRunner().invoke(app, [*command, "--artefact", str(artefact)])
    assert ran.exit_code == 2 and "--engine ray" in ran.output


def test_without_ray_it_says_how_to_get_it(tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)  # as where it is not installed
    monkeypatch.delitem(__import__("sys").modules, "service.parts.cluster", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "service.parts.run", raising=False)
    command = ["score", str(tmp_path), "--out", str(tmp_path / "out"), "--engine", "ray", "--artefact", str(artefact)]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 2 and "needs ray: pip install 'marrowlens[ray]'" in " ".join(ran.output.split())
