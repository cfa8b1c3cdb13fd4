"""Agreement of the model with the labels: by class, over all cells, in subgroups, and beside that of the readers."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from model.agreement.kappa import cohen_kappa, kappa_interval, one_class
from service.verification.document import ClassResult, Criteria, Estimate, ReaderPair, Subgroup
from service.verification.labelled_cells import NO_CLASS
from service.verification.observations import Mask, Observations
from service.verification.rates import rate
from service.verification.verdict import verdict

#: Properties of the pictures that subgroups are made of: name, column of the measures, names of the thirds.
PROPERTIES = (
    ("background", 2, ("darkest third", "middle third", "brightest third")),
    ("stain of the nucleus", 3, ("palest third", "middle third", "darkest third")),
    ("focus", 1, ("softest third", "middle third", "sharpest third")),
)
#: Fewest cells of a subgroup.
MIN_SUBGROUP = 10
MODEL = "the model"


def confusion_by_patient(found: Observations, among: Mask) -> NDArray[np.int64]:
    """Counts of some labelled cells by patient, (G, C + 1, C + 1), labels in rows; one patient if they are unknown."""
    patients = None if found.patients is None else found.patients[among]
    return _counts(found.labels[among], found.predicted[among], patients, found.other + 1)


def _counts(
    first: NDArray[np.int64], second: NDArray[np.int64], groups: NDArray[np.int64] | None, classes: int
) -> NDArray[np.int64]:
    rows = np.zeros(len(first), np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    counts = np.zeros((int(rows.max(initial=0)) + 1, classes, classes), np.int64)
    np.add.at(counts, (rows, first, second), 1)
    return counts


def kappa(counts: NDArray[np.int64]) -> Estimate | None:
    """Cohen's kappa of counts by patient, (G, C, C); None where it is not defined."""
    value = float(cohen_kappa(counts.sum(axis=0)))
    if np.isnan(value):
        return None
    low, high = kappa_interval(counts) or (None, None)
    return Estimate(value=value, low=low, high=high)


def class_results(found: Observations, criteria: Criteria) -> tuple[ClassResult, ...]:
    """One result for each class with a labelled or a predicted cell: supported classes first, in logit order."""
    counts = confusion_by_patient(found, found.labelled)
    named = np.union1d(found.labels[found.known], found.predicted[found.labelled])
    results = [_class_result(found, criteria, counts, int(at)) for at in named]
    return tuple(sorted(results, key=lambda each: not each.supported))


def _class_result(found: Observations, criteria: Criteria, counts: NDArray[np.int64], at: int) -> ClassResult:
    each = found.manifest.classes[at]
    labelled, accepted = found.labels == at, found.decided("accept")
    predicted = (found.predicted == at) & found.labelled
    sensitivity, predictive_value = rate(found, found.right, labelled), rate(found, found.right, predicted)
    supported = each.code not in found.manifest.unsupported
    goal = criteria.goals[each.code]
    decided = verdict(sensitivity, predictive_value, goal, criteria.precision, supported=supported)
    return ClassResult(
        code=each.code,
        name=each.name,
        supported=supported,
        sensitivity=sensitivity,
        predictive_value=predictive_value,
        kappa=kappa(one_class(counts, at)),
        mostly_taken_for=_wrong_predictions(found, labelled),
        accepted=rate(found, accepted, labelled),
        sensitivity_of_accepted=rate(found, found.right, labelled & accepted),
        predictive_value_of_accepted=rate(found, found.right, predicted & accepted),
        goal=goal,
        verdict=decided.verdict,
        why=decided.why,
        expected=decided.expected,
        missing_cells=decided.missing_cells,
    )


def _wrong_predictions(found: Observations, among: Mask) -> dict[str, int]:
    wrong = Counter(found.predicted[among & ~found.right].tolist())
    return {found.manifest.codes[at]: count for at, count in wrong.most_common()}


def confusion(found: Observations) -> dict[str, dict[str, int]]:
    """Label → predicted class → cells, without zeros; "none" for labels of other classes."""
    codes = (*found.manifest.codes, NO_CLASS)
    counts = confusion_by_patient(found, found.labelled).sum(axis=0)
    return {
        codes[true]: {codes[named]: int(counts[true, named]) for named in np.flatnonzero(counts[true]).tolist()}
        for true in np.flatnonzero(counts.sum(axis=1)).tolist()
    }


def subgroups(found: Observations) -> tuple[Subgroup, ...]:
    """Thirds of the cells of supported classes by properties of their pictures; none if a third has too few cells."""
    return tuple(
        Subgroup(
            property=name,
            group=group,
            accuracy=rate(found, found.right, members),
            accepted=rate(found, found.decided("accept"), members),
        )
        for name, column, groups in PROPERTIES
        for group, members in zip(groups, _thirds(found.measures[:, column], found.supported), strict=False)
    )


def _thirds(values: NDArray[np.float32], among: Mask) -> list[Mask]:
    """Three masks; none if a third would be too small, as where many cells have the same value."""
    if not among.any():
        return []
    low, high = np.quantile(values[among], [1 / 3, 2 / 3])
    thirds = [among & (values <= low), among & (values > low) & (values <= high), among & (values > high)]
    return thirds if min(third.sum() for third in thirds) >= MIN_SUBGROUP else []


def reader_pairs(found: Observations) -> tuple[ReaderPair, ...]:
    """Agreement between all pairs of readers, and of each reader with the model, on the cells that both have read."""
    codes = found.manifest.codes
    readings: dict[str, NDArray[np.int64]] = {}  # -1: not read
    for reader in sorted({name for cell in found.cells for name in cell.readings}):
        readings[reader] = np.array([_index(cell.readings, reader, codes) for cell in found.cells])
    if not readings:
        return ()
    return tuple(_pairs(found, readings | {MODEL: found.predicted}))


def _index(readings: Mapping[str, str | None], reader: str, codes: tuple[str, ...]) -> int:
    if reader not in readings:
        return -1
    label = readings[reader]
    return len(codes) if label is None else codes.index(label)


def _pairs(found: Observations, readings: dict[str, NDArray[np.int64]]) -> Iterator[ReaderPair]:
    for first, second in combinations(readings, 2):
        one, two = readings[first], readings[second]
        both = (one >= 0) & (two >= 0)
        if both.any():
            groups = None if found.patients is None else found.patients[both]
            counts = _counts(one[both], two[both], groups, found.other + 1)
            yield ReaderPair(first=first, second=second, agreement=rate(found, one == two, both), kappa=kappa(counts))
