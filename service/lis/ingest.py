"""Pictures on their way into a specimen: each is recognised if it is there already, classified if it is not.

Knows which pictures need the model. Does not know HTTP; writes nothing but the pictures that the laboratory keeps. The
cells themselves are written in one transaction afterwards (`Desk.add`).
"""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from hashlib import sha256

from service.api.responses import ResponseOptions, reading
from service.api.uploads.archives import Upload
from service.concurrency.thread_pools import PICTURES
from service.errors import MalformedBody
from service.inference.classifier import Classifier
from service.inference.heatmaps import MapFormat, MapKind
from service.inference.pipeline import Answer
from service.lis.domain.differential import SentCell, Suggestion
from service.lis.picture_store import KeptPictures

#: How many of the most probable classes are written down with a cell.
_TOP = 5
#: What is kept under a picture's hash: the picture, and its evidence for the suggested class drawn over it.
PICTURE, OVERLAY = "picture", "overlay"


#: How long the disk is waited for that keeps a picture.
KEEP_S = 30.0
#: Of a client's own name for a picture.
MAX_KEY = 200


def _is_key(name: str) -> bool:
    return len(name) <= MAX_KEY and name.isprintable()


@dataclass(slots=True)
class Adding:
    """One request's pictures. `known` are the hashes of those that the specimen has.

    Args:
        by_name: whether the name that a picture was sent under is its key.
    """

    classifier: Classifier
    known: set[str]
    kept: KeptPictures | None
    draw: bool
    by_name: bool
    timeout_s: float
    _sent: list[SentCell | Exception | None] = field(default_factory=list)
    _names: list[str | None] = field(default_factory=list)
    _asked: list[tuple[int, str, bytes, Callable[[], None]]] = field(default_factory=list)

    async def run(self, uploads: AsyncIterator[Upload]) -> list[tuple[str | None, SentCell | Exception]]:
        """The name of every picture, with its cell or why there is none, in the order sent."""
        answers = self.classifier.classify_many(self._unknown(uploads), timeout_s=self.timeout_s)
        async with aclosing(answers) as outcomes:
            async for outcome in outcomes:
                index, digest, data, settled = self._asked.pop(0)
                self._sent[index] = await self._settled(index, digest, data, outcome)
                settled()
        assert None not in self._sent, "classify_many answers every picture that it took"
        return list(zip(self._names, (each for each in self._sent if each is not None), strict=True))

    async def _unknown(self, uploads: AsyncIterator[Upload]) -> AsyncIterator[bytes]:
        async for upload in uploads:
            index = len(self._sent)
            self._names.append(upload.name)
            if isinstance(upload.content, Exception):
                self._sent.append(upload.content)
                continue
            if self.by_name and upload.name is not None and not _is_key(upload.name):
                self._sent.append(MalformedBody(f"its name is no key: 1 to {MAX_KEY} characters, none of control"))
                upload.release()
                continue
            digest = sha256(upload.content).hexdigest()
            if digest in self.known:
                if self.kept is not None:
                    with suppress(OSError):  # its days begin anew, if they can
                        async with asyncio.timeout(KEEP_S):
                            await PICTURES.run(self.kept.put, digest, upload.content, PICTURE)
                self._sent.append(SentCell(digest, self._key(index), None))
                upload.release()
                continue
            self._sent.append(None)
            self._asked.append((index, digest, upload.content, upload.release))
            yield upload.content

    async def _settled(self, index: int, digest: str, data: bytes, outcome: Answer | Exception) -> SentCell | Exception:
        if isinstance(outcome, Exception):
            return outcome
        wanted = ResponseOptions(maps=[MapKind.NONE], top_k=_TOP)
        found = reading(outcome, self.classifier.manifest, wanted)
        if self.kept is not None:
            try:
                async with asyncio.timeout(KEEP_S):  # TimeoutError is an OSError
                    await PICTURES.run(self._keep, self.kept, digest, data, outcome)
            except OSError as error:
                return error
        return SentCell(
            digest, self._key(index), Suggestion(tuple((each.code, each.probability) for each in found.top))
        )

    def _keep(self, kept: KeptPictures, digest: str, data: bytes, answer: Answer) -> None:
        kept.put(digest, data, PICTURE)
        if self.draw:
            wanted = ResponseOptions(maps=[MapKind.EVIDENCE], map_format=MapFormat.OVERLAY, top_k=1)
            [evidence] = reading(answer, self.classifier.manifest, wanted).evidence or []
            kept.put(digest, b64decode(evidence.png or ""), OVERLAY)

    def _key(self, index: int) -> str | None:
        return self._names[index] if self.by_name else None
