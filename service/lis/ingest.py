"""Ingest: turns pictures sent to a specimen into classified cells, and stages the pictures.

Pictures that the specimen already has are recognised by their hash and not classified again. The cells are written
afterwards, in one transaction (`UseCases.add`); then the staged pictures are settled.
"""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from service.api.responses import ResponseOptions, reading
from service.api.uploads.archives import Upload
from service.concurrency.thread_pools import PICTURES
from service.errors import MalformedBody
from service.inference.classifier import Classifier
from service.inference.heatmaps import MapFormat, MapKind
from service.inference.pipeline import Answer
from service.lis.domain.differential import ClassifiedCell
from service.lis.picture_store import PictureStore

#: Most probable classes stored with a cell.
_TOP = 5
#: Files stored for a picture: the picture itself, and the evidence for the suggested class drawn over it.
PICTURE, OVERLAY = "picture", "overlay"


#: Time limit for storing one picture.
STORE_S = 30.0
#: Characters of a client's own name for a picture.
MAX_KEY = 200


def _is_key(name: str) -> bool:
    return len(name) <= MAX_KEY and name.isprintable()


@dataclass(slots=True)
class Ingest:
    """The pictures of one request.

    Args:
        known: hashes of the pictures that the specimen has.
        staged: filled with the staged pictures.
        draw: also store the evidence overlay.
        by_name: whether a picture's file name is its key.
    """

    classifier: Classifier
    known: set[str]
    picture_store: PictureStore | None
    staged: list[Path]
    draw: bool
    by_name: bool
    timeout_s: float
    _results: list[ClassifiedCell | Exception | None] = field(default_factory=list)
    _names: list[str | None] = field(default_factory=list)
    _pending: list[tuple[int, str, bytes, Callable[[], None]]] = field(default_factory=list)

    async def run(self, uploads: AsyncIterator[Upload]) -> list[tuple[str | None, ClassifiedCell | Exception]]:
        """File name and cell, or error, of each picture, in the order sent."""
        answers = self.classifier.classify_many(self._unknown(uploads), timeout_s=self.timeout_s)
        async with aclosing(answers) as outcomes:
            async for outcome in outcomes:
                index, digest, data, release = self._pending.pop(0)
                self._results[index] = await self._outcome(index, digest, data, outcome)
                release()
        assert None not in self._results, "classify_many answers every picture"
        return list(zip(self._names, (each for each in self._results if each is not None), strict=True))

    async def _unknown(self, uploads: AsyncIterator[Upload]) -> AsyncIterator[bytes]:
        async for upload in uploads:
            index = len(self._results)
            self._names.append(upload.name)
            if isinstance(upload.content, Exception):
                self._results.append(upload.content)
                continue
            if self.by_name and upload.name is not None and not _is_key(upload.name):
                self._results.append(
                    MalformedBody(f"invalid file name for a key: use 1 to {MAX_KEY} printable characters")
                )
                upload.release()
                continue
            digest = sha256(upload.content).hexdigest()
            if digest in self.known:
                if self.picture_store is not None:
                    with suppress(OSError):  # its retention starts again, if possible
                        async with asyncio.timeout(STORE_S):
                            await PICTURES.run(self._stage, self.picture_store, digest, upload.content, PICTURE)
                self._results.append(ClassifiedCell(digest, self._key(index), None))
                upload.release()
                continue
            self._results.append(None)
            self._pending.append((index, digest, upload.content, upload.release))
            yield upload.content

    async def _outcome(
        self, index: int, digest: str, data: bytes, outcome: Answer | Exception
    ) -> ClassifiedCell | Exception:
        if isinstance(outcome, Exception):
            return outcome
        wanted = ResponseOptions(maps=[MapKind.NONE], top_k=_TOP)
        found = reading(outcome, self.classifier.manifest, wanted)
        if self.picture_store is not None:
            try:
                async with asyncio.timeout(STORE_S):  # TimeoutError is an OSError
                    await PICTURES.run(self._store, self.picture_store, digest, data, outcome)
            except OSError as error:
                return error
        return ClassifiedCell(
            digest,
            self._key(index),
            tuple((each.code, each.probability) for each in found.top),
            found.decision,
            tuple(found.reasons or ()),
            tuple(found.prediction.set or ()),
        )

    def _store(self, picture_store: PictureStore, digest: str, data: bytes, answer: Answer) -> None:
        self._stage(picture_store, digest, data, PICTURE)
        if self.draw:
            wanted = ResponseOptions(maps=[MapKind.EVIDENCE], map_format=MapFormat.OVERLAY, top_k=1)
            [evidence] = reading(answer, self.classifier.manifest, wanted).evidence or []
            self._stage(picture_store, digest, b64decode(evidence.png or ""), OVERLAY)

    def _stage(self, picture_store: PictureStore, digest: str, data: bytes, kind: str) -> None:
        self.staged.append(picture_store.stage(digest, data, kind))

    def _key(self, index: int) -> str | None:
        return self._names[index] if self.by_name else None
