"""Answers for pictures as the service gives them: calibrated probabilities, embedding, measures of input quality."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from model.trust.fitting import LabelledPredictions
from model.trust.quality import measure
from training.config import Config
from training.evaluation.calibration import log_probabilities
from training.evaluation.network_outputs import BATCH_SIZE, outputs
from training.evaluation.scores import NO_CLASS
from training.networks.build import Network


@dataclass(frozen=True, slots=True)
class Predictor:
    """Answers pictures as the service does: with the temperature, and the measures of the decision."""

    net: Network  # in eval mode
    config: Config
    temperature: float

    def embeddings(self, images: NDArray[np.uint8], rows: NDArray[np.int64], title: str) -> NDArray[np.float32]:
        """Embeddings of the pictures of these rows, (N, D); the pictures are read batch by batch."""
        starts = track(range(0, len(rows), BATCH_SIZE), description=title, transient=True)
        found = [outputs(self.net, self.config, images[rows[start : start + BATCH_SIZE]]) for start in starts]
        return np.concatenate([each.embeddings for each in found])

    def cells(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None, title: str = "scoring"
    ) -> LabelledPredictions:
        """The answers for pictures (N, S, S, 3) with labels (N,); without labels they are of no class of the model."""
        images = np.asarray(images)
        found = outputs(self.net, self.config, images, description=title)
        probabilities = np.exp(log_probabilities(found.logits, self.temperature)).astype(np.float32)
        labels = np.full(len(images), NO_CLASS, np.int64) if labels is None else labels
        return LabelledPredictions(probabilities, found.embeddings, measure(images), labels)
