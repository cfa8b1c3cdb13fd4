"""The commands that put models side by side: compare, speed.

Knows arguments and messages. What a comparison is stands in training/compare/entries.py, how it is carried out in
training/compare/conduct.py.
"""

import difflib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from training.compare.conduct import Learner, Prepared, alone_in, carry_out, is_done, prepare
from training.compare.entries import CACHE, PlannedRun, planned_runs, read_comparison
from training.compare.speed import Timing, artefact, cores, cpu_seconds, processor, side_by_side
from training.evaluation.tables import Table
from training.terminal import console, print_line, print_table, report_errors, report_interruption

DataRoot = Annotated[Path, typer.Option("--data", help="Folder that the sources' folders lie in.")]


def compare(
    path: Annotated[Path, typer.Argument(metavar="COMPARISON.toml", help="Entries: runs that differ in a few keys.")],
    out: Annotated[Path, typer.Option(help="Folder of all runs and the table; what is done in it is kept.")],
    data: DataRoot = Path("."),
    only: Annotated[list[str] | None, typer.Option(metavar="ENTRY", help="Train this entry; may be repeated.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say how long it will take, from a few steps of each.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Of decoded pictures; default: cache in --out.")] = None,
) -> None:
    """Train every entry of a comparison with the same split and budget: one table, one plot."""
    with report_errors(), report_interruption():
        comparison = read_comparison(path)
        runs = planned_runs(comparison, path, out)
        chosen = _chosen(runs, only)
        _check_needed(chosen, runs)
        from training.compare.learners import learners
        from training.compare.report import report

        kinds = learners(data, cache or out / CACHE)
        for run in chosen:
            if not is_done(run):
                _check(run, kinds[run.entry.kind])
        with alone_in(out):
            prepared = prepare(chosen, comparison.budget, kinds, out, print_line)
            print_table(_plan(prepared))
            if not plan:
                carry_out(
                    prepared, kinds, print_line, lambda: report(comparison, runs, kinds, out, print_line, timed=False)
                )
                report(comparison, runs, kinds, out, print_line, timed=True)
    if any(run.failure.exists() for run in chosen):
        raise typer.Exit(1)


def speed(
    paths: Annotated[list[Path], typer.Argument(metavar="MODEL.onnx...", help="Artefacts; ratios are to the first.")],
    threads: Annotated[int, typer.Option(min=0, help="Of onnxruntime within an operator; 0: every core.")] = 0,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; may be repeated; default: 1 and 16.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="In each, every artefact is timed once at every batch size.")] = 15,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="Count CPU seconds of all threads: for a machine with other work.")
    ] = False,
) -> None:
    """Time exported models side by side in onnxruntime on the CPU: in turns, medians over the rounds."""
    with report_errors():
        threads = threads or cores()
        subjects = {str(path): artefact(path, threads) for path in paths}
        with console.status(f"timing {len(subjects)} models"):
            clock = cpu_seconds if cpu_time else time.perf_counter
            timings = side_by_side(subjects, batch or (1, 16), rounds, round_s=0.3, clock=clock)
    rows = [
        (name, f"{subjects[name].size}", f"{timing.batch}", f"{timing.pictures_per_s:.1f}", _ratio(timing))
        for name, found in timings.items()
        for timing in found
    ]
    second = "CPU s" if cpu_time else "s"
    title = f"{threads} threads of {processor()}, {rounds} rounds"
    print_table(
        Table(title, ("model", "input, px", "batch", f"pictures/{second}", "× first (quartiles)"), tuple(rows), "")
    )


def _check(run: PlannedRun, learner: Learner) -> None:
    """Before the first is trained, or timed: what is missing would else come to light hours later."""
    try:
        learner.check(run.config)
    except ValueError as error:
        raise ValueError(f"entry {run.entry.name}: {error}") from error


def _check_needed(chosen: Sequence[PlannedRun], runs: Sequence[PlannedRun]) -> None:
    """Raises ValueError where an entry takes from another that is neither done nor chosen."""
    ready = {run.entry.name for run in chosen} | {run.entry.name for run in runs if is_done(run)}
    for run in chosen:
        missing = sorted(run.entry.needed - ready)
        if missing:
            more = " ".join(f"--only {name}" for name in missing)
            raise ValueError(f"entry {run.entry.name} takes from {', '.join(missing)}, not trained yet: add {more}")


def _chosen(runs: Sequence[PlannedRun], only: Sequence[str] | None) -> list[PlannedRun]:
    names = list(dict.fromkeys(run.entry.name for run in runs))
    for name in only or ():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or names
            raise ValueError(f"no entry {name!r}; did you mean {', '.join(near)}?")
    return [run for run in runs if not only or run.entry.name in only]


def _plan(prepared: Sequence[Prepared]) -> Table:
    rows = [
        (
            one.run.name,
            str(one.run.config.model.input_size),
            str(one.epochs or ""),
            str(one.pictures or ""),
            "done" if is_done(one.run) else f"{one.expected_s / 60:.1f}" if one.expected_s else "",
        )
        for one in prepared
    ]
    left = sum(one.expected_s or 0.0 for one in prepared if not is_done(one.run))
    return Table(
        f"{len(prepared)} runs, about {left / 60:.0f} min of training left",
        ("run", "input, px", "epochs", "pictures to be seen", "min"),
        tuple(rows),
        "",
    )


def _ratio(timing: Timing) -> str:
    return f"{timing.ratio:.2f} ({timing.ratio_low:.2f} to {timing.ratio_high:.2f})"
