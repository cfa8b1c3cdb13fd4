"""Response curves: accuracy on pictures that are out of focus, of another scale, stain or brightness, or compressed.

Each picture is decoded at twice the input size, changed there, and reduced to the input size as the service does. So
every strength is stated for the whole picture, whatever its resolution: in percent of its side, or as a factor. Only
JPEG quality acts on pixels, those of twice the input size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from model.agreement.class_averages import Drawn, Labels
from model.agreement.clustered import Proportion, proportion
from model.resize import to_square
from model.trust.decision import Assessment
from model.trust.fitting import LabelledPredictions
from training.config import Config
from training.data.images import LabelledImages, decode_crop
from training.data.samples import Sample, patient_numbers, read_image_bytes
from training.evaluation.evaluate import evenly_spaced, of_intended_tissue
from training.evaluation.paired import draw_accuracy
from training.evaluation.predictor import Predictor
from training.run import MeasuredResponse

Picture = NDArray[np.uint8]  # (H, H, 3)
Decide = Callable[[LabelledPredictions, NDArray[np.int64]], Sequence[Assessment]]  # (answers, rows of the block)

#: Pictures that are measured, at most.
MOST_PICTURES = 500
#: A wrong answer with a probability above this is confidently wrong.
CONFIDENT = 0.9
AS_IS = "as is"


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A kind of change, the unit of its strength, the strengths to measure, and how a picture is changed."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    change: Callable[..., Picture]  # (picture, strength)


def blur(picture: Picture, strength: float) -> Picture:
    """Out of focus: a Gaussian with a standard deviation of `strength` percent of the side."""
    sigma = strength / 100 * len(picture)
    return gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0)).round().astype(np.uint8)


def rescale(picture: Picture, strength: float) -> Picture:
    """The cell at `strength` times its size; what lies outside the picture is its reflection.

    Below 0.7 most cells would appear in the reflection again.
    """
    side = len(picture)
    if strength < 1:
        margin = round(side * (1 / strength - 1) / 2)
        return to_square(np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), "symmetric"), side)
    cut = round(side * (1 - 1 / strength) / 2)
    return to_square(np.ascontiguousarray(picture[cut : side - cut, cut : side - cut]), side)


def scale_stain(picture: Picture, strength: float) -> Picture:
    """The optical density of every pixel times `strength`: more or less dye (Beer-Lambert)."""
    return (255 * (np.maximum(picture, 1) / 255.0) ** strength).round().astype(np.uint8)


def scale_light(picture: Picture, strength: float) -> Picture:
    """Every pixel value times `strength`; what is brighter than white is cut off."""
    return (picture * float(strength)).round().clip(0, 255).astype(np.uint8)


def compress_jpeg(picture: Picture, strength: float) -> Picture:
    """Encoded as JPEG of this quality and decoded."""
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), round(strength), colorsubsampling="420")
    return simplejpeg.decode_jpeg(data)


DISTURBANCES = (
    Disturbance("blur", "% of the side", (0.4, 0.8, 1.2, 1.6, 2.4), blur),
    Disturbance("cell size", "×", (0.7, 0.8, 0.9, 1.2, 1.5), rescale),
    Disturbance("stain", "× density", (0.5, 0.7, 0.85, 1.15, 1.3, 1.6), scale_stain),
    Disturbance("light", "×", (0.6, 0.8, 1.1, 1.2, 1.4), scale_light),
    Disturbance("JPEG", "quality", (90, 70, 50, 30, 15), compress_jpeg),
)


def measure_responses(
    predictor: Predictor, pictures: LabelledImages, decide: Decide | None = None
) -> tuple[MeasuredResponse, ...]:
    """Accuracy, and share of confidently wrong answers, at every strength of every disturbance.

    Args:
        pictures: the calibration block; up to 500 pictures of the intended tissue (`card.tissue`) are used.
        decide: assesses the answers for pictures of these rows of the block.

    Returns:
        The pictures as they are first, then every disturbance; empty if no picture is of the tissue.
    """
    config = predictor.config
    rows = evenly_spaced(np.flatnonzero(of_intended_tissue(config, pictures)), MOST_PICTURES)
    if not len(rows):
        return ()
    size, labels = config.model.input_size, pictures.labels[rows]
    patients = patient_numbers([pictures.samples[row] for row in rows])

    def answers(images: NDArray[np.uint8], title: str) -> _Answers:
        cells = predictor.cells(images, labels, title)
        return _Answers(cells, decide(cells, rows) if decide else None)

    originals = [_original(config, pictures.samples[row], 2 * size) for row in rows]

    as_is = answers(pictures.images[rows], AS_IS)
    before = _accuracy(as_is.cells, patients)
    measured = [_response((AS_IS, "", 1), as_is, before, patients)]
    for kind in DISTURBANCES:
        for strength in kind.strengths:
            images = np.stack([to_square(kind.change(picture, strength=strength), size) for picture in originals])
            changed = answers(images, f"{kind.name} {strength:g}")
            measured.append(_response((kind.name, kind.unit, strength), changed, before, patients))
    return tuple(measured)


def _original(config: Config, sample: Sample, size: int) -> Picture:
    crops = {source.name: source.crop for source in config.data.sources}
    return decode_crop(read_image_bytes(sample), size, crops[sample.source])


class _Answers(NamedTuple):
    cells: LabelledPredictions
    assessed: Sequence[Assessment] | None  # None without a trust reference


class _Accuracy(NamedTuple):
    share: Proportion
    drawn: Drawn


def _accuracy(cells: LabelledPredictions, patients: Labels | None) -> _Accuracy:
    predicted, classes = cells.probabilities.argmax(axis=1), cells.probabilities.shape[1]
    return _Accuracy(
        proportion(predicted == cells.labels, patients), draw_accuracy(cells.labels, predicted, classes, patients)
    )


def _response(
    what: tuple[str, str, float], changed: _Answers, before: _Accuracy, patients: Labels | None
) -> MeasuredResponse:
    """Figures of one strength.

    Args:
        what: disturbance, unit and strength.
        changed: answers for the disturbed pictures.
        before: of the same pictures undisturbed.
        patients: (N,), number of the patient of each picture; None: patients are not known.
    """
    cells, n = changed.cells, len(changed.cells)
    found = _accuracy(cells, patients)
    change_low, change_high = (found.drawn - before.drawn).difference_interval()
    right = cells.probabilities.argmax(axis=1) == cells.labels
    confident_errors = ~right & (cells.probabilities.max(axis=1) > CONFIDENT)
    return MeasuredResponse(
        disturbance=what[0],
        unit=what[1],
        strength=what[2],
        n=n,
        accuracy=found.share.hits / n,
        low=found.share.low,
        high=found.share.high,
        change=(found.share.hits - before.share.hits) / n,
        change_low=change_low,
        change_high=change_high,
        confident_errors=float(confident_errors.mean()),
        **_accepted(changed.assessed, right, confident_errors),
    )


def _accepted(
    assessed: Sequence[Assessment] | None, right: NDArray[np.bool_], confident_errors: NDArray[np.bool_]
) -> dict[str, float]:
    if assessed is None:
        return {}
    accepted = np.array([each.decision == "accept" for each in assessed])
    shares = {"accepted": accepted.mean(), "accepted_confident_errors": (accepted & confident_errors).mean()}
    if accepted.any():
        shares["accepted_accuracy"] = right[accepted].mean()
    return {name: float(share) for name, share in shares.items()}
