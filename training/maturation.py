"""Which confusions a laboratory forgives: neighbouring stages of maturation, and classes of one lineage.

Knows class codes and lineages. Knows no pictures and no figures.

Human readers agree better on lineages than on stages (Parmentier et al. 2020, PMC7683448), and stages are cuts in a
continuum, so a figure without these two beside it says too little.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.contract import CellClass

#: Chains of maturation, young to old; classes next to each other in a chain are neighbours.
#: Inferred, not published: Matek et al. 2021 (doi 10.1182/blood.2020010568) print tolerant figures in Table 1 without
#: the list behind them. These links are enough for every difference between its strict and its tolerant columns, and
#: without any one of them the table contradicts itself. Hairy cells stand beside lymphocytes for that reason alone.
MATURATION: tuple[tuple[str, ...], ...] = (
    ("BLA", "PMO", "MYB", "MMZ", "NGB", "NGS"),
    ("PEB", "EBO"),
    ("LYI", "LYT", "HAC"),
)

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
