"""The last pictures that a model has read, as sums: what input drift is measured on while serving.

Knows arrays and one lock. Of a picture it keeps nothing but its part of a sum over a tenth of the window, once it has
been measured: fewer than sixteen wait for that, no longer than until the window is read. Knows no request, no specimen
and no patient.
"""

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from model.drift.distance import Reading, Ruler, Sums
from model.drift.features import Embeddings, Pictures, features
from model.drift.reference import DriftReference

#: The window forgets by tenths.
PARTS = 10
#: Pictures are measured so many at a time: of a lone one, numpy's calls would cost ten times what they compute.
AT_ONCE = 16


class DriftWindow:
    """Between nine tenths and all of the last `pictures`, once there have been so many."""

    def __init__(self, reference: DriftReference, pictures: int) -> None:
        self._ruler = Ruler(reference)
        self._centre, self._basis = reference.centre, reference.basis()
        self._part_pictures = pictures / PARTS
        self._lock = threading.Lock()  # guards what follows
        self._parts: deque[Sums] = deque([self._empty()], maxlen=PARTS)
        self._waiting: list[tuple[Embeddings, NDArray[np.float32], Pictures]] = []

    def add(self, embeddings: Embeddings, probabilities: NDArray[np.float32], pictures: Pictures) -> None:
        """Pictures of one call of the model, and what it made of them. In the model's thread; cost: docs/drift.md.

        Args:
            embeddings: (N, D).
            probabilities: (N, C).
            pictures: (N, S, S, 3), as the model saw them.
        """
        if len(pictures) >= AT_ONCE:
            self._measure(embeddings, probabilities, pictures)
            return
        with self._lock:
            # Copies: the arrays are views of a whole batch's, which would live as long as they.
            self._waiting.append((embeddings.copy(), probabilities.copy(), pictures.copy()))
            enough = sum(len(each[2]) for each in self._waiting) >= AT_ONCE
        if enough:
            self._measure_waiting()

    def read(self) -> Reading:
        """How far the window lies from the reference. From any thread."""
        whole = self._empty()
        self._measure_waiting()
        with self._lock:
            for part in self._parts:
                whole += part
        return self._ruler.read(whole)

    def _measure_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if waiting:
            embeddings, probabilities, pictures = zip(*waiting, strict=True)
            self._measure(np.concatenate(embeddings), np.concatenate(probabilities), np.concatenate(pictures))

    def _measure(self, embeddings: Embeddings, probabilities: NDArray[np.float32], pictures: Pictures) -> None:
        rows = features(embeddings, pictures, self._centre, self._basis)  # outside the lock: nobody waits for sums
        named = probabilities.argmax(axis=1)
        with self._lock:
            self._parts[-1].add(named, rows)
            if self._parts[-1].counts.sum() >= self._part_pictures:
                self._parts.append(self._empty())

    def _empty(self) -> Sums:
        return Sums.empty(*self._ruler.size)
