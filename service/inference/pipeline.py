"""What the batcher's threads do for pictures: decode each, hold a batch in one array, and call the session with it.

Knows pictures, arrays and batch sizes. Knows no event loop, no callers and no queue.
"""

import time
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.image import decode
from service.inference.batching.batch_queue import Block
from service.inference.drift_window import DriftWindow
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.telemetry.metrics import Metrics

Picture = NDArray[np.uint8]  # (S, S, 3) RGB
Data = bytes | Picture  # a picture as it was sent, or decoded already
#: Providers that keep a plan, a graph or an engine profile for each batch size.
GPUS = ("cuda", "tensorrt")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the model says of one picture: the outputs of the contract, and the picture as the model saw it.

    The arrays are rows of their batch's: copy what is kept for long.
    """

    probabilities: NDArray[np.float32]  # (C,)
    logits: NDArray[np.float32]  # (C,)
    attention: NDArray[np.float32]  # (K, h, w)
    evidence: NDArray[np.float32]  # (C, h, w)
    embedding: NDArray[np.float32]  # (D,)
    picture: Picture


class PictureBatches:
    """The batcher's `prepare`, `new_block` and `run` for one session."""

    def __init__(
        self, session: Session, options: InferenceOptions, metrics: Metrics, drift: DriftWindow | None = None
    ) -> None:
        self.manifest = session.manifest
        self._session = session
        self._max_pixels = options.max_pixels
        self._metrics = metrics
        self._drift = drift
        self._padded = options.pad_batches if options.pad_batches is not None else session.provider in GPUS
        # A CPU pays for every picture, empty or not.
        self._sizes = options.batch_sizes if self._padded else tuple(range(1, options.max_batch_size + 1))

    def decode(self, data: Data) -> Picture:
        """(S, S, 3) of an encoded picture; one that is decoded already stays as it is."""
        if not isinstance(data, bytes):
            return data
        began = time.perf_counter()
        try:
            return decode(data, self.manifest.preprocessing.input_size, max_pixels=self._max_pixels)
        finally:
            self._metrics.decoded(time.perf_counter() - began)

    def new_block(self) -> Picture:
        """(N, S, S, 3) for one batch of the largest size. Zeros: the places of padding hold nobody's picture."""
        size = self.manifest.preprocessing.input_size
        return np.zeros((self._sizes[-1], size, size, 3), np.uint8)

    def run(self, block: Block[Picture], count: int) -> list[Answer]:
        """One answer for each of the first `count` pictures of a block."""
        pictures = np.asarray(block)  # the very array of `new_block`: nothing is copied
        size = self._sizes[bisect_left(self._sizes, count)]
        self._metrics.padded(size - count)
        outputs = self._session.run(pictures[:size])
        if self._drift is not None:
            self._drift.add(outputs.embedding[:count], outputs.probabilities[:count], pictures[:count])
        return [Answer(*rows) for rows in zip(*outputs, pictures[:size], strict=True)][:count]

    def warm_up(self) -> None:
        """Call the session with every size that is planned for; where no size is, with the smallest and the largest."""
        block = self.new_block()
        for size in self._sizes if self._padded else {1, self._sizes[-1]}:
            self._session.run(block[:size])
