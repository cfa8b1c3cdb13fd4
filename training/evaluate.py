"""A trained run on pictures it has not seen: temperature on the calibration block, figures on the test block.

Knows how to score and what to report. Knows nothing of training or export.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix

from model.contract import Metric
from model.van import VAN
from training.comparison import Pooled
from training.config import Config
from training.metrics import Labels, expected_calibration_error, measure
from training.networks import build
from training.pictures import Pictures
from training.run import Evaluation

Logits = NDArray[np.float32]


def load_network(config: Config, weights: Path) -> VAN | Pooled:
    """The trained network in eval mode."""
    net = build(config.model, len(config.classes))
    net.load_state_dict(load_file(weights))
    return net.eval()


@torch.inference_mode()
def score(net: VAN | Pooled, config: Config, images: NDArray[np.uint8], batch_size: int = 64) -> Logits:
    """Logits (N, C) of uint8 pictures (N, S, S, 3)."""
    mean = torch.tensor(config.model.mean).view(3, 1, 1)
    std = torch.tensor(config.model.std).view(3, 1, 1)
    rows = []
    for start in track(range(0, len(images), batch_size), description="scoring", transient=True):
        planes = torch.from_numpy(images[start : start + batch_size]).permute(0, 3, 1, 2).float() / 255
        rows.append(net((planes - mean) / std).logits.numpy())
    return np.concatenate(rows) if rows else np.empty((0, len(config.classes)), np.float32)


#: Outside of these a temperature says that the calibration block does not determine it.
TEMPERATURE_BOUNDS = (0.1, 10.0)


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The T that minimises the negative log likelihood of softmax(logits / T) (arXiv 1706.04599, section 4.2).

    Raises:
        ValueError: there are no labels to fit it on.
    """
    if len(labels) == 0:
        raise ValueError("no calibration picture shows the tissue that the model is for: no temperature can be fitted")

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded").x))


def evaluate(
    config: Config, calibration: Pictures, test: Pictures, logits: tuple[Logits, Logits]
) -> tuple[Evaluation, NDArray[np.float32]]:
    """Temperature from the calibration block of the tissue that the model is for; figures of each source's test block.

    Args:
        logits: of the calibration and of the test pictures, (N, C) each.

    Returns:
        The evaluation, and the calibrated probabilities of the test pictures (N, C).
    """
    meant = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    of_tissue = np.array([sample.source in meant for sample in calibration.samples], dtype=bool)
    temperature = fit_temperature(logits[0][of_tissue], calibration.labels[of_tissue])
    probabilities = softmax(logits[1] / temperature, axis=1).astype(np.float32)
    metrics: list[Metric] = []
    confusion = {}
    for source in config.data.sources:
        rows = np.array([sample.source == source.name for sample in test.samples], dtype=bool)
        if not rows.any():
            continue
        split = f"{source.name} ({source.tissue}), last {config.data.blocks.test:.1%} of each class in file order"
        if source.crop < 1:  # the service never crops: whoever reads the figure must know that here it was done
            split += f", cropped to the central {source.crop:.0%} of each side"
        labels = test.labels[rows]
        metrics += measure(labels, probabilities[rows], config.codes, split)
        raw = expected_calibration_error(labels, softmax(logits[1][rows], axis=1))
        metrics.append(Metric(name="ece_before_temperature", value=raw, n=len(labels), split=split))
        predicted = probabilities[rows].argmax(axis=1)
        confusion[split] = confusion_matrix(labels, predicted, labels=np.arange(len(config.codes))).tolist()
    return Evaluation(temperature=temperature, metrics=tuple(metrics), confusion=confusion), probabilities


def write_predictions(path: Path, test: Pictures, probabilities: NDArray[np.float32], codes: Sequence[str]) -> None:
    """One row a test picture: source, file, true class, predicted class, its probability."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("source", "file", "true", "predicted", "probability"))
        for sample, row in zip(test.samples, probabilities, strict=True):
            best = int(row.argmax())
            rows.writerow((sample.source, sample.name, sample.code, codes[best], f"{row[best]:.4f}"))
