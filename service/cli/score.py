"""`marrowlens score`: a folder of pictures to a table, by the same way that a request takes.

Knows folders, progress and exit codes. Knows no HTTP and no table formats. Memory does not grow with the folder.
"""

import asyncio
import os
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from model.atomic_file import replacing
from model.contract import RESEARCH_USE, ArtefactError
from model.image import PictureError
from service.concurrency.thread_pools import PICTURES
from service.config.settings import Settings, SettingsError, read_settings
from service.inference.classifier import Classifier
from service.runtime.loader import InferenceOptions, load_session
from service.runtime.session import ProviderUnavailable, Session
from service.scoring.checkpoint import Ledger
from service.scoring.image_files import SUFFIXES, Skipped, pictures, printable, read, reason
from service.scoring.progress import bar
from service.scoring.ray import env, options
from service.scoring.ray.errors import CannotScore
from service.scoring.ray.request import Duplicates, Request, Sizing
from service.scoring.tables import Columns, Scored, TableError, check_place, read_table, write_table
from service.telemetry.metrics import Metrics

SOME_PROBLEMS = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
PROBLEMS_SHOWN = 20


class Engine(StrEnum):
    """What scores: this process alone, or actors of Ray on one machine or many."""

    LOCAL = "local"
    RAY = "ray"


def score(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER", help="Pictures, in subfolders too. With --engine ray also shards and stores."),
    ],
    out: Annotated[str, typer.Option(help="The table, .parquet, .csv or .jsonl; with --engine ray a folder.")],
    artefact: Annotated[Path | None, typer.Option(help="The .onnx file; its manifest lies beside it.")] = None,
    engine: Annotated[Engine, typer.Option(help="This process, or actors of Ray.")] = Engine.LOCAL,
    address: options.Address = None,
    actors: options.Actors = None,
    cpus_per_actor: options.CpusPerActor = None,
    gpus_per_actor: options.GpusPerActor = None,
    part_size: options.PartSize = None,
    duplicates: options.OnDuplicates = Duplicates.REFUSE,
    key_column: options.KeyColumn = "key",
    image_column: options.ImageColumn = "image",
) -> None:
    """Score a folder of pictures into a table: path, code, probability, supported, p_CODE for each class, model_sha256.

    `supported` speaks of the class named, not of the cell: false, and nothing is claimed for it; true, and it was
    learned from enough pictures, yet a cell of a class that the model does not know is also given such a name.

    Run it again to go on after an interruption or to add new pictures: a path that the table has is not scored twice.
    Paths are relative to the folder, so give each folder a table of its own. Hidden files are left out.

    What is skipped is counted by its kind: files of other types, hidden files and folders, links to folders. This does
    not change the exit code. Links to pictures are read; results are not written through links.

    A picture that cannot be read stops nothing; it is listed at the end and in OUT.problems.jsonl, and the next run
    tries it again. Everything else is set by MARROWLENS_* in the environment, as for the service.

    With --engine ray (docs/ray.md) OUT is a folder of Parquet files, in which such a picture has a row that says why.

    Exit codes: 0 all scored, 1 some pictures had problems, 2 could not run, 130 interrupted.
    """
    sizing = Sizing(address, actors, cpus_per_actor, gpus_per_actor)
    request = Request(tuple(inputs), out, part_size, duplicates, key_column, image_column)
    _run(request, sizing, artefact, _on_cluster if engine is Engine.RAY else _here)


def _run(request: Request, sizing: Sizing, artefact: Path | None, engine: Callable[..., int]) -> NoReturn:
    """Run an engine, and say how it ended, in words and by the exit code."""
    console = Console(stderr=True, highlight=False)
    out = request.out
    try:
        settings = read_settings(**({"artefact": artefact} if artefact else {}))
        problems = engine(request, sizing, settings, console)
    except (ArtefactError, ProviderUnavailable, SettingsError, TableError, CannotScore) as error:
        _stop(console, str(error))
    except OSError as error:
        _stop(console, f"{error.filename or out}: {error.strerror or error}; what was scored is kept, run it again")
    except sqlite3.Error as error:
        _stop(console, f"{_ledger_of(Path(out))}: {error}; what was scored is kept, run it again")
    except KeyboardInterrupt:
        console.print("interrupted; what was scored is kept, run the same command to go on")
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(SOME_PROBLEMS if problems else 0)


def _here(request: Request, sizing: Sizing, settings: Settings, console: Console) -> int:
    (folder, *more), plain = request.inputs, Request(request.inputs, request.out)
    if more or request != plain or sizing != Sizing():
        raise CannotScore("several inputs, and the options of Ray, need --engine ray")
    if "://" in folder + request.out:
        raise CannotScore("addresses of stores need --engine ray")
    return score_folder(Path(folder), Path(request.out), load_session(settings), settings, console)


