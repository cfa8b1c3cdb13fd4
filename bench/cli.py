"""Command line of the benchmark, `python -m bench.cli`: prepares, measures and reports. `make bench` calls it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich import table as rich_table
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.comparison import prepare
from bench.plan import plan, runtimes, servers
from bench.reporting import report, tables
from bench.setup import environments, machine, pictures

WEIGHTS = machine.ROOT / "model" / "weights"
WORK = machine.ROOT / ".bench"
RESULTS = machine.ROOT / "bench" / "results"

console = Console()
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@dataclass(slots=True)
class Shown:
    """Progress on the screen."""

    progress: Progress
    task: TaskID

    def step(self, text: str) -> None:
        """Show the current measurement."""
        self.progress.update(self.task, description=escape(text))

    def done(self, count: int = 1) -> None:
        """Advance by a number of steps."""
        self.progress.advance(self.task, count)

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self.progress.console.print(escape(text), highlight=False, soft_wrap=True)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


@app.command()
def bench(
    only: Annotated[str, typer.Option("--servers", help="Servers, by name; all where none is named.")] = "",
    workloads: Annotated[str, typer.Option(help="Workloads, by name; the usual ones where none is named.")] = "",
    models: Annotated[str, typer.Option(help="network, one-operator, or both.")] = " ".join(plan.MODELS),
    engines: Annotated[str, typer.Option(help="onnxruntime, openvino, pytorch; none: no engine.")] = " ".join(
        runtimes.ENGINES
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds over all servers.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one cell.")] = 5.0,
    deadline_s: Annotated[float, typer.Option(min=0.1, help="Seconds after which an answer is too late.")] = 5.0,
    cells: Annotated[Path | None, typer.Option(help="A folder of JPEGs; drawn cells where none is named.")] = None,
    artefact: Annotated[Path | None, typer.Option(help="The .onnx file; the bundled one where none is named.")] = None,
    server_cores: Annotated[str, typer.Option(help="Of the servers, by number; all but the last.")] = "",
    client_cores: Annotated[str, typer.Option(help="Of the load generator, by number; the last.")] = "",
    out: Annotated[Path, typer.Option(help="Where tables and plots are written.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Where environments and measured cells are kept.")] = WORK,
    here: Annotated[bool, typer.Option("--here", help="Run every server in this Python; install nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is measured already.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test: one short round; its figures say nothing.")
    ] = False,
) -> None:
    """Compare marrowlens with other servers. A stopped run resumes with the same command."""
    with _plain_errors():
        names = tuple(server.name for server in servers.chosen(_words(only)))
        chosen_engines = () if engines == "none" else tuple(e.name for e in runtimes.chosen(list(_words(engines))))
        plan.check_names(_words(workloads), _words(models))
        planned = plan.Plan(
            models=_words(models),
            servers=names,
            engines=chosen_engines,
            workloads=_words(workloads),
            rounds=rounds,
            seconds=seconds,
            deadline_s=deadline_s,
        )
        planned = planned.shortened() if quick else planned
        cores = machine.cores(_numbers(server_cores), _numbers(client_cores))
        made = environments.Environments(work / "env", here)
        prepared = prepare.Request(planned, cores, made, artefact or _bundled(), cells, work, fresh)
        _carry_out(prepared, out)


def _carry_out(request: prepare.Request, out: Path) -> None:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        shown = Shown(progress, progress.add_task("preparing", total=None))
        bench = prepare.prepared(request, shown)
        progress.update(shown.task, total=bench.steps())
        os.sched_setaffinity(0, request.cores.client)
        try:
            bench.run()
        finally:
            if bench.ledger.cells:
                files = report.write(bench.ledger, prepare.header(bench), out)
    for table in tables.tables(bench.ledger, request.plan.deadline_s)[:2]:
        _show(table)
    console.print(f"{files[0]} and {len(files) - 1} files beside it", highlight=False, soft_wrap=True)
    if bench.failures:
        raise typer.Exit(1)


def _show(table: tables.Table) -> None:
    shown = rich_table.Table(title=escape(table.title), title_justify="left")
    for cell in table.head:
        shown.add_column(escape(cell), overflow="fold")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    console.print(shown, highlight=False)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Print errors that a user can correct as one line; exit code 2."""
    try:
        yield
    except (ValueError, OSError, pictures.NoPictures, environments.CannotInstall) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interrupt:
        console.print("interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from interrupt


def _bundled() -> Path:
    (found,) = WEIGHTS.glob("*.onnx")
    return found


if __name__ == "__main__":
    app()
