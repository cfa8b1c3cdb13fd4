"""Benchmark of `marrowlens score --engine ray`: rate compared with a plain run, time and memory by number of pictures.

Pictures are drawn; the same 64 repeat under other names.

    python -m bench.timings.bulk beside --pictures 2000 --rounds 3
    python -m bench.timings.bulk limit --pictures 3000 --rounds 5
    python -m bench.timings.bulk growth 1000 10000 100000
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

from bench.setup.pictures import drawn
from bench.timings.bare_folder import BATCH
from model.plural import plural
from stress.clients.pictures import picture
from stress.results import Table, machine

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ray.md"
LIMIT_PAGE = ROOT / "docs" / "score.md"
CELLS = ROOT / ".bench" / "cells"
COMMAND = Path(sys.executable).with_name("marrowlens")
DIFFERENT = 64
SHARD = 1000
_MARK = "MARKED_BY_BENCH"

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Ran:
    """Measurements of one command: seconds in total and after the first actor was ready, CPU time, peak sizes in MB."""

    whole_s: float
    scoring_s: float
    cpu_s: float
    actors_cpu_s: float
    driver_mb: float
    actor_mb: float


@app.command()
def beside(
    pictures: Annotated[int, typer.Option(min=100, help="Of each run.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    page: Annotated[Path, typer.Option(help="Where the figures are put, between their marks.")] = PAGE,
) -> None:
    """Compare the rate on one machine with a plain `marrowlens score`, alternately, with the bundled model."""
    with tempfile.TemporaryDirectory(prefix="ml") as name:
        folder, found = Path(name), list[tuple[Ran, Ran]]()
        cells = folder / "cells"
        cells.mkdir()
        for number in range(pictures):
            (cells / f"{number:06d}.jpg").write_bytes(picture(number % DIFFERENT, "JPEG", 400, 400))
        for number in range(rounds):
            kinds = {"plain": ["--out", str(folder / f"{number}.parquet")]}
            kinds["ray"] = ["--out", str(folder / f"out{number}"), "--engine", "ray", "--part-size", "250"]
            order = list(kinds) if number % 2 == 0 else list(kinds)[::-1]
            ran = {kind: _ran(str(cells), *kinds[kind]) for kind in order}
            typer.echo(f"round {number + 1}: {ran}")
            found.append((ran["plain"], ran["ray"]))
    said = (
        f"{pictures} JPEGs of 400 x 400 px in a folder, the bundled model, {plural(rounds, 'round')}, alternating, "
        f"{len(os.sched_getaffinity(0))} actors of one CPU. A ratio is Ray's rate divided by that of the plain run's "
        "whole command: the rate of Ray's whole command, and its rate once an actor runs. Ratios in CPU time, which "
        "other programs change least, compare the plain process with the actors alone, and with all processes of Ray "
        "and of the run."
    )
    _put(page, "beside", said, _beside_table(found, pictures))


def _beside_table(found: list[tuple[Ran, Ran]], pictures: int) -> Table:
    rows = [
        [
            f"{pictures / plain.whole_s:.1f}",
            f"{pictures / ray.whole_s:.1f}",
            f"{plain.whole_s / ray.whole_s:.2f}",
            f"{plain.whole_s / ray.scoring_s:.2f}",
            f"{1000 * plain.cpu_s / pictures:.1f}",
            f"{1000 * ray.actors_cpu_s / pictures:.1f}",
            f"{plain.cpu_s / ray.actors_cpu_s:.2f}",
            f"{plain.cpu_s / ray.cpu_s:.2f}",
        ]
        for plain, ray in found
    ]
    medians = [f"{statistics.median(float(row[at]) for row in rows):.2f}" for at in range(8)]
    head = ["round", "plain, pictures/s", "Ray, pictures/s", "ratio", "ratio once it runs"]
    cpu = ["plain, CPU ms a picture", "actors, CPU ms a picture", "ratio in CPU", "ratio in CPU, all"]
    numbered = [[str(number), *row] for number, row in enumerate(rows, 1)]
    return Table([*head, *cpu], [*numbered, ["median", *medians]])


@app.command()
def limit(
    pictures: Annotated[int, typer.Option(min=100, help="Of each run.")] = 3000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    page: Annotated[Path, typer.Option(help="Where the figures are put, between their marks.")] = LIMIT_PAGE,
) -> None:
    """Compare the CPU time of `marrowlens score` with that of decoding and the bare session, alternately."""
    found: list[tuple[float, float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="ml") as name:
        folder = Path(name)
        few, many = folder / "few", folder / "many"
        _write_cells(few, drawn(CELLS, DIFFERENT), BATCH)
        _write_cells(many, drawn(CELLS, DIFFERENT), pictures)
        for number in range(rounds):
            runs = [(kind, cells) for kind in ("bare", "score") for cells in (few, many)]
            order = runs if number % 2 == 0 else runs[::-1]
            cpu_s = {run: _cpu_of(*_limit_command(*run, folder / f"{number}{run[1].name}.parquet")) for run in order}
            found.append(tuple(cpu_s[run] for run in runs))  # type: ignore[arg-type]
            typer.echo(f"round {number + 1}: {found[-1]}")
    said = (
        f"{pictures} JPEGs of 250 x 250 px and 48 KB in a folder, the bundled model, {len(os.sched_getaffinity(0))} "
        f"threads, batches of {BATCH}, {plural(rounds, 'round')}, alternating. CPU time of whole commands; for a "
        f"picture, that of a run on {BATCH} pictures is subtracted first. A ratio is the time of decoding and the "
        "bare session, divided by that of `marrowlens score`."
    )
    _put(page, "limit", said, _limit_table(found, pictures))


def _limit_command(kind: str, cells: Path, table: Path) -> list[str]:
    if kind == "bare":
        return [sys.executable, "-m", "bench.timings.bare_folder", str(cells)]
    return [str(COMMAND), "score", str(cells), "--out", str(table)]


def _limit_table(found: list[tuple[float, float, float, float]], pictures: int) -> Table:
    more = pictures - BATCH
    rows = []
    for bare_few, bare, score_few, score in found:
        each = [1000 * (bare - bare_few) / more, 1000 * (score - score_few) / more]
        rows.append([bare, score, bare / score, score_few, *each, each[0] / each[1]])
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    shown = [[f"{value:.2f}" for value in row] for row in [*rows, medians]]
    names = [*map(str, range(1, len(rows) + 1)), "median"]
    head = ["round", "bare, s", "score, s", "ratio", f"score of {BATCH} pictures, s"]
    each_head = ["bare, ms a picture", "score, ms a picture", "ratio of a picture"]
    return Table([*head, *each_head], [[name, *row] for name, row in zip(names, shown, strict=True)])


def _write_cells(folder: Path, cells: list[bytes], count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(cells[number % len(cells)])


def _cpu_of(*command: str) -> float:
    """CPU seconds of a command, user and system, with all of its processes that have ended."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


