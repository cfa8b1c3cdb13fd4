"""What bulk scoring on Ray costs: its rate beside a plain `marrowlens score`, and how time and memory grow.

Knows the command line, tar shards and /proc. Pictures are drawn; the same 64 again and again under other names.

    python -m bench.bulk --pictures 2000 --rounds 3 --sizes 1000 --sizes 10000 --sizes 100000
"""

import os
import re
import runpy
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from stress.pictures import picture
from stress.results import Table, machine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ray.md"
COMMAND = Path(sys.executable).with_name("marrowlens")
DIFFERENT = 64
SHARD = 1000
_MARK = "MARKED_BY_BENCH"


@dataclass(frozen=True, slots=True)
class Ran:
    """One command: all of its seconds, those after its first actor was ready, and the largest sizes in MB."""

    whole_s: float
    scoring_s: float
    driver_mb: float
    actor_mb: float


def main(
    pictures: Annotated[int, typer.Option(min=100, help="Of each run beside a plain one, bundled model.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    sizes: Annotated[list[int] | None, typer.Option(min=100, help="Numbers of pictures, tiny model.")] = None,
    page: Annotated[Path, typer.Option(help="Where the figures are put, between their marks.")] = PAGE,
) -> None:
    """Measure, and put the figures into the page."""
    with tempfile.TemporaryDirectory(prefix="ml") as folder:
        beside = _beside(Path(folder), pictures, rounds)
        grown = _grown(Path(folder), sizes or [1000, 10_000, 100_000])
    text = f"{beside}\n\n{grown}\n\n`python -m bench.bulk`: {machine()}"
    before, rest = page.read_text(encoding="utf-8").split("<!-- figures -->")
    page.write_text(f"{before}<!-- figures -->\n{text}\n<!-- end -->{rest.split('<!-- end -->')[1]}", encoding="utf-8")
    typer.echo(text)


def _beside(folder: Path, pictures: int, rounds: int) -> str:
    cells = folder / "cells"
    cells.mkdir()
    for number in range(pictures):
        (cells / f"{number:06d}.jpg").write_bytes(picture(number % DIFFERENT, "JPEG", 400, 400))
    found: list[tuple[Ran, Ran]] = []
    for number in range(rounds):
        kinds = {"plain": ["--out", str(folder / f"{number}.parquet")]}
        kinds["ray"] = ["--out", str(folder / f"out{number}"), "--engine", "ray", "--part-size", "250"]
        order = list(kinds) if number % 2 == 0 else list(kinds)[::-1]
        ran = {kind: _ran(str(cells), *kinds[kind]) for kind in order}
        found.append((ran["plain"], ran["ray"]))
        typer.echo(f"round {number + 1}: {ran}")
    rows = [
        [
            str(number),
            *(f"{pictures / seconds:.1f}" for seconds in (plain.whole_s, ray.whole_s, ray.scoring_s)),
            f"{plain.whole_s / ray.whole_s:.2f}",
            f"{plain.whole_s / ray.scoring_s:.2f}",
        ]
        for number, (plain, ray) in enumerate(found, 1)
    ]
    medians = [f"{statistics.median(float(row[at]) for row in rows):.2f}" for at in range(1, 6)]
    head = [
        "round",
        "plain, pictures/s",
        "Ray, whole command",
        "Ray, once it runs",
        "ratio whole",
        "ratio once it runs",
    ]
    return (
        f"{pictures} JPEGs of 400 x 400 px in a folder, the bundled model, {rounds} rounds by turns, "
        f"{len(os.sched_getaffinity(0))} actors of one CPU; a plain run's time is always its whole command's.\n\n"
        + Table(head, [*rows, ["median", *medians]]).markdown()
    )


def _grown(folder: Path, sizes: list[int]) -> str:
    artefact = runpy.run_path(str(ROOT / "tests" / "graphs.py"))["write_artefact"](folder)
    rows = []
    for size in sizes:
        shards, out = folder / f"shards{size}", folder / f"grown{size}"
        _write_shards(shards, size)
        arguments = ["--out", str(out), "--engine", "ray", "--artefact", str(artefact)]
        ran = _ran(f"{shards}/*.tar", *arguments)
        rows.append(
            [
                str(size),
                f"{ran.whole_s:.0f}",
                f"{ran.scoring_s:.0f}",
                f"{size / ran.scoring_s:.0f}",
                f"{ran.driver_mb:.0f}",
                f"{ran.actor_mb:.0f}",
            ]
        )
        typer.echo(f"{rows[-1]}")
    head = [
        "pictures",
        "whole command, s",
        "once it runs, s",
        "pictures/s",
        "driver's peak, MB",
        "largest actor's peak, MB",
    ]
    return (
        f"JPEGs of 80 x 72 px in tar shards of {SHARD}, the tests' tiny model, parts of 2000, one run each; a picture "
        "costs next to nothing, so this is the cost of everything else.\n\n" + Table(head, rows).markdown()
    )


def _write_shards(folder: Path, pictures: int) -> None:
    folder.mkdir()
    for at in range(0, pictures, SHARD):
        with tarfile.open(folder / f"{at:07d}.tar", "w") as shard:
            for number in range(at, min(at + SHARD, pictures)):
                member = tarfile.TarInfo(f"{number:07d}.jpg")
                content = picture(number % DIFFERENT)
                member.size = len(content)
                shard.addfile(member, BytesIO(content))


def _ran(*arguments: str) -> Ran:
    mark = uuid.uuid4().hex
    began_s = time.monotonic()
    process = subprocess.Popen(
        [str(COMMAND), "score", *arguments],
        env=os.environ | {_MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    driver_mb = actor_mb = 0.0
    while True:
        driver_mb = max(driver_mb, _peak_mb(process.pid))
        actor_mb = max([actor_mb, *map(_peak_mb, _actors(mark))])
        try:
            process.wait(0.5)
            break
        except subprocess.TimeoutExpired:
            continue
    whole_s = time.monotonic() - began_s
    said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(said[-1000:])
    scoring = re.search(r"scored now in ([\d.]+) s", " ".join(said.split()))
    return Ran(whole_s, float(scoring[1]) if scoring else whole_s, driver_mb, actor_mb)


def _peak_mb(pid: int) -> float:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1000 if found else 0.0


def _actors(mark: str) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::Scorer") and mark.encode() in (
                folder / "environ"
            ).read_bytes():
                yield int(folder.name)
        except OSError:  # ended meanwhile
            continue


if __name__ == "__main__":
    typer.run(main)
