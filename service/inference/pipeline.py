"""The batcher's work on pictures: decode each, collect a batch in one array, run the session on it."""

import time
from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest
from model.image import decode
from model.trust.decision import Assessment, Assessor
from service.config.settings import parse_classes
from service.inference.batching.batch_queue import Block
from service.inference.drift_window import DriftWindow
from service.runtime.loader import InferenceOptions
from service.runtime.session import Outputs, Session
from service.telemetry.metrics import Metrics

Pixels = NDArray[np.uint8]  # (S, S, 3) RGB
PictureData = bytes | Pixels  # an encoded picture, or its decoded and resized pixels
#: Providers that compile a plan, graph or engine profile for each batch size.
GPUS = ("cuda", "tensorrt")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The outputs of the contract for one picture, and the pixels that the model received.

    The arrays are views of the whole batch's: copy what is kept for long.
    """

    probabilities: NDArray[np.float32]  # (C,)
    logits: NDArray[np.float32]  # (C,)
    attention: NDArray[np.float32] | None  # (K, h, w); None if the model has no attention maps
    evidence: NDArray[np.float32]  # (C, h, w)
    embedding: NDArray[np.float32]  # (D,)
    picture: Pixels
    assessment: Assessment | None = None  # None if the manifest has no `trust`


class PicturePipeline:
    """The batcher's `prepare`, `new_block` and `run` for one session."""

    def __init__(
        self, session: Session, options: InferenceOptions, metrics: Metrics, drift: DriftWindow | None = None
    ) -> None:
        self.manifest = session.manifest
        self._session = session
        self._max_pixels = options.max_pixels
        self._metrics = metrics
        self._drift = drift
        self._assessor = _assessor(session.manifest, parse_classes(options.review_classes))
        self._padded = options.pad_batches if options.pad_batches is not None else session.provider in GPUS
        # A CPU computes padding as slowly as pictures, so batches are not padded there.
        self._sizes = options.batch_sizes if self._padded else tuple(range(1, options.max_batch_size + 1))

    def decode(self, data: PictureData) -> Pixels:
        """Pixels (S, S, 3) of an encoded picture; decoded pixels are returned unchanged."""
        if not isinstance(data, bytes):
            return data
        began = time.perf_counter()
        try:
            return decode(data, self.manifest.preprocessing.input_size, max_pixels=self._max_pixels)
        finally:
            self._metrics.decoded(time.perf_counter() - began)

    def new_block(self) -> Pixels:
        """Zeros (N, S, S, 3) for a batch of the largest size, so that padding never shows another picture."""
        size = self.manifest.preprocessing.input_size
        return np.zeros((self._sizes[-1], size, size, 3), np.uint8)

    def run(self, block: Block[Pixels], count: int) -> list[Answer]:
        """One answer for each of the first `count` pictures of a block."""
        pictures = np.asarray(block)  # the array of `new_block`, without a copy
        size = self._sizes[bisect_left(self._sizes, count)]
        self._metrics.padded(size - count)
        outputs = self._session.run(pictures[:size])
        if self._drift is not None:
            self._drift.add(outputs.embedding[:count], outputs.probabilities[:count], pictures[:count])
        assessments = self._assess(outputs, pictures, count)
        columns = (column[:count] if column is not None else repeat(None, count) for column in outputs)
        return [Answer(*rows) for rows in zip(*columns, pictures[:count], assessments, strict=True)]

    def _assess(self, outputs: Outputs, pictures: Pixels, count: int) -> Iterable[Assessment | None]:
        if self._assessor is None:
            return repeat(None, count)
        found = self._assessor.assess(outputs.probabilities[:count], outputs.embedding[:count], pictures[:count])
        for assessment in found:
            self._metrics.decided(assessment.decision)
        return found

    def warm_up(self) -> None:
        """Run every batch size that is compiled; without padding, the smallest and the largest."""
        block = self.new_block()
        for size in self._sizes if self._padded else {1, self._sizes[-1]}:
            self._session.run(block[:size])


def _assessor(manifest: Manifest, review_classes: Collection[str]) -> Assessor | None:
    if manifest.trust is None:
        return None
    return Assessor(manifest.trust, manifest.codes, manifest.unsupported, review_classes)
