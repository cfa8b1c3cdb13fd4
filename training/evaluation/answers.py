"""Answers for pictures as the service gives them: calibrated probabilities, embedding, measures of input quality."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.trust.fitting import AnsweredCells
from model.trust.quality import measure
from training.config import Config
from training.evaluation.calibration import log_probabilities
from training.evaluation.evaluate import outputs
from training.networks.build import Network

#: The label of a cell of another class than the model's.
NO_CLASS = -1


@dataclass(frozen=True, slots=True)
class Answering:
    """Answers pictures as the service does: with the temperature, and the measures of the decision."""

    net: Network  # in eval mode
    config: Config
    temperature: float

    def cells(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None, title: str = "scoring"
    ) -> AnsweredCells:
        """The answers for pictures (N, S, S, 3) with labels (N,); without labels they are of no class of the model."""
        images = np.asarray(images)
        found = outputs(self.net, self.config, images, description=title)
        probabilities = np.exp(log_probabilities(found.logits, self.temperature)).astype(np.float32)
        labels = np.full(len(images), NO_CLASS, np.int64) if labels is None else labels
        return AnsweredCells(probabilities, found.embeddings, measure(images), labels)