def _on_cluster(request: Request, sizing: Sizing, settings: Settings, console: Console) -> int:
    env.prepare(sizing.address)
    try:
        from service.scoring.ray.driver import score_on_ray  # Ray, fsspec and pyarrow: large, and needed here alone
    except ModuleNotFoundError as error:
        raise CannotScore(f"--engine ray needs {error.name}: pip install -e '.[ray]', on every node") from error
    return score_on_ray(request, sizing, settings, console)


def score_folder(folder: Path, out: Path, session: Session, settings: Settings, console: Console) -> int:
    """Score the pictures of a folder that its table does not have yet; returns how many had problems.

    Raises:
        CannotScore: no such folder, no pictures, or the model failed; what was scored until then is kept
        TableError: another suffix, another model's table, or another run is at it
        OSError, sqlite3.Error: the disk is full, or the like
    """
    check_place(out)
    for needed in (folder, out.parent):
        if not needed.is_dir():
            raise CannotScore(f"{needed}: is not a folder")
    manifest = session.manifest
    columns = Columns(manifest.codes, manifest.sha256, manifest.unsupported)

    def in_the_table() -> Iterator[Scored]:
        return read_table(out, columns) if out.exists() else iter(())

    skipped = Skipped()
    with Ledger(_ledger_of(out), columns, in_the_table) as ledger:
        before = len(ledger)
        total = _count_missing(folder, ledger, skipped, console)
        if total:
            asyncio.run(_score_missing(folder, ledger, session, settings, bar(console, total)))
        if len(ledger) > before or not out.exists():
            write_table(out, columns, ledger.rows())
        problems = _report(ledger, out, console)
        console.print(
            f"{escape(str(out))}: {len(ledger)} pictures, {len(ledger) - before} of them scored now", soft_wrap=True
        )
    if skipped:
        console.print(escape(str(skipped)), soft_wrap=True)
    console.print(RESEARCH_USE, soft_wrap=True)
    return problems


def _ledger_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _stop(console: Console, message: str) -> NoReturn:
    console.print(f"marrowlens: {escape(message)}", soft_wrap=True)
    raise typer.Exit(COULD_NOT_RUN)


def _count_missing(folder: Path, ledger: Ledger, skipped: Skipped, console: Console) -> int:
    def unreadable(error: OSError) -> None:
        ledger.refuse(printable(os.path.relpath(error.filename, folder)), f"a folder: {reason(error)}")

    with console.status(f"looking for pictures in {escape(str(folder))}"):
        found = Counter(name in ledger for name, _ in pictures(folder, unreadable, skipped))
    if not found and not len(ledger):
        raise CannotScore(f"{folder}: holds no pictures ({' '.join(SUFFIXES)}){'; ' * bool(skipped)}{skipped or ''}")
    if gone := len(ledger) - found[True]:
        console.print(f"{gone} rows of the table have no picture in {escape(str(folder))}; they stay", soft_wrap=True)
    return found[False]


async def _score_missing(
    folder: Path, ledger: Ledger, session: Session, settings: Settings, progress: Progress
) -> None:
    under_way: deque[str] = deque()

    async def contents() -> AsyncIterator[bytes | Exception]:
        for name, path in pictures(folder):
            if name not in ledger:
                under_way.append(name)
                yield await PICTURES.run(read, path, settings.max_image_bytes)

    classifier = Classifier(session, InferenceOptions.from_settings(settings), Metrics())
    await classifier.start()
    try:
        with progress:
            async with aclosing(classifier.classify_many(contents())) as outcomes:
                async for outcome in outcomes:
                    name = under_way.popleft()
                    if isinstance(outcome, PictureError | OSError):
                        ledger.refuse(name, reason(outcome))
                    elif isinstance(outcome, Exception):  # the model's failure is no picture's fault
                        raise CannotScore(f"the model failed at {name}: {outcome.__cause__ or outcome}") from outcome
                    else:
                        ledger.add(Scored(name, outcome.probabilities))
                    progress.advance(progress.task_ids[0])
    finally:
        await classifier.close()


def _report(ledger: Ledger, out: Path, console: Console) -> int:
    """Show the problems and write all of them beside the table; returns how many there are."""
    beside = out.with_name(f"{out.name}.problems.jsonl")
    beside.unlink(missing_ok=True)
    count = sum(1 for _ in ledger.problems())
    if count:
        with replacing(beside) as file:
            for path, reason in ledger.problems():
                file.write(orjson.dumps({"path": path, "reason": reason}, option=orjson.OPT_APPEND_NEWLINE))
        console.print(f"{count} could not be scored (listed in {escape(str(beside))}):", soft_wrap=True)
        for path, reason in islice(ledger.problems(), PROBLEMS_SHOWN):
            console.print(f"  {escape(path)}: {escape(reason)}", soft_wrap=True)
        if count > PROBLEMS_SHOWN:
            console.print(f"  … and {count - PROBLEMS_SHOWN} more")
    return count
