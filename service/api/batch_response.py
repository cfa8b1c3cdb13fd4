"""The response to one batch: an item with a result or a problem for each picture, in order, then the count."""

import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from model.trust.decision import Decision
from service.api.problems import INTERNAL_ERROR, problem, problem_type_of
from service.api.responses import BatchOptions, differential_count, model_identity, reading_in_thread
from service.api.schemas import BatchItem, BatchSummary, DecisionCounts, json_of
from service.api.uploads.archives import Upload
from service.concurrency.thread_pools import BODIES
from service.errors import ServiceError
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class BatchResponse:
    """Builds the response to one batch request. Read `items` to the end before you call `summary`."""

    classifier: Classifier
    options: BatchOptions
    request_id: str
    count_other: bool
    timeout_s: float
    codes: Counter[str] = field(default_factory=Counter)
    decisions: Counter[Decision] = field(default_factory=Counter)
    problems: int = 0
    _in_progress: deque[tuple[str | None, Callable[[], None]]] = field(default_factory=deque)

    @property
    def answered(self) -> int:
        """Pictures that have their item, a result or a problem."""
        return self.codes.total() + self.problems

    async def items(self, uploads: AsyncIterator[Upload]) -> AsyncGenerator[bytes, None]:
        """One JSON document (`BatchItem`) for each picture, in the order sent."""
        contents = self._contents(uploads)
        async with aclosing(self.classifier.classify_many(contents, timeout_s=self.timeout_s)) as outcomes:
            async for outcome in outcomes:
                yield await self._item(outcome)

    async def summary(self) -> BatchSummary:
        """The summary of all answered pictures, with their differential count."""
        if self.options.corrected:
            return await BODIES.run(self._summary)
        return self._summary()

    def _summary(self) -> BatchSummary:
        manifest = self.classifier.manifest
        found = differential_count(
            self.codes,
            manifest,
            problems=self.problems,
            count_other=self.count_other,
            corrected=self.options.corrected,
        )
        return BatchSummary(
            request_id=self.request_id,
            model=model_identity(manifest),
            pictures=self.answered,
            problems=self.problems,
            differential=found,
            decisions=None if manifest.trust is None else DecisionCounts.model_validate(self.decisions),
        )

    def last_item(self, error: ServiceError) -> bytes:
        """The item of an error that ended the request, in the place of the next picture."""
        self.problems += 1
        return self._problem(self.answered - 1, None, error).json_bytes()

    async def document(self, items: Sequence[bytes]) -> list[bytes]:
        """The whole batch as one JSON document (`BatchAnswer`), in chunks."""
        chunks = [(await self.summary()).json_bytes().removesuffix(b"}"), b',"results":[']
        for index, item in enumerate(items):
            chunks += [b",", item] if index else [item]
        return [*chunks, b"]}"]

    async def _contents(self, uploads: AsyncIterator[Upload]) -> AsyncIterator[bytes | Exception]:
        async for upload in uploads:
            self._in_progress.append((upload.name, upload.release))
            yield upload.content

    async def _item(self, outcome: Answer | Exception) -> bytes:
        index, (name, release) = self.answered, self._in_progress.popleft()
        release()
        if isinstance(outcome, Exception):
            self.problems += 1
            return self._problem(index, name, outcome).json_bytes()
        found = await reading_in_thread(outcome, self.classifier.manifest, self.options)
        self.codes[found["prediction"]["code"]] += 1
        if outcome.assessment is not None:
            self.decisions[outcome.assessment.decision] += 1
        item = {"index": index, "result": found} if name is None else {"index": index, "name": name, "result": found}
        return json_of(item)

    def _problem(self, index: int, name: str | None, error: Exception) -> BatchItem:
        if problem_type_of(error) is INTERNAL_ERROR:
            log.error("item %d of request %s failed", index, self.request_id, exc_info=error)
        return BatchItem(index=index, name=name, problem=problem(error, self.request_id))
