"""Input drift of the last pictures while serving, kept as sums of features.

Each tenth of the window is one sum, so single pictures are not stored. Fewer than 16 pictures wait to be measured, at
most until the window is read.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.drift.distance import DriftMeasurement, DriftMeter, FeatureSums
from model.drift.features import Embeddings, Pictures, features
from model.drift.reference import DriftReference

#: The window moves on by one part at a time.
PARTS = 10
#: Pictures are measured in groups of at least this size: for a single one, numpy's calls cost ten times the arithmetic.
GROUP_SIZE = 16


@dataclass(frozen=True, slots=True)
class DriftState:
    """What the window says: its distances, how often each class was predicted, and the reference."""

    measurement: DriftMeasurement
    counts: Mapping[str, int]
    reference: DriftReference


class DriftWindow:
    """A sliding window over the last pictures: 90 to 100 % of `pictures`, since it moves on in tenths. Thread-safe."""

    def __init__(self, reference: DriftReference, pictures: int) -> None:
        self._meter = DriftMeter(reference)
        self._centre, self._basis = reference.centre, reference.basis()
        self._part_pictures = pictures / PARTS
        self._lock = threading.Lock()  # guards everything below
        self._parts: deque[FeatureSums] = deque([self._empty()], maxlen=PARTS)
        self._pending: list[tuple[Embeddings, NDArray[np.float32], Pictures]] = []

    def add(self, embeddings: Embeddings, probabilities: NDArray[np.float32], pictures: Pictures) -> None:
        """Add the pictures of one batch and the model's outputs for them. Cost: docs/drift.md.

        Args:
            embeddings: (N, D).
            probabilities: (N, C).
            pictures: (N, S, S, 3), as the model received them.
        """
        if len(pictures) >= GROUP_SIZE:
            self._measure(embeddings, probabilities, pictures)
            return
        with self._lock:
            # Copies, because the arrays are views that would keep the whole batch in memory.
            self._pending.append((embeddings.copy(), probabilities.copy(), pictures.copy()))
            enough = sum(len(group[2]) for group in self._pending) >= GROUP_SIZE
        if enough:
            self._measure_pending()

    def sums(self) -> FeatureSums:
        """The sums of the window."""
        window = self._empty()
        self._measure_pending()
        with self._lock:
            for part in self._parts:
                window += part
        return window

    def state(self, others: Iterable[FeatureSums] = ()) -> DriftState:
        """As `measure`, with the classes of the window."""
        window = self._sum(others)
        codes = self._meter.reference.class_pictures
        counts = {code: int(count) for code, count in zip(codes, window.counts, strict=True)}
        return DriftState(self._meter.measure(window), counts, self._meter.reference)

    def measure(self, others: Iterable[FeatureSums] = ()) -> DriftMeasurement:
        """The distances of the window, and of those of other workers, from the reference."""
        return self._meter.measure(self._sum(others))

    def _sum(self, others: Iterable[FeatureSums]) -> FeatureSums:
        window = self.sums()
        for other in others:
            window += other
        return window

    def _measure_pending(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
        if pending:
            embeddings, probabilities, pictures = zip(*pending, strict=True)
            self._measure(np.concatenate(embeddings), np.concatenate(probabilities), np.concatenate(pictures))

    def _measure(self, embeddings: Embeddings, probabilities: NDArray[np.float32], pictures: Pictures) -> None:
        rows = features(embeddings, pictures, self._centre, self._basis)  # outside the lock, which others wait for
        predicted = probabilities.argmax(axis=1)
        with self._lock:
            self._parts[-1].add(predicted, rows)
            if self._parts[-1].counts.sum() >= self._part_pictures:
                self._parts.append(self._empty())

    def _empty(self) -> FeatureSums:
        return FeatureSums.empty(*self._meter.size)
