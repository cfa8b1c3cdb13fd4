"""Scores one part of a plan with one session and writes its file. Runs in an actor, or without Ray in a test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from model.image import PictureError
from service.concurrency.thread_pools import PICTURES
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.scoring.progress import PROBLEMS_SHOWN
from service.scoring.ray import output
from service.scoring.ray.plan import Plan, PlanEntries
from service.scoring.ray.reader import Content, UnreadablePicture, read_blocks
from service.scoring.ray.store import OutputFolder, open_store
from service.scoring.tables import Columns, DecisionColumns, FailedPicture, ScoredPicture, ScoringError
from service.telemetry.metrics import Metrics

T = TypeVar("T")


class FailureKind(StrEnum):
    """What failed; the scheduler decides by it whether to retry."""

    MODEL = "model"
    STORE = "store"
    ACTOR_DIED = "death"


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A part that was not scored, or an actor that did not start, and the reason."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True, slots=True)
class ScoredPart:
    """A part with its file written; key and reason of its first problems."""

    pictures: int
    problems: int = 0
    first_problems: list[tuple[str, str]] = field(default_factory=list)


class PartScorer:
    """Scores parts of one plan with one session, several at a time on one event loop."""

    def __init__(self, plan: Plan, out: str, session: Session, options: InferenceOptions) -> None:
        manifest = session.manifest
        self._plan, self._options = plan, options
        self._out = OutputFolder(out)
        self._entries = PlanEntries(self._out)
        self._columns = Columns.of(manifest, options.review_classes, problems=True)
        self._classifier = Classifier(session, options, Metrics())
        self._store_of = lru_cache(maxsize=None)(lambda source: open_store(plan.inputs[source])[0])

    async def start(self) -> None:
        """Start the classifier and warm it up."""
        await self._classifier.start()

    async def close(self) -> None:
        """Stop the classifier."""
        await self._classifier.close()

    async def score(self, part: int, *, last: bool) -> ScoredPart | TaskFailure:
        """Score one part and write its file.

        Args:
            last: whether this is the last attempt: then a picture that the store does not return gets a row with the
                reason.
        """
        try:
            entries = await PICTURES.run(self._entries.part, part)
            blocks = read_blocks(entries, self._store_of, self._plan.image_column, self._options.max_image_bytes)
            rows: list[ScoredPicture | FailedPicture] = []
            unreadable = 0
            async with aclosing(self._classifier.classify_many(_prefetch(blocks))) as outcomes:
                async for outcome in outcomes:
                    key = entries[len(rows)].key
                    if isinstance(outcome, UnreadablePicture) and not outcome.permanent:
                        unreadable += 1
                        if not last or unreadable == len(entries):  # all of them: the store is unavailable
                            return TaskFailure(FailureKind.STORE, f"{key}: {outcome}")
                    if isinstance(outcome, Exception) and not isinstance(outcome, PictureError | UnreadablePicture):
                        reason = f"the model failed at {key}: {outcome.__cause__ or outcome}"
                        return TaskFailure(FailureKind.MODEL, reason)
                    rows.append(_row(key, outcome))
            return await PICTURES.run(self._write, part, rows)
        except ScoringError as error:
            return TaskFailure(FailureKind.STORE, str(error))

    def _write(self, part: int, rows: list[ScoredPicture | FailedPicture]) -> ScoredPart:
        problems = [(row.path, row.reason) for row in rows if isinstance(row, FailedPicture)]
        output.write_part(self._out, self._plan, part, self._columns, rows, len(problems))
        return ScoredPart(len(rows), len(problems), problems[:PROBLEMS_SHOWN])


def _row(key: str, outcome: Answer | Exception) -> ScoredPicture | FailedPicture:
    if isinstance(outcome, PictureError):
        return FailedPicture(key, outcome.reason)
    if isinstance(outcome, Exception):
        return FailedPicture(key, str(outcome))
    # A copy: a view would keep the whole batch in memory.
    return ScoredPicture(key, outcome.probabilities.copy(), DecisionColumns.of(outcome.assessment))


async def _prefetch(blocks: Iterator[list[Content]]) -> AsyncIterator[Content]:
    """The contents of the blocks one by one; the next block is read in the background."""
    upcoming = _read_next(blocks)
    try:
        while (block := await upcoming) is not None:
            upcoming = _read_next(blocks)
            for content in block:
                yield content
    finally:
        await asyncio.gather(upcoming, return_exceptions=True)  # its thread still uses the iterator


def _read_next(blocks: Iterator[T]) -> "asyncio.Future[T | None]":
    end: Any = None
    return asyncio.ensure_future(PICTURES.run(next, blocks, end))
