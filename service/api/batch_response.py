"""One batch on its way: pictures in, one result or one problem out for each, in order, and the count at the end.

Knows the order of items and what is tallied. Does not know bodies (`service.api.uploads.body`) nor how items are sent.
"""

import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from service.api.problems import UNEXPECTED, kind_of, problem
from service.api.responses import Wanted, differential_count, identity, reading_aside
from service.api.schemas import BatchItem, BatchSummary
from service.api.uploads.archives import Upload
from service.errors import ServiceError
from service.inference.classifier import Classifier
from service.inference.differential import differential
from service.inference.pipeline import Answer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Bulk:
    """One batch request. `items` must be exhausted before `summary` is true."""

    classifier: Classifier
    wanted: Wanted
    request_id: str
    count_other: bool
    timeout_s: float
    codes: Counter[str] = field(default_factory=Counter)
    problems: int = 0
    _sent: deque[tuple[str | None, Callable[[], None]]] = field(default_factory=deque)

    @property
    def answered(self) -> int:
        """Pictures that have their item, a result or a problem."""
        return self.codes.total() + self.problems

    async def items(self, uploads: AsyncIterator[Upload]) -> AsyncGenerator[bytes, None]:
        """One JSON document a picture (`BatchItem`), in the order in which they were sent."""
        contents = self._contents(uploads)
        async with aclosing(self.classifier.classify_many(contents, timeout_s=self.timeout_s)) as outcomes:
            async for outcome in outcomes:
                yield await self._item(outcome)

    def summary(self) -> BatchSummary:
        """The count of what was answered."""
        manifest = self.classifier.manifest
        count = differential(
            self.codes,
            manifest.classes,
            unsupported=manifest.unsupported,
            problems=self.problems,
            count_other=self.count_other,
        )
        return BatchSummary(
            request_id=self.request_id,
            model=identity(manifest),
            pictures=self.answered,
            problems=self.problems,
            differential=differential_count(count, manifest, count_other=self.count_other),
        )

    def ended(self, error: ServiceError) -> bytes:
        """The item of what broke the request off: it stands where the next picture's would."""
        self.problems += 1
        return self._refused(self.answered - 1, None, error).json_bytes()

    def document(self, items: Sequence[bytes]) -> list[bytes]:
        """The whole batch as one JSON document (`BatchAnswer`), in chunks: the items, and what stands around them."""
        chunks = [self.summary().json_bytes().removesuffix(b"}"), b',"results":[']
        for index, item in enumerate(items):
            chunks += [b",", item] if index else [item]
        return [*chunks, b"]}"]

    async def _contents(self, uploads: AsyncIterator[Upload]) -> AsyncIterator[bytes | Exception]:
        async for upload in uploads:
            self._sent.append((upload.name, upload.settled))
            yield upload.content

    async def _item(self, outcome: Answer | Exception) -> bytes:
        index, (name, settled) = self.answered, self._sent.popleft()
        settled()
        if isinstance(outcome, Exception):
            self.problems += 1
            return self._refused(index, name, outcome).json_bytes()
        found = await reading_aside(outcome, self.classifier.manifest, self.wanted)
        self.codes[found.prediction.code] += 1
        return BatchItem(index=index, name=name, result=found).json_bytes()

    def _refused(self, index: int, name: str | None, error: Exception) -> BatchItem:
        if kind_of(error) is UNEXPECTED:
            log.error("item %d of request %s failed", index, self.request_id, exc_info=error)
        return BatchItem(index=index, name=name, problem=problem(error, self.request_id))
