"""A local scoring run: the pictures of a folder, classified in this process into a table, and resumable at any time.

Memory use does not grow with the folder.
"""

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from itertools import islice
from pathlib import Path

import orjson
from rich.console import Console
from rich.markup import escape

from model.atomic_file import replacing
from model.image import PictureError
from service.concurrency.thread_pools import PICTURES
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.scoring.checkpoint import Checkpoint
from service.scoring.image_files import SUFFIXES, Skipped, error_reason, escaped_name, find_pictures, read_pictures
from service.scoring.progress import PROBLEMS_SHOWN, print_problems, print_summary, progress_bar
from service.scoring.tables import (
    Columns,
    DecisionColumns,
    ScoredPicture,
    ScoringError,
    check_table_path,
    read_table,
    write_table,
)
from service.telemetry.metrics import Metrics

#: Files read in one call of the thread pool: handing over each of them alone takes as long as decoding a small picture.
FILES_AT_ONCE = 16


def score_folder(folder: Path, out: Path, session: Session, options: InferenceOptions, console: Console) -> int:
    """Score the pictures of a folder that are not in its table yet; returns how many could not be scored.

    Raises:
        ScoringError: no such folder, no pictures, another model's table, another run is active, or the model failed.
            Pictures scored until then are kept.
        OSError, sqlite3.Error: the disk is full, or similar.
    """
    check_table_path(out)
    for needed in (folder, out.parent):
        if not needed.is_dir():
            raise ScoringError(f"{needed}: not a folder")
    manifest = session.manifest
    columns = Columns.of(manifest, options.review_classes)

    def previous_rows() -> Iterator[ScoredPicture]:
        return read_table(out, columns) if out.exists() else iter(())

    skipped = Skipped()
    with Checkpoint(checkpoint_path(out), columns, previous_rows) as checkpoint:
        before = len(checkpoint)
        total = _count_missing(folder, checkpoint, skipped, console)
        if total:
            asyncio.run(_score_missing(folder, checkpoint, session, options, console, total))
        if len(checkpoint) > before or not out.exists():
            write_table(out, columns, checkpoint.rows())
        problems = _report_problems(checkpoint, out, console)
        count = len(checkpoint)
    print_summary(console, str(out), count, count - before, skipped)
    return problems


def checkpoint_path(out: Path) -> Path:
    """The checkpoint of a table's run."""
    return out.with_name(f"{out.name}.partial")


async def classify_files(
    classifier: Classifier, files: Iterable[tuple[str, Path]], max_image_bytes: int
) -> AsyncGenerator[tuple[str, Answer | Exception], None]:
    """Start a classifier, classify pictures in their order, and close it; yields each name with its answer or error.

    Args:
        files: name and path of each picture.
    """
    names: deque[str] = deque()

    async def contents() -> AsyncIterator[bytes | Exception]:
        left = iter(files)
        while group := list(islice(left, FILES_AT_ONCE)):
            names.extend(name for name, _ in group)
            for content in await PICTURES.run(read_pictures, [path for _, path in group], max_image_bytes):
                yield content

    await classifier.start()
    try:
        async with aclosing(classifier.classify_many(contents())) as outcomes:
            async for outcome in outcomes:
                yield names.popleft(), outcome
    finally:
        await classifier.close()


def _count_missing(folder: Path, checkpoint: Checkpoint, skipped: Skipped, console: Console) -> int:
    def unreadable(error: OSError) -> None:
        name = escaped_name(os.path.relpath(error.filename, folder))
        checkpoint.add_problem(name, f"a folder: {error_reason(error)}")

    with console.status(f"listing the pictures in {escape(str(folder))}"):
        found = Counter(name in checkpoint for name, _ in find_pictures(folder, unreadable, skipped))
    if not found and not len(checkpoint):
        note = f"; {skipped}" if skipped else ""
        raise ScoringError(f"{folder}: holds no pictures ({' '.join(SUFFIXES)}){note}")
    if gone := len(checkpoint) - found[True]:
        console.print(f"kept {gone} rows of the table without a picture in {escape(str(folder))}", soft_wrap=True)
    return found[False]


async def _score_missing(
    folder: Path, checkpoint: Checkpoint, session: Session, options: InferenceOptions, console: Console, total: int
) -> None:
    missing = ((name, path) for name, path in find_pictures(folder) if name not in checkpoint)
    classifier = Classifier(session, options, Metrics())
    with progress_bar(console, total) as progress:
        async with aclosing(classify_files(classifier, missing, options.max_image_bytes)) as outcomes:
            async for name, outcome in outcomes:
                if isinstance(outcome, PictureError | OSError):
                    checkpoint.add_problem(name, error_reason(outcome))
                elif isinstance(outcome, Exception):
                    raise ScoringError(f"the model failed at {name}: {outcome.__cause__ or outcome}") from outcome
                else:
                    checkpoint.add(ScoredPicture(name, outcome.probabilities, DecisionColumns.of(outcome.assessment)))
                progress.advance(progress.task_ids[0])


def _report_problems(checkpoint: Checkpoint, out: Path, console: Console) -> int:
    """Print the first problems and write all of them beside the table; returns how many there are."""
    path = out.with_name(f"{out.name}.problems.jsonl")
    path.unlink(missing_ok=True)
    count = sum(1 for _ in checkpoint.problems())
    if count:
        with replacing(path) as file:
            for name, reason in checkpoint.problems():
                file.write(orjson.dumps({"path": name, "reason": reason}, option=orjson.OPT_APPEND_NEWLINE))
    print_problems(console, count, list(islice(checkpoint.problems(), PROBLEMS_SHOWN)), f"listed in {path}")
    return count
