"""Drift windows of all workers: each writes the sums of its own, and any can measure the sum of all."""

import os
from collections.abc import Iterator
from zipfile import BadZipFile

import numpy as np

from model.drift.distance import FeatureSums
from service.concurrency.worker import Worker


class DriftFiles:
    """The files of one service, one for each worker. They hold sums over pictures and no single picture."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def write(self, model: str, sums: FeatureSums) -> None:
        """Write the window of this worker.

        Args:
            model: digest of the model that its features are of.
        """
        path = self._worker.drift(self._worker.index)
        written = path.with_suffix(".new")
        with written.open("wb") as file:
            np.savez(file, model=np.array(model), counts=sums.counts, totals=sums.totals)
        os.replace(written, path)

    def others(self, model: str) -> Iterator[FeatureSums]:
        """The windows of the other workers that serve the same model."""
        for index in range(self._worker.count):
            if index != self._worker.index and (sums := self._read(index, model)) is not None:
                yield sums

    def _read(self, index: int, model: str) -> FeatureSums | None:
        try:
            with np.load(self._worker.drift(index), allow_pickle=False) as arrays:
                return FeatureSums(arrays["counts"], arrays["totals"]) if str(arrays["model"]) == model else None
        except FileNotFoundError:  # it has not measured yet
            return None
        except (BadZipFile, ValueError, KeyError):  # cut off when the machine's disk was full
            return None
