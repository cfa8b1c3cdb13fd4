"""How far two answers to the same pictures lie apart, and when that is more than rounding.

Knows arrays by their names. Knows nothing of what computed them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.float32]]


class Agreement(NamedTuple):
    """Two answers side by side."""

    differences: dict[str, float]  # by output: the largest absolute difference; NaN where there are such
    relative: float  # the largest of them, each relative to its output's largest value or to 1
    top1: float  # share of the pictures that both give the same class, 0..1


def compare(found: Arrays, expected: Arrays) -> Agreement:
    """One answer against another.

    Args:
        found, expected: by the same names, first axis N; "logits" (N, C) must be among them.

    Raises:
        ValueError: an output has another shape.
    """
    differences, relative = {}, 0.0
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape:
            raise ValueError(f"{name} has the shape {found[name].shape}, expected {wanted.shape}")
        difference = float(np.abs(found[name] - wanted).max())
        differences[name] = difference
        relative = float(np.maximum(relative, difference / max(1.0, float(np.abs(wanted).max()))))  # keeps NaN
    same = found["logits"].argmax(axis=1) == expected["logits"].argmax(axis=1)
    return Agreement(differences, relative, float(same.mean()))


def complaint(agreement: Agreement, tolerance: float) -> str | None:
    """What is wrong, or None where all differences are within the tolerance."""
    if agreement.relative <= tolerance:  # false for NaN too
        return None
    worst = max(agreement.differences, key=lambda name: np.nan_to_num(agreement.differences[name], nan=np.inf))
    return f"{worst} is off by {agreement.differences[worst]:.1e}, and {tolerance:.0e} of the largest value is allowed"
