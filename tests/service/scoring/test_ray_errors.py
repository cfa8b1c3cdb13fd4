"""Ray runs with damaged shards, failing stores and invalid rows, and the messages of the command."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from parts import as_folder, as_table, as_tar, rows, scored
from typer.testing import CliRunner

from examples import examples
from service.cli.main import app
from service.scoring.ray.inputs import FileKind, PictureEntry
from service.scoring.ray.options import ScoreRequest
from service.scoring.ray.plan import PlanEntries
from service.scoring.ray.reader import UnreadablePicture, read_blocks
from service.scoring.ray.store import OutputFolder, StoreError
from service.scoring.ray.worker import FailureKind, TaskFailure

Draw = Callable[..., bytes]


# What cannot be read


@pytest.mark.parametrize("cut", ["in a picture", "in a header", "before the end mark"])
def test_a_damaged_shard_is_no_shorter_one(cut: str, tmp_path: Path, draw: Draw, artefact: Path) -> None:
    shard = Path(as_tar(tmp_path / "a.tar", {"a.png": draw(1), "b.png": draw(2)}))
    with tarfile.open(shard) as archive:
        _, second = archive.getmembers()
    end = {"in a picture": second.offset_data + 100, "in a header": second.offset + 100}
    padded = second.offset_data + -(-second.size // 512) * 512
    shard.write_bytes(shard.read_bytes()[: end.get(cut, padded)])
    with pytest.raises(StoreError, match=r"a\.tar: .*(truncated|damaged)"):
        scored(ScoreRequest((str(shard),), str(tmp_path / "out")), artefact)


def test_two_archives_in_one_file_are_not_half_read(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    shard = Path(as_tar(tmp_path / "a.tar", {"a.png": draw(1)}))
    shard.write_bytes(shard.read_bytes() * 2)
    with pytest.raises(StoreError, match="several archives in one.*pictures before that: 1"):
        scored(ScoreRequest((str(shard),), str(tmp_path / "out")), artefact)


def test_links_and_lengths_in_a_tar_are_problems_of_their_rows(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("./link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        sparse = tarfile.TarInfo("sparse.png")
        sparse.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(sparse)
        for name, content in (("./good.png", draw(1)), ("large.png", bytes(9000))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    scored(ScoreRequest((str(tmp_path / "a.tar"),), str(tmp_path / "out")), artefact, max_image_bytes=8000)
    found = {key: row["problem"] for key, row in rows(tmp_path / "out").items()}
    assert found["good.png"] is None
    assert found["link.png"] == "a link or a special file in the archive"
    assert str(found["sparse.png"]).startswith("stored sparse")
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
        "none": "does not exist",
        "no*.tar": "no file matches this pattern",
        "empty": r"holds no pictures .*FOLDER/\*\.tar",
        "packed.tar.gz": "decompress it to .tar",
        "notes.txt": "neither a folder of pictures nor",
        "no.parquet": "is not a Parquet file",
        table: "no column key; choose with --key-column: image, name",
        "f.parquet": "keys must be text or whole numbers",
        "g.parquet": "pictures must be bytes",
        "h.parquet": "row 0 has no key",
        "nowhere://x": "nowhere",
    }.items():
        where = address if "://" in address else str(tmp_path / address)
        with pytest.raises(StoreError, match=why):
            scored(ScoreRequest((where,), str(tmp_path / "out")), artefact)
        assert not (tmp_path / "out" / "_plan.json").exists()


def test_rows_without_a_picture_and_structs_of_bytes(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    images = pa.array([{"bytes": draw(1), "path": "a"}, {"bytes": None, "path": "b"}])
    pq.write_table(pa.table({"key": [10, 11], "image": images}), tmp_path / "a.parquet")
    scored(ScoreRequest((str(tmp_path / "a.parquet"),), str(tmp_path / "out")), artefact)
    assert {key: row["problem"] for key, row in rows(tmp_path / "out").items()} == {
        "10": None,
        "11": "its row has no picture",
    }


def test_a_picture_that_is_gone_gets_its_row_and_a_store_that_is_away_stops_the_part(
    tmp_path: Path, draw: Draw, artefact: Path
) -> None:
    folder = as_folder(tmp_path / "in", {"a.png": draw(1), "b.png": draw(2)})
    shard = as_tar(tmp_path / "s.tar", {"c.png": draw(3)})
    request = ScoreRequest((folder, shard), str(tmp_path / "out"), 2)
    scored(request, artefact)
    for part in (0, 1):
        (tmp_path / "out" / f"part-{part:06d}.parquet").unlink()
    listing = PlanEntries(OutputFolder(request.out))
    (tmp_path / "in" / "a.png").unlink()
    (found,) = read_blocks(listing.part(0), lambda _: fsspec.filesystem("file"), "image", 10**6)
    assert isinstance(found[0], UnreadablePicture) and found[0].permanent and found[1] == draw(2)
    away = [PictureEntry("c.png", 0, FileKind.TABLE, str(tmp_path / "s.tar"), 0)]  # no table: as bytes that come spoilt
    ((spoilt,),) = read_blocks(away, lambda _: fsspec.filesystem("file"), "image", 10**6)
    assert isinstance(spoilt, UnreadablePicture) and not spoilt.permanent


def test_a_store_that_fails_is_no_problem_of_its_pictures(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    table = Path(as_table(tmp_path / "a.parquet", {"a": draw(1), "b": draw(2)}))
    request, times = ScoreRequest((str(table),), str(tmp_path / "out")), table.stat()
    scored(request, artefact)
    (tmp_path / "out" / "part-000000.parquet").unlink()
    spoilt = table.read_bytes().replace(b"PAR1", b"PARX")
    table.write_bytes(spoilt)
    os.utime(table, ns=(times.st_atime_ns, times.st_mtime_ns))
    (ended,) = scored(request, artefact)[1]
    assert isinstance(ended, TaskFailure) and ended.kind is FailureKind.STORE and "cannot be read" in ended.reason
    assert not (tmp_path / "out" / "part-000000.parquet").exists()


# Reading, in blocks

_SETTINGS = hypothesis_settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])


@_SETTINGS
@given(wanted=st.sets(st.integers(0, 99)), group=st.integers(1, 60))
def test_any_rows_of_a_table_come_in_their_order(wanted: set[int], group: int, tmp_path: Path) -> None:
    table = as_table(tmp_path / "a.parquet", {str(row): f"{row}".encode() for row in range(100)}, group=group)
    entries = [PictureEntry(str(row), 0, FileKind.TABLE, table, row) for row in sorted(wanted)]
    found = [one for block in read_blocks(entries, lambda _: fsspec.filesystem("file"), "image", 99) for one in block]
    assert found == [f"{row}".encode() for row in sorted(wanted)]


def test_a_stretch_of_a_tar_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scoring.ray.reader._RANGE_BYTES", 3000)
    pictures = {f"{number}.png": bytes([number]) * (number * 400) for number in range(12)}
    shard = as_tar(tmp_path / "a.tar", pictures)
    with tarfile.open(shard) as archive:
        entries = [PictureEntry(m.name, 0, FileKind.TAR, shard, m.offset_data, m.size) for m in archive.getmembers()]
    found = list(read_blocks(entries, lambda _: fsspec.filesystem("file"), "image", 10**6))
    assert [one for block in found for one in block] == list(pictures.values())
    assert len(found) > 4 and all(sum(map(len, block)) <= 4400 for block in found)


# The command


def test_the_plan_can_be_read_by_a_person(tmp_path: Path, draw: Draw, artefact: Path) -> None:
    request = ScoreRequest((as_folder(tmp_path / "in", {"a.png": draw(1)}),), str(tmp_path / "out"))
    scored(request, artefact)
    said = json.loads((tmp_path / "out" / "_plan.json").read_text())
    assert (said["pictures"], said["parts"], said["part_size"], said["model_name"]) == (1, 1, 2000, "micro")


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
    monkeypatch.delitem(__import__("sys").modules, "service.scoring.ray.actors", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "service.scoring.ray.driver", raising=False)
    command = ["score", str(tmp_path), "--out", str(tmp_path / "out"), "--engine", "ray", "--artefact", str(artefact)]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 2 and "needs ray: pip install -e '.[ray]'" in " ".join(ran.output.split())
