"""Check `ray`: bulk scoring on Ray while nodes and the run are killed; every picture has exactly one correct row."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from stress.clients.pictures import picture
from stress.processes.cluster import Peer, cluster
from stress.results import Result, Shown, Table

#: Different pictures; the others have the bytes of one of these under a key of their own.
DIFFERENT = 64
#: One in so many is cut off.
SPOILT = 50
PARTS = 80
SHARD = 500
TOLERANCE = 1e-5
#: A run that ends sooner than this many seconds after nothing more was killed is waited for no longer.
PATIENCE_S = 600.0
_SIDE_PIXELS = 400
_COMMAND = Path(sys.executable).with_name("marrowlens")


@dataclass(slots=True)
class Scene:
    """Inputs, expected rows, and results."""

    folder: Path
    pictures: int
    artefact: Path | None
    inputs: list[str] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def parts(self) -> dict[str, int]:
        """Modification time of each finished part."""
        return {path.name: path.stat().st_mtime_ns for path in self.out.glob("part-*.parquet")}


async def bulk(
    pictures: int,
    kills: int,
    artefact: Path | None,
    shown: Shown,
    *,
    seed: int = 0,
    afterwards: Callable[[Peer], None] = lambda _: None,
) -> Result:
    """Run the check; `afterwards` is called while the cluster is still running."""
    began_s = time.monotonic()
    shown.total(pictures)
    with tempfile.TemporaryDirectory(prefix="ml") as folder:
        scene = Scene(Path(folder), pictures, artefact)
        _lay_out(scene)
        expected = await asyncio.to_thread(_expected, scene)
        with cluster(scene.folder) as peer:
            await _scored_under_kills(scene, peer, kills, random.Random(seed), shown)
            await asyncio.to_thread(afterwards, peer)
        scene.faults += _compared(scene, expected)
    if scene.killed.total() < kills:
        scene.faults.append(f"only {scene.killed.total()} of {kills} kills found the run still going")
    return Result(
        "ray",
        "Bulk scoring on Ray, killed",
        f"{pictures} pictures as a folder, tar shards and Parquet, {pictures // SPOILT} of them cut off, in parts, by "
        f"`marrowlens score --engine ray` on two nodes on loopback, while one of the processes below was killed by "
        "SIGKILL and restarted. Unless a fault is listed, every key has one row, equal to that of a plain "
        "`marrowlens score`, and no finished part was scored again.",
        [Table(["killed", "times"], [[what, str(times)] for what, times in sorted(scene.killed.items())])],
        scene.faults,
        time.monotonic() - began_s,
    )


def _key(number: int) -> str:
    return f"{number % 7}/{number:07d}-{number % DIFFERENT:02d}{'-cut' if number % SPOILT == 0 else ''}.jpg"


def _content(number: int) -> bytes:
    whole = picture(number % DIFFERENT, "JPEG", _SIDE_PIXELS, _SIDE_PIXELS)
    return whole[: len(whole) // 2] if number % SPOILT == 0 else whole


def _lay_out(scene: Scene) -> None:
    """Write a third of the pictures in each input form."""
    third = scene.pictures // 3
    for number in range(third):
        path = scene.folder / "cells" / _key(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(number))
    for name in ("shards", "tables"):
        (scene.folder / name).mkdir()
    for at in range(third, 2 * third, SHARD):
        with tarfile.open(scene.folder / "shards" / f"{at:07d}.tar", "w") as shard:
            for number in range(at, min(at + SHARD, 2 * third)):
                member = tarfile.TarInfo(_key(number))
                member.size = len(_content(number))
                shard.addfile(member, BytesIO(_content(number)))
    for at in range(2 * third, scene.pictures, SHARD):
        numbers = range(at, min(at + SHARD, scene.pictures))
        rows = pa.table({"key": [_key(n) for n in numbers], "image": [_content(n) for n in numbers]})
        pq.write_table(rows, scene.folder / "tables" / f"{at:07d}.parquet", row_group_size=100)
    scene.inputs = [str(scene.folder / name) for name in ("cells", "shards/*.tar", "tables/*.parquet")]


def _expected(scene: Scene) -> dict[str, dict[str, Any]]:
    """Expected row of each different picture, from a plain run over a folder."""
    folder, out = scene.folder / "different", scene.folder / "plain.parquet"
    folder.mkdir()
    for number in range(DIFFERENT):
        (folder / f"{number:02d}.jpg").write_bytes(picture(number, "JPEG", _SIDE_PIXELS, _SIDE_PIXELS))
    subprocess.run(_command(scene, str(folder), "--out", str(out)), check=True, capture_output=True)
    return {row["path"][:2]: row for row in pq.read_table(out).to_pylist()}


def _command(scene: Scene, *arguments: str) -> list[str]:
    model = ["--artefact", str(scene.artefact)] if scene.artefact else []
    return [str(_COMMAND), "score", *arguments, *model]


async def _scored_under_kills(scene: Scene, peer: Peer, kills: int, chance: random.Random, shown: Shown) -> None:
    part_size = max(1, scene.pictures // PARTS)
    at_parts = sorted(chance.sample(range(2, PARTS * 3 // 4), kills))
    whats = [("node", "run")[number % 2] for number in range(kills)]
    ended_s = time.monotonic() + PATIENCE_S
    while True:
        with _run(scene, peer, part_size) as run:
            while run.poll() is None:
                if time.monotonic() > ended_s:
                    scene.faults.append(f"the run did not end in {PATIENCE_S:g} s")
                    return
                await asyncio.sleep(0.02)
                there = scene.parts()
                if at_parts and len(there) >= at_parts[0] and run.poll() is None:
                    del at_parts[0]
                    await _kill(whats.pop(0), scene, peer, run)
                    ended_s = time.monotonic() + PATIENCE_S
            said = run.stdout.read() if run.stdout else ""
        if run.returncode != -signal.SIGKILL:
            break
    shown.step(scene.pictures)
    if run.returncode != 1:  # some pictures had problems
        scene.faults.append(f"the run ended with {run.returncode}: {said[-500:]}")


async def _kill(what: str, scene: Scene, peer: Peer, run: "subprocess.Popen[str]") -> None:
    scene.killed[what] += 1
    if what == "node":
        await asyncio.to_thread(peer.kill_node)
        await asyncio.to_thread(peer.add_node)
    else:
        run.send_signal(signal.SIGKILL)
        run.wait()
        scene.kept |= {name: when for name, when in scene.parts().items() if name not in scene.kept}


@contextmanager
def _run(scene: Scene, peer: Peer, part_size: int) -> Iterator["subprocess.Popen[str]"]:
    options = ["--engine", "ray", "--address", peer.address, "--part-size", str(part_size)]
    command = _command(scene, *scene.inputs, "--out", str(scene.out), *options)
    run = subprocess.Popen(
        command, env=peer.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=os.getcwd()
    )
    try:
        yield run
    finally:
        if run.poll() is None:
            run.kill()
        run.wait()
        if run.stdout:
            run.stdout.close()


def _compared(scene: Scene, expected: dict[str, dict[str, Any]]) -> list[str]:
    """Check that each key has one row with its picture's values, and that no finished part changed."""
    found = pyarrow.dataset.dataset(str(scene.out), format="parquet").to_table().to_pylist()
    times = Counter(row["path"] for row in found)
    keys = {_key(number) for number in range(scene.pictures)}
    faults = [f"{key} has {times[key]} rows" for key in sorted(keys | set(times)) if times[key] != (key in keys)]
    faults += [
        f"{row['path']} has another row than a plain run gives it" for row in found if not _is_right(row, expected)
    ]
    now = scene.parts()
    faults += [f"{name} was made again" for name, when in scene.kept.items() if now.get(name) != when]
    return faults


def _is_right(row: dict[str, Any], expected: dict[str, dict[str, Any]]) -> bool:
    name = row["path"].rsplit("/")[-1]
    if "-cut" in name:
        return row["code"] is None and "cut off" in (row["problem"] or "")
    wanted = expected[name.split("-")[1][:2]]
    if row["problem"] is not None or any(
        row[column] != wanted[column] for column in ("code", "supported", "model_sha256")
    ):
        return False
    numbers = [column for column in wanted if column.startswith("p") and column != "path"]
    return bool(np.allclose([row[c] for c in numbers], [wanted[c] for c in numbers], rtol=0, atol=TOLERANCE))
