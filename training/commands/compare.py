"""Commands that compare models: compare, speed and accuracy."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.report.page import Table
from training.commands.review import DataRoot
from training.compare.entries import CACHE, PlannedRun, plan_runs, read_comparison
from training.compare.speed import Timing, cpu_seconds, load_artefact, processor, time_side_by_side
from training.config import suggest
from training.onnx_session import cores
from training.run import RunFolder
from training.terminal import console, print_table, report_errors, report_interruption

if TYPE_CHECKING:
    from training.compare.run import Learner, PlannedTraining


def compare(
    path: Annotated[
        Path, typer.Argument(metavar="COMPARISON.toml", help="Base configuration, and what each entry changes.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of all runs and the table; finished runs in it are kept.")],
    data: DataRoot = Path("."),
    only: Annotated[list[str] | None, typer.Option(metavar="ENTRY", help="Train this entry; may be repeated.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only estimate the training time, from a few steps of each run.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded pictures; default: cache in --out.")] = None,
) -> None:
    """Train every entry of a comparison with the same split and budget, and write one table and plot."""
    with report_errors(), report_interruption():
        comparison = read_comparison(path)
        runs = plan_runs(comparison, path, out)
        chosen = _chosen(runs, only)
        _check_required(chosen, runs)
        from training.compare.run import exclusive, make_learners, plan_trainings, train_all, write_results

        learners = make_learners(data, cache or out / CACHE)
        for run in chosen:
            if not run.done:
                _check(run, learners[run.entry.kind])
        with exclusive(out):
            plans = plan_trainings(chosen, comparison.budget, learners, out)
            print_table(_plan_table(plans))
            if not plan:
                train_all(
                    plans,
                    comparison.block,
                    learners,
                    lambda: write_results(comparison, runs, learners, out, timed=False),
                )
                write_results(comparison, runs, learners, out, timed=True)
    if any(run.failure.exists() for run in chosen):
        raise typer.Exit(1)


def speed(
    paths: Annotated[list[Path], typer.Argument(metavar="MODEL.onnx...", help="Artefacts; ratios are to the first.")],
    threads: Annotated[int, typer.Option(min=0, help="Threads of onnxruntime within an operator; 0: all cores.")] = 0,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; may be repeated; default: 1 and 16.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds; each times every artefact once at every batch size.")
    ] = 15,
    cpu_time: Annotated[
        bool,
        typer.Option("--cpu-time", help="Count CPU seconds of all threads: for a busy machine."),
    ] = False,
) -> None:
    """Time exported models in onnxruntime on the CPU, side by side: alternately, medians over rounds."""
    with report_errors():
        threads = threads or cores()
        subjects = {str(path): load_artefact(path, threads) for path in paths}
        with console.status(f"timing {len(subjects)} models"):
            clock = cpu_seconds if cpu_time else time.perf_counter
            timings = time_side_by_side(subjects, batch or (1, 16), rounds, round_s=0.3, clock=clock)
    rows = tuple(
        (name, f"{subjects[name].size}", f"{timing.batch}", f"{timing.pictures_per_s:.1f}", _ratio(timing))
        for name, of_model in timings.items()
        for timing in of_model
    )
    second = "CPU s" if cpu_time else "s"
    title = f"{threads} threads of {processor()}, {rounds} rounds"
    print_table(Table(title, ("model", "input, px", "batch", f"pictures/{second}", "× first (quartiles)"), rows, ""))


def accuracy(
    paths: Annotated[
        list[Path], typer.Argument(metavar="MODEL.onnx...", help="Artefacts; differences are to the first.")
    ],
    run_folder: Annotated[Path, typer.Option("--run", help="Run folder with the split and the sources of the data.")],
    data: DataRoot = Path("."),
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded pictures; default: none.")] = None,
) -> None:
    """Measure exported models on the same pictures, side by side: a run's calibration block.

    Pictures that a model learned from are left out, by the split lists beside the artefacts.
    """
    with report_errors():
        from training.compare.accuracy import accuracy_table

        if len(set(paths)) < len(paths):
            raise ValueError("an artefact is given twice")
        table = accuracy_table({str(path): path for path in paths}, RunFolder(run_folder), data, cache)
    print_table(table)


def _check(run: PlannedRun, learner: "Learner") -> None:
    """Check a model before the first training, so that an error does not show hours later."""
    try:
        learner.check(run.config)
    except ValueError as error:
        raise ValueError(f"entry {run.entry.name}: {error}") from error


def _check_required(chosen: Sequence[PlannedRun], runs: Sequence[PlannedRun]) -> None:
    """Raise ValueError if an entry uses the run of another entry that is neither done nor chosen."""
    available = {run.entry.name for run in chosen} | {run.entry.name for run in runs if run.done}
    for run in chosen:
        missing = sorted(run.entry.required - available)
        if missing:
            options = " ".join(f"--only {name}" for name in missing)
            raise ValueError(f"entry {run.entry.name} uses {', '.join(missing)}, not trained yet: add {options}")


def _chosen(runs: Sequence[PlannedRun], only: Sequence[str] | None) -> list[PlannedRun]:
    names = list(dict.fromkeys(run.entry.name for run in runs))
    for name in only or ():
        if name not in names:
            raise ValueError(f"no entry {name!r}; {suggest(name, names)}")
    return [run for run in runs if not only or run.entry.name in only]


def _plan_table(plans: "Sequence[PlannedTraining]") -> Table:
    rows = [
        (
            plan.run.name,
            str(plan.run.config.model.input_size),
            str(plan.epochs or ""),
            str(plan.pictures or ""),
            "done" if plan.run.done else f"{plan.expected_s / 60:.1f}" if plan.expected_s else "",
        )
        for plan in plans
    ]
    left_s = sum(plan.expected_s or 0.0 for plan in plans if not plan.run.done)
    title = f"{len(plans)} runs, about {left_s / 60:.0f} min of training left"
    return Table(title, ("run", "input, px", "epochs", "pictures seen", "min"), tuple(rows), "")


def _ratio(timing: Timing) -> str:
    return f"{timing.ratio:.2f} ({timing.ratio_low:.2f} to {timing.ratio_high:.2f})"
