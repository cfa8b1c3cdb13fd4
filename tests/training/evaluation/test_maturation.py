"""Agreement matrices: which confusions are tolerated; tolerating more never lowers a metric."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.contract import CLASSES, CellClass
from training.config import MATURATION
from training.evaluation.metrics import Pictures, classification_metrics, lineages, strict, tolerant

CODES = tuple(cell_class.code for cell_class in CLASSES)
seeds = st.integers(0, 2**32 - 1)


def _forgiven(codes: tuple[str, ...], chains: tuple[tuple[str, ...], ...]) -> set[frozenset[str]]:
    agreement = tolerant(codes, chains)
    assert (agreement == agreement.T).all() and agreement.diagonal().all()
    return {frozenset((codes[i], codes[j])) for i, j in np.argwhere(agreement) if i != j}


def test_neighbours_in_a_chain_are_forgiven_and_no_others() -> None:
    assert _forgiven(("A", "B", "C", "D"), (("C", "A", "B"),)) == {frozenset("CA"), frozenset("AB")}


def test_a_missing_stage_makes_no_neighbours_of_those_beside_it() -> None:
    assert _forgiven(("young", "old"), (("young", "between", "old"),)) == set()


def test_the_chains_name_classes_that_there_are_and_each_link_once() -> None:
    links = [frozenset(link) for chain in MATURATION for link in pairwise(chain)]
    assert {code for chain in MATURATION for code in chain} <= set(CODES)
    assert len(links) == len(set(links)) == 8
    assert _forgiven(CODES, MATURATION) == set(links)


def test_a_class_without_a_lineage_stands_by_itself() -> None:
    found = dict(zip(CODES, lineages(CLASSES), strict=True))
    assert found["MYB"] == found["NGS"] == "granulocytic"
    assert (found["BLA"], found["ART"], found["NIF"]) == ("BLA", "ART", "NIF")


def test_only_the_blast_is_a_neighbour_outside_of_its_lineage() -> None:
    of = dict(zip(CODES, lineages(CLASSES), strict=True))
    assert {link for link in _forgiven(CODES, MATURATION) if len({of[code] for code in link}) > 1} == {
        frozenset(("BLA", "PMO"))
    }


@given(seeds, st.integers(2, 9), st.integers(1, 60))
def test_each_level_forgives_what_the_one_before_it_does(seed: int, classes: int, n: int) -> None:
    """If neighbours share a lineage: strict ≤ tolerant ≤ lineage, overall and for each class."""
    random = np.random.default_rng(seed)
    codes = tuple(f"c{at}" for at in range(classes))
    groups = sorted(random.choice(["one", "two", "three"], classes).tolist())
    chains = [[code for code, of in zip(codes, groups, strict=True) if of == group] for group in sorted(set(groups))]
    pictures = Pictures(*random.integers(0, classes, (2, n)))
    metrics = classification_metrics(pictures, codes, tolerant(codes, chains), groups, "test")
    found = {(metric.name, metric.code): metric.value for metric in metrics}
    assert found["accuracy", None] <= found["tolerant_accuracy", None] <= found["lineage_accuracy", None]
    for name, code in found:
        if name in ("recall", "precision", "f1"):
            assert found[name, code] <= found[f"tolerant_{name}", code]


@pytest.mark.parametrize("count", [1, 3])
def test_where_nothing_is_forgiven_all_levels_are_one(count: int) -> None:
    codes = tuple("ABC"[:count])
    assert (tolerant(codes, ()) == strict(count)).all()
    alone = [CellClass(code=code, name=code) for code in codes]
    assert lineages(alone) == codes
