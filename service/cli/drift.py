"""`marrowlens drift`: make a drift reference from a laboratory's pictures, and measure the drift of a folder.

Pictures are classified as in a request. Nothing about a single picture is stored.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from model import atomic_file
from model.drift.distance import MIN_PICTURES, DriftMeasurement
from model.drift.fitting import DRAWS, MIN_GROUPS, ReferenceSamples, fit_reference
from model.drift.reference import reference_text
from model.image import PictureError
from model.trust.decision import Decision
from model.trust.reference import TrustReference
from service.cli.output import Artefact, load_settings, open_model, stop
from service.cli.tables import error_console, new_table, print_tables, say
from service.inference.batching.errors import RunFailed
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer
from service.runtime.loader import InferenceOptions
from service.runtime.session import OnnxSession
from service.scoring.image_files import Skipped, error_reason, find_pictures
from service.scoring.local import classify_files
from service.telemetry.metrics import Metrics

DRIFTED = 1
#: A window that holds every picture of a folder.
UNLIMITED_WINDOW = 1_000_000

drift = typer.Typer(no_args_is_help=True)

Folder = Annotated[
    Path, typer.Argument(help="Pictures, in subfolders too. Hidden files are left out.", exists=True, file_okay=False)
]


@drift.command()
def reference(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="File to write, for MARROWLENS_DRIFT_REFERENCE.")],
    artefact: Artefact = None,
    draws: Annotated[int, typer.Option(min=100, help="Random windows of each size, for the thresholds.")] = DRAWS,
) -> None:
    """Write a drift reference: the model's embeddings and predictions of your pictures, summarised.

    Put the pictures of each specimen into a folder of its own: windows are drawn by specimen, so thresholds allow for
    the variation between specimens. Names of folders and files are not stored. Exit codes: 0 written, 2 not written.
    """
    console = error_console()
    settings = load_settings(artefact=artefact, drift_window=0)
    session = open_model(settings)
    paths = _pictures_of(folder, console)
    groups, description = _groups(folder, paths)
    gathered = ReferenceSamples()

    def add(number: int, answer: Answer) -> None:
        group = groups[number : number + 1]
        gathered.add(answer.embedding[None], answer.probabilities[None], answer.picture[None], group)

    _classify(session, InferenceOptions.from_settings(settings), paths, console, add)
    source = f"{gathered.pictures} pictures of a laboratory, drawn by {description}"
    try:
        with console.status("drawing windows"):
            found = fit_reference(gathered, session.manifest, source, draws=draws)
        atomic_file.write_text(out, reference_text(found))
    except ValidationError as error:
        stop(f"{folder}: {_missing_thresholds(error)}")
    except ValueError as error:
        stop(f"{folder}: {error}")
    except OSError as error:
        stop(f"{out}: {error.strerror or error}")
    say(console, f"{out}: {source}, of {session.manifest.name} {session.manifest.version}")


@drift.command()
def measure(
    folder: Folder,
    artefact: Artefact = None,
    against: Annotated[Path | None, typer.Option(help="A drift reference. Default: that of the service.")] = None,
) -> None:
    """Measure the drift of a folder of pictures from the reference, and count the decisions on them.

    A share of rejected pictures far above that expected of known cells is a sign of drift too (docs/trust.md).

    Exit codes: 0 no distance above its threshold, 1 a distance above its threshold, 2 not measured.
    """
    console = error_console()
    settings = load_settings(artefact=artefact, drift_window=UNLIMITED_WINDOW, drift_reference=against)
    session = open_model(settings)
    if session.drift_reference is None:
        stop("the model has no drift reference; make one with `marrowlens drift reference` and pass it with --against")
    decisions: Counter[str] = Counter()

    def count(_: int, answer: Answer) -> None:
        if answer.assessment is not None:
            decisions[answer.assessment.decision] += 1

    options = InferenceOptions.from_settings(settings)
    reading = _classify(session, options, _pictures_of(folder, console), console, count)
    if reading is None or not reading.distances:
        stop(f"{folder}: too few readable pictures; at least {MIN_PICTURES} are needed")
    table = new_table("kind", "distance", "threshold", "above")
    for kind, distance in reading.distances.items():
        threshold = reading.thresholds[kind]
        table.add_row(kind, f"{distance:.3f}", f"{threshold:.3f}", "yes" if distance > threshold else "no")
    print_tables(table, *_decision_tables(decisions, session.manifest.trust))
    say(console, f"{reading.pictures} pictures, against {session.drift_reference.source}")
    raise typer.Exit(DRIFTED if reading.drifted() else 0)


def _decision_tables(decisions: Counter[str], trust: TrustReference | None) -> list[Table]:
    """Number and share of each decision; no table if the model makes none."""
    if trust is None:
        return []
    table = new_table("decision", "pictures", "share, %", "expected of known cells, %")
    for decision in get_args(Decision):
        count, total = decisions[decision], decisions.total()
        expected = f"at least {100 * trust.reject_p:.1f}" if decision == "reject" else ""
        table.add_row(decision, str(count), f"{100 * count / total:.1f}", expected)
    return [table]


def _pictures_of(folder: Path, console: Console) -> list[Path]:
    """The picture files of a folder; prints unreadable folders and the number of skipped files."""
    skipped = Skipped()
    unreadable: list[OSError] = []
    found = sorted(path for _, path in find_pictures(folder, unreadable.append, skipped))
    for error in unreadable:
        say(console, f"{error.filename}: {error_reason(error)}")
    if skipped:
        say(console, str(skipped))
    return found


def _groups(folder: Path, paths: Sequence[Path]) -> tuple[list[int], str]:
    """The group number of each picture by folder, and a description; no groups if there are too few folders."""
    folders = [path.relative_to(folder).parts[:-1] for path in paths]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(folders))}
    if len(numbers) >= MIN_GROUPS:
        return [numbers[name] for name in folders], f"{len(numbers)} folders"
    return [], f"groups of like colour, because there are fewer than {MIN_GROUPS} folders"


def _missing_thresholds(error: ValidationError) -> str:
    """Why a reference has no thresholds; it refuses those that are 0 or not a number."""
    kinds = ", ".join(str(fault["loc"][-1]) for fault in error.errors())
    if any(fault["type"] == "greater_than" for fault in error.errors()):
        return f"no threshold of {kinds}: no variation; the groups have the same pictures, or only one class"
    return f"no threshold of {kinds}: too few groups have pictures of the same class"


def _classify(
    session: OnnxSession,
    options: InferenceOptions,
    paths: Sequence[Path],
    console: Console,
    on_answer: Callable[[int, Answer], None] = lambda number, answer: None,  # noqa: ARG005
) -> DriftMeasurement | None:
    """Classify the pictures and measure their drift.

    Args:
        on_answer: called with index and answer of each readable picture.
    """
    try:
        classifier = Classifier(session, options, Metrics())
        return asyncio.run(_classified(classifier, paths, options.max_image_bytes, console, on_answer))
    except RunFailed as error:
        stop(f"the model failed: {error.__cause__ or error}")


async def _classified(
    classifier: Classifier,
    paths: Sequence[Path],
    max_image_bytes: int,
    console: Console,
    on_answer: Callable[[int, Answer], None],
) -> DriftMeasurement | None:
    unreadable = 0
    files = ((str(number), path) for number, path in enumerate(paths))
    with console.status(f"reading {len(paths)} pictures"):
        async with aclosing(classify_files(classifier, files, max_image_bytes)) as outcomes:
            async for number, outcome in outcomes:
                if isinstance(outcome, PictureError | OSError):
                    unreadable += 1
                elif isinstance(outcome, Exception):
                    raise outcome
                else:
                    on_answer(int(number), outcome)
    if unreadable:
        console.print(f"{unreadable} of {len(paths)} pictures could not be read and are left out")
    return classifier.measure_drift()
