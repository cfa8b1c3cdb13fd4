"""`marrowlens score --engine ray` on a real cluster of two nodes on loopback, with S3 beside it: the long check in
short, a store at both ends, and what it says where it cannot run."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import write_artefact
from parts import as_table, as_tar, rows, said

from service.runtime.session import open_session
from stress.checks.bulk import Scene, _compared, _key, bulk
from stress.processes.cluster import BUCKET, Peer
from stress.results import Steps

Draw = Callable[..., bytes]
COMMAND = str(Path(sys.executable).with_name("marrowlens"))


@pytest.mark.slow
async def test_a_node_and_the_run_are_killed_and_every_picture_has_its_row(
    artefact: Path, tmp_path: Path, draw: Draw
) -> None:
    """One cluster for all tests; starting it takes most of their time."""
    steps = Steps()

    def meanwhile(peer: Peer) -> None:
        from_s3_to_s3(peer, artefact, tmp_path, draw)
        a_model_that_no_actor_opens(peer, tmp_path)

    found = await bulk(3600, 2, artefact, steps, afterwards=meanwhile)
    assert found.faults == []
    assert steps.done == 3600
    assert [row[0] for row in found.tables[0].rows] == ["node", "run"]


def run(peer: Peer | None, *arguments: str, **environment: str) -> tuple[int, str]:
    command = [COMMAND, "score", *arguments, "--engine", "ray"]
    joining = ["--address", peer.address] if peer else []
    # Empty: the user who runs the tests may have a cluster.
    ours = peer.environment if peer else os.environ | {"RAY_ADDRESS": ""}
    ended = subprocess.run(
        [*command, *joining],
        env=ours | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return ended.returncode, said(ended.stdout)


def from_s3_to_s3(peer: Peer, artefact: Path, tmp_path: Path, draw: Draw) -> None:
    import boto3

    pictures = {f"{number:02d}.png": draw(number) for number in range(30)}
    store = boto3.client(
        "s3",
        endpoint_url=peer.environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        region_name="us-east-1",
    )
    shard, table = as_tar(tmp_path / "a.tar", dict(list(pictures.items())[10:20])), tmp_path / "b.parquet"
    as_table(table, dict(list(pictures.items())[20:]) | {"bad.png": b"x"})
    for key, content in list(pictures.items())[:10]:
        store.put_object(Bucket=BUCKET, Key=f"in/cells/{key}", Body=content)
    store.put_object(Bucket=BUCKET, Key="in/shards/a.tar", Body=Path(shard).read_bytes())
    store.put_object(Bucket=BUCKET, Key="in/tables/b.parquet", Body=table.read_bytes())
    inputs = [f"s3://{BUCKET}/in/{name}" for name in ("cells", "shards/*.tar", "tables/*.parquet")]
    arguments = [*inputs, "--out", f"s3://{BUCKET}/out", "--part-size", "7", "--artefact", str(artefact)]
    status, text = run(peer, *arguments)
    assert status == 1, text
    assert "31 pictures, 31 of them scored now" in text and "bad.png: text is not a supported picture type" in text
    for entry in store.list_objects_v2(Bucket=BUCKET, Prefix="out/")["Contents"]:
        path = tmp_path / "copy" / Path(entry["Key"]).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(store.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())
    found = rows(tmp_path / "copy")
    assert {key for key, row in found.items() if row["problem"] is None} == set(pictures)
    assert {row["model_sha256"] for row in found.values()} == {open_session(artefact).manifest.sha256}
    status, text = run(peer, *arguments)
    assert status == 1 and "31 pictures, 0 of them scored now" in text


def a_model_that_no_actor_opens(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.png").write_bytes(b"x")
    other = write_artefact(tmp_path, name="other")
    arguments = [str(tmp_path / "cells"), "--out", str(tmp_path / "out"), "--artefact", str(other)]
    status, text = run(peer, *arguments, MARROWLENS_PROVIDER="cuda")
    assert status == 2 and "no actor starts" in text and "cuda" in text.lower(), text


def test_where_no_cluster_is_it_says_so(artefact: Path, tmp_path: Path, draw: Draw) -> None:
    shard = as_tar(tmp_path / "a.tar", {"a.png": draw(1)})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [shard, "--out", str(tmp_path / "out"), "--artefact", str(artefact)]
    status, text = run(None, *arguments, "--address", f"127.0.0.1:{port}")
    assert status == 2 and f"no Ray cluster listens at 127.0.0.1:{port}" in text


@pytest.mark.slow
def test_a_cluster_of_its_own(artefact: Path, tmp_path: Path, draw: Draw) -> None:
    """Without an address and RAY_ADDRESS: a cluster for this run, stopped at its end."""
    shard = as_tar(tmp_path / "a.tar", {f"{number}.png": draw(number) for number in range(20)})
    home = {"HOME": str(tmp_path)}
    arguments = [shard, "--out", str(tmp_path / "out"), "--artefact", str(artefact), "--part-size", "3"]
    status, text = run(None, *arguments, **home)
    assert status == 0, text
    assert len(rows(tmp_path / "out")) == 20
    environments = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/environ") if readable(path)]
    assert not [one for one in environments if f"HOME={tmp_path}\0".encode() in one], "nothing of it runs on"


def readable(environ: Path) -> bool:
    try:
        return bool(environ.read_bytes())
    except OSError:  # has ended, or belongs to another user
        return False


@pytest.mark.parametrize(("address", "why"), [("nowhere://x", "nowhere"), ("none", "does not exist")])
def test_what_cannot_be_read_is_said_before_any_cluster_starts(
    address: str, why: str, artefact: Path, tmp_path: Path
) -> None:
    status, text = run(None, address, "--out", str(tmp_path / "out"), "--artefact", str(artefact))
    assert status == 2 and why in text


# The check itself must find errors.


def test_rows_that_are_missing_twice_there_or_wrong_are_found(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    scene = Scene(tmp_path, 60, None)
    right: dict[str, Any] = {"code": "EOS", "probability": 0.9, "supported": True, "p_EOS": 0.9, "model_sha256": "a"}
    expected = {f"{number:02d}": right | {"path": f"{number:02d}.jpg"} for number in range(64)}
    empty = dict.fromkeys(right) | {"problem": "the JPEG data is cut off: its end marker is missing"}
    found = [{"path": key} | (empty if "-cut" in key else right | {"problem": None}) for key in map(_key, range(60))]

    def faults(rows: list[dict[str, Any]]) -> list[str]:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "out" / "part-000000.parquet")
        return _compared(scene, expected)

    assert faults(found) == []
    assert faults(found[1:]) == [f"{_key(0)} has 0 rows"]
    assert faults([*found, found[5]]) == [f"{_key(5)} has 2 rows"]
    assert faults([*found[:-1], found[-1] | {"p_EOS": 0.8}]) == [
        f"{_key(59)} has another row than a plain run gives it"
    ]
    assert faults([found[0] | {"code": "EOS"}, *found[1:]]) == [f"{_key(0)} has another row than a plain run gives it"]
    scene.kept = {"part-000000.parquet": 1}
    assert faults(found) == ["part-000000.parquet was made again"]
