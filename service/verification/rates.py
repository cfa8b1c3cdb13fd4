"""Rates of groups of cells, with intervals by patient where patients are known."""

from collections.abc import Sequence

import numpy as np

from model.agreement.clustered import proportion
from model.agreement.proportion import cells_for_half_width
from model.trust.decision import Assessment
from service.verification.document import DecisionRates, Rate, SetRates
from service.verification.observations import Mask, Observations


def rate(found: Observations, hits: Mask, among: Mask, confidence: float = 0.95) -> Rate:
    """The share of hits among some cells."""
    clusters = None if found.patients is None else found.patients[among]
    one = proportion(hits[among], clusters, confidence)
    return Rate(hits=one.hits, n=one.n, share=one.share, low=one.low, high=one.high, patients=one.clusters)


def effective_sample_size(found: Rate) -> float:
    """The number of independent cells whose interval is as wide."""
    half_width = max((found.high - found.low) / 2, 1e-6)
    return float(max(1, min(found.n, cells_for_half_width(found.share or 0.0, half_width))))


def decision_rates(
    found: Observations, name: str, among: Mask, assessments: Sequence[Assessment] | None = None
) -> DecisionRates:
    """What was decided about some cells.

    Args:
        assessments: of all cells; by default those with the thresholds in force.
    """
    decisions = np.array([each.decision for each in assessments or found.assessments])
    accepted, reviewed, rejected = (decisions == each for each in ("accept", "review", "reject"))
    return DecisionRates(
        cells=name,
        accepted=rate(found, accepted, among),
        reviewed=rate(found, reviewed, among),
        rejected=rate(found, rejected, among),
        accuracy_of_accepted=rate(found, found.right, among & accepted) if (among & found.supported).any() else None,
    )


def set_rates(found: Observations, assessments: Sequence[Assessment] | None = None) -> tuple[SetRates, ...]:
    """Prediction sets of all cells with a promise, then by class."""
    sets = [each.prediction_set for each in assessments or found.assessments]
    codes = found.manifest.codes
    names = (*codes, None, None)  # of other classes and of undecided cells: in no set
    covered = np.array([names[label] in each for label, each in zip(found.labels, sets, strict=True)])
    sizes = np.array([len(each) for each in sets])
    groups = {None: found.supported} | {
        codes[at]: found.labels == at for at in np.unique(found.labels[found.supported])
    }
    return tuple(
        SetRates(
            code=code,
            covered=rate(found, covered, among),
            mean_size=float(sizes[among].mean()) if among.any() else None,
        )
        for code, among in groups.items()
    )
