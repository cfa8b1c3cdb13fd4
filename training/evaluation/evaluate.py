"""A trained run on pictures it has not seen: temperature on the calibration block, figures on the test block.

Knows how to score and what to report of each source. Knows nothing of training or export.

A picture is scored once, as it is: no copies turned or flipped at test time, so a figure is that of the served path.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file

from training.config import Config
from training.data.images import LabelledImages
from training.data.samples import Block
from training.data.splits import describe_test_set
from training.evaluation.calibration import Logits, fit_temperature, measure_calibration
from training.evaluation.maturation import lineages, tolerant
from training.evaluation.metrics import count, measure
from training.evaluation.scores import Scores, scores_of
from training.evaluation.selective import measure_selective
from training.networks.build import Network, build
from training.run import Evaluation


def load_network(config: Config, weights: Path) -> Network:
    """The trained network in eval mode."""
    net = build(config.model, len(config.classes))
    net.load_state_dict(load_file(weights))
    return net.eval()


@torch.inference_mode()
def score(net: Network, config: Config, images: NDArray[np.uint8], batch_size: int = 64) -> Logits:
    """Logits (N, C) of uint8 pictures (N, S, S, 3)."""
    starts = track(range(0, len(images), batch_size), description="scoring", transient=True)
    rows = [net(_normalised(config, images[start : start + batch_size])).logits.numpy() for start in starts]
    return np.concatenate(rows) if rows else np.empty((0, len(config.classes)), np.float32)


@torch.inference_mode()
def maps(net: Network, config: Config, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    """Attention (N, scales, h, w) and evidence (N, C, h, w) of a few uint8 pictures (N, S, S, 3)."""
    out = net(_normalised(config, images))
    return out.attention.numpy(), out.evidence.numpy()


def _normalised(config: Config, images: NDArray[np.uint8]) -> torch.Tensor:
    mean = torch.tensor(config.model.mean).view(3, 1, 1)
    std = torch.tensor(config.model.std).view(3, 1, 1)
    planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return (planes - mean) / std


def evaluate(
    config: Config, calibration: LabelledImages, test: LabelledImages, logits: tuple[Logits, Logits]
) -> tuple[Evaluation, dict[Block, Scores]]:
    """Temperature from the calibration block of the tissue that the model is for; figures of each source's test block.

    Args:
        logits: of the calibration and of the test pictures, (N, C) each.

    Returns:
        The evaluation, and the scores of both blocks under that temperature.

    Raises:
        ValueError: no calibration picture shows that tissue.
    """
    meant = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    of_tissue = np.array([sample.source in meant for sample in calibration.samples], dtype=bool)
    fitted = fit_temperature(logits[0][of_tissue], calibration.labels[of_tissue])
    temperature = 1.0 if fitted is None else fitted
    scores: dict[Block, Scores] = {
        "calibration": scores_of(calibration.samples, logits[0], temperature, config.codes),
        "test": scores_of(test.samples, logits[1], temperature, config.codes),
    }
    labels = in_words(config, describe_test_set(config.data.split))
    evaluation = figures_of(config, scores["test"], temperature, labels)
    return evaluation.model_copy(update={"temperature_fitted": fitted is not None}), scores


def in_words(config: Config, which: str) -> dict[str, str]:
    """Source → what its test pictures are.

    Args:
        which: how they were chosen from all.
    """
    labels = {}
    for source in config.data.sources:
        label = f"{source.name} ({source.tissue}), {which}"
        if source.crop < 1:  # the service never crops: whoever reads the figure must know that here it was done
            label += f", cropped to the central {source.crop:.0%} of each side"
        labels[source.name] = label
    return labels


def figures_of(config: Config, test: Scores, temperature: float, labels: dict[str, str]) -> Evaluation:
    """All figures of each source that has test pictures.

    Args:
        temperature: what the evaluation names; the probabilities come from that of each picture.
        labels: source → what its test pictures are; every figure carries it as its split.
    """
    tolerated, groups = tolerant(config.codes, config.evaluation.neighbours), lineages(config.classes)
    metrics, confusion, splits = [], {}, {}
    for source, split in labels.items():
        scores = test.of_source(source)
        if not len(scores):
            continue
        counts = count(scores.labels, scores.predicted, len(config.codes))
        metrics += measure(counts, config.codes, tolerated, groups, split)
        metrics += measure_calibration(scores.logits, scores.labels, scores.temperature, split)
        metrics += measure_selective(scores.labels, scores.probabilities, split)
        confusion[split] = counts.tolist()
        splits[source] = split
    return Evaluation(temperature=temperature, metrics=tuple(metrics), confusion=confusion, splits=splits)
