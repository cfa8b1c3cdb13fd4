"""The table and the plot of a comparison, written anew whenever a run has ended.

Knows what goes into them and where they lie. Trains nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from training.compare import plots, table
from training.compare.conduct import Learner, is_done, time_all
from training.compare.entries import Comparison, PlannedRun
from training.compare.results import Results, gather
from training.report.figures.figure import ReportFigure, save

NAME = "comparison"


def report(
    comparison: Comparison,
    runs: Sequence[PlannedRun],
    learners: Mapping[str, Learner],
    out: Path,
    say: Callable[[str], None],
    timed: bool,
) -> None:
    """Write comparison.json, .csv, .md, .png and .svg of what is done so far; nothing where nothing is done.

    Args:
        runs: all of the comparison, done or not.
        timed: whether speeds stand in it: measured, unless an earlier sitting has them.
    """
    done = [run for run in runs if is_done(run) and not run.failure.exists()]
    if not done:
        return
    first = {run.entry.name: run for run in reversed(done)}  # the first seed of each entry
    one_each = [run for run in done if first[run.entry.name] is run]
    costs = {run.entry.name: learners[run.entry.kind].cost(run.config) for run in one_each}
    results = gather(comparison, runs, costs)
    if timed:
        sitting = time_all(one_each, comparison.speed, learners, out, say)
        rows = tuple(row.model_copy(update={"timings": sitting.timings[row.name]}) for row in results.rows)
        told = {"rows": rows, "processor": sitting.processor, "threads": sitting.threads}
        results = results.model_copy(update=told)
    drawn = _plot(comparison, results)
    if drawn:
        save(drawn, out)
    table.write(results, out, drawn)
    if timed:
        say(f"{out / NAME}.md, .csv and .json" + (", the plot beside them" if drawn else ""))


def _plot(comparison: Comparison, results: Results) -> ReportFigure | None:
    match comparison.plot:
        case "training_pictures":
            return plots.training_pictures_figure(results, NAME)
        case "difference" if len(results.rows) > 1:
            return plots.difference_figure(results, NAME)
        case "speed" if results.rows[0].timings:
            return plots.speed_figure(results, NAME)
    return None
