"""Command line of the stress tests, `python -m stress.cli`: runs the checks in turn. `make stress` calls it."""

import asyncio
import runpy
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stress import results
from stress.checks.browsing import browsing
from stress.checks.bulk import bulk
from stress.checks.hostile import hostile
from stress.checks.idle import idle
from stress.checks.image import image
from stress.checks.laboratory import laboratory
from stress.checks.restart import restart
from stress.checks.sigterm import sigterm
from stress.checks.soak import soak
from stress.checks.training import training
from stress.laboratory.signers import UncountedPictures

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "stress.md"

console = Console()
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


class Check(StrEnum):
    """The checks, in order."""

    IDLE = "idle"
    RESTART = "restart"
    SIGTERM = "sigterm"
    HOSTILE = "hostile"
    SOAK = "soak"
    LABORATORY_SQLITE = "laboratory-sqlite"
    LABORATORY_POSTGRESQL = "laboratory-postgresql"
    BROWSING = "browsing"
    IMAGE = "image"
    TRAINING = "training"
    RAY = "ray"


#: Checks that can run against several workers.
_WITH_WORKERS = (Check.RESTART, Check.SIGTERM, Check.SOAK, Check.LABORATORY_SQLITE, Check.LABORATORY_POSTGRESQL)


class Model(StrEnum):
    """The served model: the bundled network, or the tests' tiny one, which loads everything but the model."""

    BUNDLED = "bundled"
    TINY = "tiny"


@dataclass(slots=True)
class Bar:
    """Progress bar for `results.Shown`."""

    progress: Progress
    task: TaskID

    def total(self, steps: int) -> None:
        self.progress.update(self.task, total=steps)

    def step(self, count: int = 1) -> None:
        self.progress.advance(self.task, count)


@app.command()
def stress(
    checks: Annotated[list[Check] | None, typer.Argument(help="Which; all where none is named.")] = None,
    model: Annotated[Model, typer.Option(help="What answers.")] = Model.BUNDLED,
    sigterms: Annotated[int, typer.Option(min=1, help="Number of SIGTERMs.")] = 20,
    restarts: Annotated[int, typer.Option(min=1, help="How often it is killed.")] = 10,
    cases: Annotated[int, typer.Option(min=1, help="Hostile cases.")] = 10_000,
    reports: Annotated[int, typer.Option(min=1, help="Specimens that the laboratory signs.")] = 2_000,
    kills: Annotated[int, typer.Option(min=1, help="How often something is killed meanwhile.")] = 60,
    specimens: Annotated[int, typer.Option(min=200, help="Specimens of 500 cells that are browsed.")] = 10_000,
    requests: Annotated[int, typer.Option(min=2, help="Requests of the soak.")] = 50_000,
    training_kills: Annotated[int, typer.Option(min=1, help="How often a training is killed.")] = 20,
    pictures: Annotated[int, typer.Option(min=1500, help="Pictures that are scored on Ray.")] = 20_000,
    ray_kills: Annotated[int, typer.Option(min=1, max=50, help="How often a node or that run is killed.")] = 10,
    seed: Annotated[int, typer.Option(help="From which hostile cases, requests and kills are drawn.")] = 0,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes of the service.")] = 1,
    page: Annotated[Path, typer.Option(help="Where the results are kept.")] = PAGE,
) -> None:
    """Stop, kill, attack and overload `marrowlens serve` and a training for a long time; results go to a page."""
    planned: dict[Check, Callable[[Path | None, results.Shown], Coroutine[Any, Any, results.Result]]] = {
        Check.IDLE: idle,
        Check.RESTART: lambda artefact, bar: restart(restarts, artefact, bar, workers=workers),
        Check.SIGTERM: lambda artefact, bar: sigterm(sigterms, artefact, bar, seed=seed, workers=workers),
        Check.HOSTILE: lambda artefact, bar: hostile(cases, artefact, bar, seed=seed),
        Check.SOAK: lambda artefact, bar: soak(requests, artefact, bar, seed=seed, workers=workers),
        Check.LABORATORY_SQLITE: lambda artefact, bar: laboratory(
            "sqlite", reports, kills, artefact, bar, seed=seed, workers=workers
        ),
        Check.LABORATORY_POSTGRESQL: lambda artefact, bar: laboratory(
            "postgresql", reports, kills, artefact, bar, seed=seed, workers=workers
        ),
        Check.BROWSING: lambda artefact, bar: browsing(specimens, artefact, bar, seed=seed),
        Check.IMAGE: lambda _, bar: image(bar),
        Check.TRAINING: lambda _, bar: training(training_kills, bar, seed=seed),
        Check.RAY: lambda artefact, bar: bulk(pictures, ray_kills, artefact, bar, seed=seed),
    }
    possible = list(Check) if workers == 1 else list(_WITH_WORKERS)
    if unable := [check for check in checks or [] if check not in possible]:
        raise typer.BadParameter(f"{', '.join(unable)} runs with one worker only; with several: {', '.join(possible)}")
    faults = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console) as progress:
        artefact = tiny(Path(folder)) if model is Model.TINY else None
        for check in [each for each in possible if not checks or each in checks]:
            bar = Bar(progress, progress.add_task(check, total=None))
            try:
                result = asyncio.run(planned[check](artefact, bar))
            except UncountedPictures as error:
                raise typer.BadParameter(f"{check}: {error}") from None
            result.model, result.workers = model, workers
            results.write(page, [result])
            _show(result)
            faults += len(result.faults)
    console.print(f"{page} has the figures", highlight=False)
    if faults:
        raise typer.Exit(1)


def tiny(folder: Path) -> Path:
    """The tests' tiny artefact, which takes almost no time."""
    graphs = runpy.run_path(str(ROOT / "tests/support/artefacts/graphs.py"))
    write: Callable[[Path], Path] = graphs["write_artefact"]
    return write(folder)


def _show(result: results.Result) -> None:
    verdict = "[bold red]FAULTS[/]" if result.faults else "[green]passed[/]"
    console.print(f"{escape(result.title)}: {verdict}, {result.seconds:.0f} s", highlight=False)
    for fault in result.faults[:20]:
        console.print(f"  {escape(fault)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
