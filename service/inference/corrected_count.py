"""The differential count corrected by the confusion matrix of known cells, beside the count of names.

It never replaces the count: it assumes that every cell is of a supported class and is named as the known cells were.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.contract import Manifest
from model.trust.prevalence import corrected_shares
from service.inference.differential import is_counted

#: Name of the column of all names that are no class of the matrix.
_OTHER = "other"


@dataclass(frozen=True, slots=True)
class CorrectedShare:
    """Posterior mean of one class's share of the counted cells and its 95 % credible interval, in per cent."""

    code: str
    name: str
    percent: float
    low: float
    high: float


def corrected_count(
    counts: Mapping[str, int], manifest: Manifest, *, count_other: bool
) -> tuple[CorrectedShare, ...] | None:
    """The corrected shares of the counted, supported classes in logit order. Takes about 50 ms.

    None without a trust reference, and without a cell.

    Args:
        counts: cells by predicted class.
    """
    if manifest.trust is None or not sum(counts.values()):
        return None
    true = [each for each in manifest.classes if each.code in manifest.trust.confusion]
    names = [*(each.code for each in true), _OTHER]
    matrix = [_columns(manifest.trust.confusion[each.code], names) for each in true]
    counted = np.array([is_counted(each, count_other=count_other) for each in true])
    if not counted.any():
        return None
    found = corrected_shares(np.array(matrix), np.array(_columns(counts, names)), counted)
    shares = (100 * np.stack(found, axis=1)).round(6).tolist()  # the smallest draws have exponents like e-64
    classes = [each for each, is_in in zip(true, counted, strict=True) if is_in]
    return tuple(CorrectedShare(each.code, each.name, *row) for each, row in zip(classes, shares, strict=True))


def _columns(counts: Mapping[str, int], names: list[str]) -> list[int]:
    """The counts of the names; those of all other classes are added up in the last."""
    own = [counts.get(name, 0) for name in names[:-1]]
    return [*own, sum(counts.values()) - sum(own)]
