"""The decision on an answer: accept, review or reject, with the reasons and the prediction set.

A picture is rejected if it has no nucleus in the middle, or is more unusual than nearly all known cells. It is reviewed
if it is unusual, is of poor quality, or is of an uncertain class. A person decides about both, and signs accepted
answers too.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.fields import Code
from model.trust.novelty import MahalanobisDistance, p_values
from model.trust.quality import MEASURES, Measures, Pictures, measure
from model.trust.reference import Measure, Range, TrustReference

Decision = Literal["accept", "review", "reject"]
ReasonCode = Literal[
    "not_a_cell", "novel", "out_of_focus", "exposure", "stain", "cell_size", "off_centre", "uncertain", "unsupported",
    "review_class",
]  # fmt: skip

#: The reason of a measure outside its range, and what a person can do.
QUALITY_REASONS: dict[Measure, tuple[ReasonCode, str]] = {
    "nucleus_in_middle": ("not_a_cell", "no nucleus in the middle of the picture: send one cell in a picture, centred"),
    "focus": ("out_of_focus", "out of focus: refocus and take the picture again"),
    "brightness": ("exposure", "the background is darker or brighter than in known cells: check lamp and exposure"),
    "stain": ("stain", "the nucleus is paler or darker than in known cells: check the stain"),
    "nucleus_area": ("cell_size", "the nucleus is smaller or larger than in known cells: check magnification and crop"),
    "offset": ("off_centre", "the nucleus is not in the middle: crop the picture around the cell"),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an answer is not accepted: a code for programs, and a sentence for people."""

    code: ReasonCode
    detail: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """How far one answer can be trusted."""

    decision: Decision
    reasons: tuple[Reason, ...]  # none if it is accepted
    prediction_set: tuple[Code, ...]  # the predicted class first
    novelty: float  # distance from known cells
    p_value: float  # of the novelty


class Assessor:
    """Assesses the answers of one model.

    Args:
        codes: the model's classes in logit order.
        unsupported: classes with no or too few training pictures.
        review: classes that are always reviewed.

    Raises:
        ValueError: `review` names a class that the model does not have.
    """

    def __init__(
        self,
        reference: TrustReference,
        codes: Sequence[Code],
        unsupported: Collection[Code],
        review: Collection[Code] = (),
    ) -> None:
        if unknown := sorted(set(review) - set(codes)):
            raise ValueError(f"unknown classes {', '.join(unknown)}; the model has {', '.join(codes)}")
        self.reference = reference
        self._codes = tuple(codes)
        # A class without known cells has no threshold: nothing is guaranteed for it, as for an unsupported class.
        self._unsupported = frozenset(unsupported) | (set(codes) - set(reference.sets.thresholds))
        self._review = frozenset(review)
        self._distance = MahalanobisDistance(reference.novelty.gaussians)
        self._known = np.array(reference.novelty.distances, np.float32)
        # A class without a threshold is never added to a set.
        self._thresholds = np.array([reference.sets.thresholds.get(code, np.inf) for code in codes])
        ranges = [reference.quality.get(name, Range()) for name in MEASURES]
        self._lows = np.array([-np.inf if each.low is None else each.low for each in ranges], np.float32)
        self._highs = np.array([np.inf if each.high is None else each.high for each in ranges], np.float32)

    def assess(
        self, probabilities: NDArray[np.float32], embeddings: NDArray[np.float32], pictures: Pictures
    ) -> list[Assessment]:
        """Assess the answers of a batch.

        Args:
            probabilities: (N, C).
            embeddings: (N, D).
            pictures: (N, S, S, 3), as the model received them.
        """
        return self.assess_measured(probabilities, embeddings, measure(pictures))

    def assess_measured(
        self, probabilities: NDArray[np.float32], embeddings: NDArray[np.float32], measures: Measures
    ) -> list[Assessment]:
        """`assess` for pictures whose quality was measured before.

        Args:
            measures: (N, 6), of `model.trust.quality.measure`.
        """
        distances = self._distance.measure(embeddings)
        columns = (
            probabilities,
            distances.tolist(),
            p_values(self._known, distances).tolist(),
            self.out_of_range(measures),
        )
        return [self._assessment(*row) for row in zip(*columns, strict=True)]

    def out_of_range(self, measures: Measures) -> NDArray[np.bool_]:
        """Which measures are outside their range, (N, 6). NaN is outside."""
        inside: NDArray[np.bool_] = (measures >= self._lows) & (measures <= self._highs)
        return ~inside

    def _assessment(
        self, probabilities: NDArray[np.float32], distance: float, p_value: float, outside: NDArray[np.bool_]
    ) -> Assessment:
        found = self.prediction_set(probabilities)
        reasons = [
            *self._quality_reasons(outside),
            *self._novelty_reasons(p_value),
            *self._class_reasons(found, float(probabilities.max())),
        ]
        rejected = p_value < self.reference.reject_p or any(reason.code == "not_a_cell" for reason in reasons)
        decision: Decision = "reject" if rejected else "review" if reasons else "accept"
        return Assessment(decision, tuple(reasons), found, distance, p_value)

    def prediction_set(self, probabilities: NDArray[np.float32]) -> tuple[Code, ...]:
        """The predicted class, even below its threshold; then the others that reach theirs, most probable first."""
        inside = probabilities >= self._thresholds
        inside[probabilities.argmax()] = True
        members = np.flatnonzero(inside)
        order = np.argsort(-probabilities[members], kind="stable")
        return tuple(self._codes[at] for at in members[order].tolist())

    def _quality_reasons(self, outside: NDArray[np.bool_]) -> list[Reason]:
        if not outside.any():
            return []
        return [Reason(*QUALITY_REASONS[MEASURES[at]]) for at in np.flatnonzero(outside)]

    def _novelty_reasons(self, p_value: float) -> list[Reason]:
        if p_value >= self.reference.review_p:
            return []
        usual = f"more unusual than {100 * (1 - p_value):.0f} % of known cells"
        return [Reason("novel", f"{usual}: it may be of another class, another laboratory, or no cell; look at it")]

    def _class_reasons(self, prediction_set: tuple[Code, ...], probability: float) -> list[Reason]:
        predicted, *others = prediction_set
        threshold = self._thresholds[self._codes.index(predicted)]
        reasons = []
        if others:
            reasons.append(Reason("uncertain", f"{' and '.join(others)} cannot be excluded: read the cell"))
        elif probability < threshold < np.inf:
            share = f"{self.reference.sets.coverage:.0%} of known {predicted} reach {threshold:.2f}"
            reasons.append(Reason("uncertain", f"its probability is low ({share}): read the cell"))
        if predicted in self._unsupported:
            reasons.append(Reason("unsupported", f"{predicted} is an unsupported class: read the cell"))
        if predicted in self._review:
            reasons.append(Reason("review_class", f"every {predicted} is reviewed (MARROWLENS_REVIEW_CLASSES)"))
        return reasons
