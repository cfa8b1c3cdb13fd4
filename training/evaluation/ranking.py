"""One class against all others: ROC and precision-recall curves, their areas and intervals.

The interval of the area under the ROC curve is Newcombe's method 5 (2006, doi 10.1002/sim.2324): it has a width at an
area of 1 too, where DeLong's has none. That of the average precision is Wilson's, with the pictures of the class as n
(the binomial interval of Boyd, Eng and Page 2013, doi 10.1007/978-3-642-40994-3_29). Where patients are known, both use
effective numbers of pictures, by the influence of each picture on the area (of the ROC curve: Obuchowski 1997,
doi 10.2307/2533958).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from model.agreement.class_averages import Floats, Labels
from model.agreement.clustered import effective_share
from model.agreement.proportion import Interval, wilson
from model.contract import Metric

_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Curves:
    """Points of both curves, a point for every distinct probability, from the highest."""

    false_positive_rate: Floats  # (K + 1,), from 0 to 1
    sensitivity: Floats  # (K + 1,), from 0 to 1; also the recall
    precision: Floats  # (K + 1,); that of the first point is 1, by convention


def curves(probability: Floats, of_class: NDArray[np.bool_]) -> Curves:
    """The curves of a probability (N,); `of_class` (N,) is true for some pictures and false for others."""
    order = np.argsort(-probability, kind="stable")
    ordered, hits = probability[order], of_class[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    true, named = np.cumsum(hits)[ends], ends + 1
    false = named - true
    return Curves(
        np.append(0.0, false / (~of_class).sum()), np.append(0.0, true / of_class.sum()), np.append(1.0, true / named)
    )


def auroc(probability: Floats, of_class: NDArray[np.bool_]) -> float:
    """Chance that a picture of the class has a higher probability than another one; ties count as half."""
    count = int(of_class.sum())
    others = len(of_class) - count
    ranks = rankdata(probability)[of_class].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))


def auroc_influence(probability: Floats, of_class: NDArray[np.bool_]) -> Floats:
    """Influence of each picture on the area under the ROC curve, (N,): its placement among those of the other side
    (DeLong 1988), relative to the mean."""
    count = int(of_class.sum())
    others, placed = len(of_class) - count, np.empty(len(of_class))
    ranks = rankdata(probability)
    placed[of_class] = (ranks[of_class] - rankdata(probability[of_class])) / others
    placed[~of_class] = 1 - (ranks[~of_class] - rankdata(probability[~of_class])) / count
    sizes = np.where(of_class, count, others)
    return (placed - placed[of_class].mean()) / sizes


def average_precision_influence(probability: Floats, of_class: NDArray[np.bool_]) -> Floats:
    """Influence of each picture on the average precision, (N,): its derivative by the weight of the picture."""
    count = int(of_class.sum())
    values, place = np.unique(-probability, return_inverse=True)  # from the highest probability
    true = np.bincount(place, of_class, len(values))
    named = np.cumsum(np.bincount(place, minlength=len(values)))
    precision = np.cumsum(true) / named
    # A picture counts in the precision of every picture of the class at its probability and below.
    below = np.cumsum((true / named)[::-1])[::-1][place]
    lost = np.cumsum((true * precision / named)[::-1])[::-1][place]
    own = precision[place] - (true * precision).sum() / count
    return np.where(of_class, own + below - lost, -lost) / count


def auroc_interval(area: float, count: float, others: float) -> Interval:
    """The 95 % interval of an area under the ROC curve; 0 to 1 without pictures.

    Args:
        count: pictures of the class, or their effective number.
        others: all others, likewise.
    """
    if not count or not others:
        return 0.0, 1.0
    z, half = float(norm.ppf(0.975)), (count + others) / 2 - 1

    def beyond(true: float) -> float:
        spread = true * (1 - true) * (1 + half * ((1 - true) / (2 - true) + true / (1 + true))) / (count * others)
        return abs(area - true) - z * spread**0.5

    # Just inside 0 and 1, where the spread is 0 and every area would be a solution.
    inside = min(max(area, _LEAST), 1 - _LEAST)
    least, most = _LEAST / 10, 1 - _LEAST / 10
    low = float(brentq(beyond, least, inside)) if beyond(least) > 0 > beyond(inside) else 0.0
    high = float(brentq(beyond, inside, most)) if beyond(most) > 0 > beyond(inside) else 1.0
    return min(low, area), max(high, area)


def average_precision(found: Curves) -> float:
    """Area under the precision-recall curve as a sum of steps, without interpolation."""
    return float((np.diff(found.sensitivity) * found.precision[1:]).sum())


def ranking_metrics(
    labels: Labels, probabilities: Floats, codes: Sequence[str], split: str, patients: Labels | None = None
) -> list[Metric]:
    """`auroc` and `average_precision` of every class that some pictures have and others have not.

    Args:
        patients: (N,), number of the patient of each picture; None: patients are not known.
    """
    metrics = []
    for at in np.unique(labels).tolist():
        of_class, probability = labels == at, probabilities[:, at]
        count, others = int(of_class.sum()), int((~of_class).sum())
        if not others:
            continue
        area, precision = auroc(probability, of_class), average_precision(curves(probability, of_class))
        of_area = _share(auroc_influence(probability, of_class), of_class, patients)
        of_precision = _share(average_precision_influence(probability, of_class), of_class, patients)
        for name, value, (low, high), n in (
            ("auroc", area, auroc_interval(area, of_area * count, of_area * others), count + others),
            ("average_precision", precision, wilson(precision * count * of_precision, count * of_precision), count),
        ):
            ends = min(low, value), max(high, value)
            metrics.append(Metric(name=name, code=codes[at], value=value, low=ends[0], high=ends[1], n=n, split=split))
    return metrics


def _share(influence: Floats, of_class: NDArray[np.bool_], patients: Labels | None) -> float:
    """How many independent pictures a picture stands for; patients are counted on the side that has fewer."""
    if patients is None:
        return 1.0
    return min(effective_share(influence, patients, counted) for counted in (of_class, ~of_class))
