"""Evaluation of a trained run: fits the temperature on the calibration block and measures the test block.

Each picture is scored once, without test-time augmentation, as the service does.
"""

import numpy as np
from numpy.typing import NDArray

from training.config import Config
from training.data.images import LabelledImages
from training.data.samples import Block, patient_numbers
from training.data.splits import describe_test_set
from training.evaluation.calibration import Logits, calibration_metrics, fit_temperature, temperature_interval
from training.evaluation.metrics import Pictures, classification_metrics, confusion_matrix, lineages, tolerant
from training.evaluation.ranking import ranking_metrics
from training.evaluation.scores import Scores, scores_of
from training.evaluation.selective import first_half, selective_metrics
from training.run import Evaluation

#: Source of the figures of `evaluate --block calibration`, as they carry it.
DEVELOPMENT = "calibration block, development figures"


def evaluate(
    config: Config, calibration: LabelledImages, test: LabelledImages, logits: tuple[Logits, Logits]
) -> tuple[Evaluation, dict[Block, Scores]]:
    """Fit the temperature on the calibration block and compute the metrics of each source's test block.

    Only calibration pictures of the intended tissue (`card.tissue`) are used.

    Args:
        logits: of the calibration and of the test pictures, (N, C) each.

    Returns:
        The evaluation, and the scores of both blocks with the fitted temperature.

    Raises:
        ValueError: no calibration picture shows the intended tissue.
    """
    fitted = fitted_temperature(config, calibration, logits[0])
    temperature = 1.0 if fitted is None else fitted
    scores: dict[Block, Scores] = {
        "calibration": scores_of(calibration.samples, logits[0], temperature, config.codes),
        "test": scores_of(test.samples, logits[1], temperature, config.codes),
    }
    splits = describe_splits(config, describe_test_set(config.data.split))
    evaluation = measure(config, scores["test"], temperature, splits)
    return evaluation.model_copy(update=_about_temperature(config, calibration, logits[0], fitted)), scores


def evaluate_development(config: Config, calibration: LabelledImages, logits: Logits) -> tuple[Evaluation, Scores]:
    """Metrics of each source's calibration block, for choices that must not read the test block.

    The probabilities of each half of the block use the temperature that the other half determines, so that the
    calibration error is not measured on the pictures that it was minimised on. The evaluation's own temperature is
    fitted on the whole block, as in `evaluate`.

    Args:
        logits: of the calibration pictures, (N, C).

    Returns:
        The evaluation, and the scores with the temperature of each picture.

    Raises:
        ValueError: no calibration picture shows the intended tissue.
    """
    of_tissue = of_intended_tissue(config, calibration)
    fitted = fitted_temperature(config, calibration, logits)
    temperature = 1.0 if fitted is None else fitted
    scores = scores_of(calibration.samples, logits, temperature, config.codes)
    first = first_half(calibration.labels)
    for half in (first, ~first):
        others = of_tissue & ~half
        of_others = fit_temperature(logits[others], calibration.labels[others]) if others.any() else None
        scores.temperature[half] = 1.0 if of_others is None else of_others
    evaluation = measure(config, scores, temperature, describe_splits(config, DEVELOPMENT))
    return evaluation.model_copy(update=_about_temperature(config, calibration, logits, fitted)), scores


def fitted_temperature(config: Config, calibration: LabelledImages, logits: Logits) -> float | None:
    """The temperature by the calibration pictures of the intended tissue; None if they do not determine one.

    Raises:
        ValueError: no calibration picture shows the intended tissue.
    """
    of_tissue = of_intended_tissue(config, calibration)
    return fit_temperature(logits[of_tissue], calibration.labels[of_tissue])


def _about_temperature(
    config: Config, calibration: LabelledImages, logits: Logits, fitted: float | None
) -> dict[str, object]:
    """The fields of an evaluation that say how well the calibration pictures determine the temperature."""
    of_tissue = of_intended_tissue(config, calibration)
    found: dict[str, object] = {"temperature_fitted": fitted is not None, "temperature_n": int(of_tissue.sum())}
    if fitted is None:
        return found
    patients = patient_numbers([calibration.samples[row] for row in np.flatnonzero(of_tissue)])
    low, high = temperature_interval(logits[of_tissue], calibration.labels[of_tissue], fitted, patients)
    return found | {"temperature_low": low, "temperature_high": high}


def of_intended_tissue(config: Config, pictures: LabelledImages) -> NDArray[np.bool_]:
    """A mask (N,) of the pictures that show the intended tissue (`card.tissue`)."""
    intended = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    return np.array([sample.source in intended for sample in pictures.samples], dtype=np.bool_)


def evenly_spaced(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the rows, evenly spaced: in class order, about the same share of every class."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def describe_splits(config: Config, chosen: str) -> dict[str, str]:
    """Source → description of its test pictures.

    Args:
        chosen: how the test pictures were chosen.
    """
    splits = {}
    for source in config.data.sources:
        split = f"{source.name} ({source.tissue}), {chosen}"
        if source.crop < 1:  # the service never crops, so the metrics state it
            split += f", cropped to the central {source.crop:.0%} of each side"
        splits[source.name] = split
    return splits


def measure(config: Config, test: Scores, temperature: float, splits: dict[str, str]) -> Evaluation:
    """All metrics of each source that has test pictures.

    Args:
        temperature: stored in the evaluation; probabilities use the temperature of each picture in `test`.
        splits: source → description of its test pictures; every metric carries it.
    """
    tolerated, groups = tolerant(config.codes, config.evaluation.neighbours), lineages(config.classes)
    metrics, confusion, measured, known = [], {}, {}, {}
    for source, split in splits.items():
        scores = test.of_source(source)
        if not len(scores):
            continue
        patients = scores.patient_numbers()
        pictures = Pictures(scores.labels, scores.predicted, patients)
        metrics += classification_metrics(pictures, config.codes, tolerated, groups, split)
        metrics += ranking_metrics(scores.labels, scores.probabilities, config.codes, split, patients)
        metrics += calibration_metrics(scores.logits, scores.labels, scores.temperature, split, patients)
        metrics += selective_metrics(scores.labels, scores.probabilities, split, patients)
        confusion[split] = confusion_matrix(scores.labels, scores.predicted, len(config.codes)).tolist()
        measured[source] = split
        if patients is not None:
            known[source] = len(np.unique(patients))
    return Evaluation(
        temperature=temperature, metrics=tuple(metrics), confusion=confusion, splits=measured, patients=known
    )
