"""`marrowlens drift`: a reference of a laboratory's own pictures, and how far a folder of pictures lies from one.

Knows folders, words and exit codes. Pictures go the way that a request's go, and nothing of a single one is written
down.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model import atomic_file
from model.contract import ArtefactError
from model.drift.distance import MIN_PICTURES, Reading
from model.drift.fitting import DRAWS, MIN_GROUPS, RUN_LENGTH, Gathered, made
from model.drift.reference import reference_text
from model.image import PictureError
from service.config.settings import Settings, SettingsError, read_settings
from service.inference.batching.errors import RunFailed
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer
from service.runtime.loader import InferenceOptions, load_session
from service.runtime.session import OnnxSession, ProviderUnavailable
from service.scoring.image_files import Skipped, pictures, read, reason
from service.telemetry.metrics import Metrics

DRIFTED = 1
COULD_NOT_RUN = 2
#: The window of the settings, when it is to forget nothing.
EVERY_PICTURE = 1_000_000

drift = typer.Typer(no_args_is_help=True, help="What input drift is measured from, and how far a folder has drifted.")

Folder = Annotated[
    Path, typer.Argument(help="Pictures, in subfolders too. Hidden files are left out.", exists=True, file_okay=False)
]
Artefact = Annotated[Path | None, typer.Option(help="The .onnx file; its manifest lies beside it.")]


@drift.command()
def reference(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Where to write it; MARROWLENS_DRIFT_REFERENCE then names it.")],
    artefact: Artefact = None,
    draws: Annotated[int, typer.Option(min=100, help="Windows of each size that thresholds are taken from.")] = DRAWS,
) -> None:
    """Write what your pictures look like to the model, for the service to measure drift from.

    Put each specimen's pictures into a folder of its own: specimens are drawn whole, so that thresholds allow for how
    much they differ. Names of folders and files are not written down. Exit codes: 0 written, 2 could not.
    """
    console = Console(stderr=True, highlight=False)
    settings, session = _opened(console, artefact, drift_window=0)
    paths = _pictures(folder, console)
    groups, what = _groups(folder, paths)
    gathered = Gathered()

    def take(number: int, answer: Answer) -> None:
        gathered.add(answer.embedding[None], answer.probabilities[None], answer.picture[None], [groups[number]])

    _read(session, settings, paths, console, take)
    source = f"{len(gathered.groups)} pictures of a laboratory, drawn by {what}"
    try:
        with console.status("drawing windows"):
            found = made(gathered, session.manifest, source, draws=draws)
        atomic_file.write_text(out, reference_text(found))
    except ValidationError as error:
        _stop(console, f"{folder}: {_no_thresholds(error)}")
    except ValueError as error:
        _stop(console, f"{folder}: {error}")
    except OSError as error:
        _stop(console, f"{out}: {error.strerror or error}")
    console.print(f"{out}: {source}, of {session.manifest.name} {session.manifest.version}", soft_wrap=True)


@drift.command()
def measure(
    folder: Folder,
    artefact: Artefact = None,
    against: Annotated[Path | None, typer.Option(help="A reference. Default: the one that the service takes.")] = None,
) -> None:
    """Say how far a folder of pictures lies from the reference.

    Exit codes: 0 no distance is above its threshold, 1 one is, 2 could not be measured.
    """
    console = Console(stderr=True, highlight=False)
    chosen: dict[str, Any] = {} if against is None else {"drift_reference": against}
    settings, session = _opened(console, artefact, drift_window=EVERY_PICTURE, **chosen)
    if session.drift_reference is None:
        _stop(console, "the model has no drift reference, and MARROWLENS_DRIFT_REFERENCE names none that is of it")
    reading = _read(session, settings, _pictures(folder, console), console)
    if reading is None or not reading.distances:
        _stop(console, f"{folder}: too few pictures that could be read; {MIN_PICTURES} are needed")
    table = Table("kind", "distance", "threshold", "above", box=None)
    for kind, distance in reading.distances.items():
        threshold = reading.thresholds[kind]
        table.add_row(kind, f"{distance:.3f}", f"{threshold:.3f}", "yes" if distance > threshold else "no")
    Console(highlight=False).print(table)
    console.print(f"{reading.pictures} pictures, against {session.drift_reference.source}", soft_wrap=True)
    raise typer.Exit(DRIFTED if reading.drifted() else 0)


def _opened(console: Console, artefact: Path | None, **chosen: Any) -> tuple[Settings, OnnxSession]:
    named: dict[str, Any] = {} if artefact is None else {"artefact": artefact}
    try:
        settings = read_settings(**(named | chosen))
        return settings, load_session(settings)
    except (ArtefactError, ProviderUnavailable, SettingsError) as error:
        _stop(console, str(error))


def _pictures(folder: Path, console: Console) -> list[Path]:
    skipped = Skipped()
    unreadable: list[OSError] = []
    found = sorted(path for _, path in pictures(folder, unreadable.append, skipped))
    for error in unreadable:
        console.print(f"{escape(str(error.filename))}: {reason(error)}", soft_wrap=True)
    if skipped:
        console.print(escape(str(skipped)), soft_wrap=True)
    return found


def _groups(folder: Path, paths: Sequence[Path]) -> tuple[list[int], str]:
    """The number of the group that each picture belongs to, and what a group is."""
    folders = [path.relative_to(folder).parts[:-1] for path in paths]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(folders))}
    if len(numbers) >= MIN_GROUPS:
        return [numbers[name] for name in folders], f"{len(numbers)} folders"
    return [at // RUN_LENGTH for at in range(len(paths))], f"runs of {RUN_LENGTH} in the order of their names"


def _no_thresholds(error: ValidationError) -> str:
    """Why a reference has none: its document refuses those that are 0 or no number."""
    kinds = ", ".join(str(fault["loc"][-1]) for fault in error.errors())
    if any(fault["type"] == "greater_than" for fault in error.errors()):
        return f"no threshold of {kinds}: nothing varies; the groups hold the same pictures, or all of one class"
    return f"no threshold of {kinds}: too few groups have pictures of the same class"


def _read(
    session: OnnxSession,
    settings: Settings,
    paths: Sequence[Path],
    console: Console,
    take: Callable[[int, Answer], None] = lambda number, answer: None,  # noqa: ARG005
) -> Reading | None:
    """Show the pictures to the model; `take` gets the number and the answer of each that can be read."""
    try:
        classifier = Classifier(session, InferenceOptions.from_settings(settings), Metrics())
        return asyncio.run(_classified(classifier, paths, settings.max_image_bytes, console, take))
    except RunFailed as error:
        _stop(console, f"the model failed: {error.__cause__ or error}")


async def _classified(
    classifier: Classifier,
    paths: Sequence[Path],
    max_image_bytes: int,
    console: Console,
    take: Callable[[int, Answer], None],
) -> Reading | None:
    refused, contents = 0, (read(path, max_image_bytes) for path in paths)
    await classifier.start()
    try:
        with console.status(f"reading {len(paths)} pictures"):
            async with aclosing(classifier.classify_many(contents)) as outcomes:
                number = 0
                async for outcome in outcomes:
                    if isinstance(outcome, PictureError | OSError):
                        refused += 1
                    elif isinstance(outcome, Exception):
                        raise outcome
                    else:
                        take(number, outcome)
                    number += 1
    finally:
        await classifier.close()
    if refused:
        console.print(f"{refused} of {len(paths)} pictures could not be read and are left out")
    return classifier.drift()


def _stop(console: Console, message: str) -> NoReturn:
    console.print(f"marrowlens: {escape(message)}", soft_wrap=True)
    raise typer.Exit(COULD_NOT_RUN)
