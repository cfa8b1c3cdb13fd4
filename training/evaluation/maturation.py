"""Which confusions a laboratory forgives: neighbouring stages of maturation, and classes of one lineage.

Knows class codes and lineages. Knows no pictures and no figures.

Human readers agree better on lineages than on stages (Parmentier et al. 2020, PMC7683448), and stages are cuts in a
continuum, so a figure without these two beside it says too little.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.contract import CellClass

Agreement = NDArray[np.bool_]  # (C, C), symmetric: whether naming j for i counts as right; the diagonal always does


def strict(count: int) -> Agreement:
    """Only the class itself is right, (C, C)."""
    return np.eye(count, dtype=np.bool_)


def tolerant(codes: Sequence[str], chains: Sequence[Sequence[str]]) -> Agreement:
    """The class and its direct neighbours in a chain are right, (C, C).

    A stage that the class list lacks leaves a gap: those on its two sides do not become neighbours.
    """
    at = {code: index for index, code in enumerate(codes)}
    agreement = strict(len(codes))
    for chain in chains:
        for young, old in zip(chain, chain[1:], strict=False):
            if young in at and old in at:
                agreement[at[young], at[old]] = agreement[at[old], at[young]] = True
    return agreement


def lineages(classes: Sequence[CellClass]) -> tuple[str, ...]:
    """The lineage of each class; one whose lineage is `other` stands by itself, under its code.

    `other` gathers what has no lineage in common (a blast, an artefact), so mistaking one for another is no agreement.
    """
    return tuple(c.code if c.lineage == "other" else c.lineage for c in classes)