@app.command()
def growth(
    sizes: Annotated[list[int], typer.Argument(min=100, help="Numbers of pictures.")],
    page: Annotated[Path, typer.Option(help="Where the figures are put, between their marks.")] = PAGE,
) -> None:
    """Measure time and memory by number of pictures, with a model that takes almost no time."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="ml") as name:
        folder = Path(name)
        artefact = runpy.run_path(str(ROOT / "tests" / "support" / "artefacts" / "graphs.py"))["write_artefact"](folder)
        for size in sizes:
            _write_shards(folder / f"{size}", size)
            arguments = ["--out", str(folder / f"out{size}"), "--engine", "ray", "--artefact", str(artefact)]
            ran = _ran(f"{folder}/{size}/*.tar", *arguments)
            memory = [f"{ran.driver_mb:.0f}", f"{ran.actor_mb:.0f}"]
            times = [f"{ran.whole_s:.0f}", f"{ran.scoring_s:.0f}", f"{ran.cpu_s:.0f}", f"{1000 * ran.cpu_s / size:.2f}"]
            rows.append([str(size), *times, *memory])
            typer.echo(f"{rows[-1]}")
    head = ["pictures", "whole command, s", "once it runs, s", "CPU of all processes, s", "CPU ms a picture"]
    said = (
        f"JPEGs of 80 x 72 px in tar shards of {SHARD}, the tests' tiny model, parts of 2000, one run each: a picture "
        "costs next to nothing, so this is the cost of everything else. Peaks are of resident memory."
    )
    _put(page, "growth", said, Table([*head, "run's peak, MB", "largest actor's peak, MB"], rows))


def _put(page: Path, mark: str, said: str, table: Table) -> None:
    command = f"`python -m bench.timings.bulk {mark}`: {machine()}"
    text = f"{said}\n\n{table.markdown()}\n\n{command}"
    before, rest = page.read_text(encoding="utf-8").split(f"<!-- {mark} -->\n")
    behind = rest[rest.index("<!-- end -->") :]
    page.write_text(f"{before}<!-- {mark} -->\n{text}\n{behind}", encoding="utf-8")
    typer.echo(text)


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
    cpu: dict[int, float] = {}
    actors: set[int] = set()
    while True:
        marked = dict(_marked(mark))
        cpu |= {pid: _cpu_s(pid) or cpu.get(pid, 0.0) for pid in marked}
        actors |= {pid for pid, name in marked.items() if name.startswith(b"ray::Scorer")}
        driver_mb = max(driver_mb, _peak_mb(process.pid))
        actor_mb = max([actor_mb, *map(_peak_mb, actors)])
        try:
            process.wait(0.2)
            break
        except subprocess.TimeoutExpired:
            continue
    whole_s = time.monotonic() - began_s
    said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(said[-1000:])
    scoring = re.search(r"scored now in ([\d.]+) s", " ".join(said.split()))
    actors_cpu_s = sum(cpu[pid] for pid in actors)
    return Ran(whole_s, float(scoring[1]) if scoring else whole_s, sum(cpu.values()), actors_cpu_s, driver_mb, actor_mb)


def _peak_mb(pid: int) -> float:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1000 if found else 0.0


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _marked(mark: str) -> Iterator[tuple[int, bytes]]:
    """Number and command line of every descendant process of this command."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                yield int(folder.name), (folder / "cmdline").read_bytes()
        except OSError:  # ended meanwhile, or somebody else's
            continue


if __name__ == "__main__":
    app()
