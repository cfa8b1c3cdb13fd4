"""One part from its entries to its file, by the way that every picture takes. The same on any machine, at any time.

Knows `service.inference.classifier`, readers and results. Knows no Ray: an actor calls it, a test may too.
"""

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
from service.scoring.ray import output
from service.scoring.ray.errors import CannotScore
from service.scoring.ray.plan import Listing, Plan
from service.scoring.ray.reader import Content, Unreadable, blocks
from service.scoring.ray.store import Folder, opened_store
from service.scoring.tables import Columns, Refused, Scored
from service.telemetry.metrics import Metrics

PROBLEMS_TOLD = 20
T = TypeVar("T")


class Fault(StrEnum):
    """What stopped a part: whoever hands out parts decides by it whether to try again."""

    MODEL = "model"
    STORE = "store"
    DEATH = "death"


@dataclass(frozen=True, slots=True)
class Failed:
    """A part, or a start, that came to nothing, and why, in a sentence."""

    fault: Fault
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """A part whose file is there; of its problems the first few, as key and reason."""

    pictures: int
    problems: int = 0
    some: list[tuple[str, str]] = field(default_factory=list)


class PartScorer:
    """Scores parts of one plan with one session, several at a time on one event loop."""

    def __init__(self, plan: Plan, out: str, session: Session, options: InferenceOptions) -> None:
        manifest = session.manifest
        self._plan, self._options = plan, options
        self._out = Folder(out)
        self._listing = Listing(self._out)
        self._columns = Columns(manifest.codes, manifest.sha256, manifest.unsupported, problems=True)
        self._classifier = Classifier(session, options, Metrics())
        self._store_of = lru_cache(maxsize=None)(lambda source: opened_store(plan.inputs[source])[0])

    async def start(self) -> None:
        """Warm up, so that no part pays for it."""
        await self._classifier.start()

    async def close(self) -> None:
        """End what is under way."""
        await self._classifier.close()

    async def score(self, part: int, *, last: bool) -> Done | Failed:
        """Score one part and place its file.

        Args:
            last: nobody will try again, so a picture that its store does not give gets a row that says so
        """
        try:
            entries = await PICTURES.run(self._listing.part, part)
            reader = blocks(entries, self._store_of, self._plan.image_column, self._options.max_image_bytes)
            rows: list[Scored | Refused] = []
            unreadable = 0
            async with aclosing(self._classifier.classify_many(_each(reader))) as outcomes:
                async for outcome in outcomes:
                    key = entries[len(rows)].key
                    if isinstance(outcome, Unreadable) and not outcome.permanent:
                        unreadable += 1
                        if not last or unreadable == len(entries):  # not the pictures' fault: the store is away
                            return Failed(Fault.STORE, f"{key}: {outcome}")
                    if isinstance(outcome, Exception) and not isinstance(outcome, PictureError | Unreadable):
                        return Failed(Fault.MODEL, f"the model failed at {key}: {outcome.__cause__ or outcome}")
                    rows.append(_row(key, outcome))
            return await PICTURES.run(self._kept, part, rows)
        except CannotScore as error:
            return Failed(Fault.STORE, str(error))

    def _kept(self, part: int, rows: list[Scored | Refused]) -> Done:
        refused = [(row.path, row.reason) for row in rows if isinstance(row, Refused)]
        output.write(self._out, self._plan, part, self._columns, rows, len(refused))
        return Done(len(rows), len(refused), refused[:PROBLEMS_TOLD])


def _row(key: str, outcome: Answer | Exception) -> Scored | Refused:
    if isinstance(outcome, PictureError):
        return Refused(key, outcome.reason)
    if isinstance(outcome, Exception):
        return Refused(key, str(outcome))
    return Scored(key, outcome.probabilities.copy())  # a row of its batch's, which would be kept with it


async def _each(reader: Iterator[list[Content]]) -> AsyncIterator[Content]:
    """Content by content, while the next block is being read."""
    upcoming = _next(reader)
    try:
        while (block := await upcoming) is not None:
            upcoming = _next(reader)
            for content in block:
                yield content
    finally:
        await asyncio.gather(upcoming, return_exceptions=True)  # a thread is still in it


def _next(reader: Iterator[T]) -> "asyncio.Future[T | None]":
    ended: Any = None
    return asyncio.ensure_future(PICTURES.run(next, reader, ended))
