"""Samples → the block that each belongs to: training, calibration or test.

Knows the kinds of split and what to call them. What stays together is told: pictures of one unit never part. Depends
on names and seeds alone, not on the order in which samples come; opens no file.

Where a class may have a single picture, scikit-learn's stratified splitters refuse or warn: shares are cut here, folds
and patients by scikit-learn.
"""

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold, StratifiedKFold

from training.config import (
    BlockShares,
    BlockSplit,
    DataConfig,
    GroupedSplit,
    KFoldSplit,
    ListedSplit,
    RandomSplit,
    SplitConfig,
)
from training.data.samples import BLOCKS, Block, Sample, Split, group_by_block

Indices = NDArray[np.int64]
Assigned = NDArray[np.int8]  # (N,) index into BLOCKS
TRAIN, CALIBRATION, TEST = range(len(BLOCKS))
#: Random divisions of the patients, of which the one whose classes are spread most evenly is taken.
CANDIDATE_SPLITS = 200


def split_blocks(samples: Sequence[Sample], blocks: BlockSplit) -> Split:
    """Cut each class of each source into contiguous blocks in file-name order: train, calibration, test."""
    return group_by_block(samples, assign_blocks(samples, blocks, np.arange(len(samples))))


def assign_blocks(
    samples: Sequence[Sample],
    split: SplitConfig,
    units: Indices,
    named: Mapping[tuple[str, str, str], Block] | None = None,
) -> list[Block]:
    """The block of each sample.

    Args:
        units: (N,) number of the unit that each sample belongs to: twins, or all pictures of a patient.
        named: sample key → the block that a list gives it; needed by kind "list" alone.

    Returns:
        One block a sample, in the order given. No unit stands in two blocks. Kinds "random", "grouped" and "kfold"
        deal out whole units; "blocks" and "list" say where each picture belongs, so a unit in two of their blocks goes
        to training as a whole: nothing learned is tested, and what is tested is a part of what was said.
    """
    order = np.array(sorted(range(len(samples)), key=lambda at: samples[at].place), dtype=np.int64)
    ordered = [samples[at] for at in order]
    cells = _Ordered(ordered, units[order])
    match split:
        case BlockSplit():
            found = _into_training(_blocks(cells, split), cells.units)
        case RandomSplit():
            found = _shares(cells, np.arange(len(ordered)), (split.train, split.calibration), split.seed)
        case GroupedSplit():
            found = _by_patient(cells, split)
        case KFoldSplit():
            found = _fold(cells, split)
        case ListedSplit():
            found = _into_training(_listed(cells, split, named or {}), cells.units)
    blocks: list[Block] = ["train"] * len(samples)
    for at, block in zip(order, found, strict=True):
        blocks[at] = BLOCKS[block]
    return blocks


class _Ordered:
    """Samples in the one order, their strata (class of a source) and their units, numbered by first appearance."""

    def __init__(self, samples: Sequence[Sample], units: Indices) -> None:
        self.samples = samples
        self.names = sorted({(sample.source, sample.code) for sample in samples})
        number = {name: at for at, name in enumerate(self.names)}
        self.strata = np.array([number[s.source, s.code] for s in samples], dtype=np.int64)
        _, first, inverse = np.unique(units, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        self.units: Indices = rank[inverse]
        self.heads: Indices = np.sort(first)  # the first sample of each unit stands for it


def _blocks(cells: _Ordered, blocks: BlockSplit) -> Assigned:
    found = np.zeros(len(cells.samples), np.int8)
    for stratum in range(len(cells.names)):
        mine = np.flatnonzero(cells.strata == stratum)
        first = round(len(mine) * blocks.train)
        second = first + round(len(mine) * blocks.calibration)
        found[mine[first:second]], found[mine[second:]] = CALIBRATION, TEST
    return found


def _into_training(found: Assigned, units: Indices) -> Assigned:
    """A unit in two blocks goes to training."""
    size = int(units.max(initial=-1)) + 1
    lowest, highest = np.full(size, TEST, np.int8), np.full(size, TRAIN, np.int8)
    np.minimum.at(lowest, units, found)
    np.maximum.at(highest, units, found)
    return np.where((lowest != highest)[units], np.int8(TRAIN), found)


def _shares(cells: _Ordered, among: Indices, shares: tuple[float, float], seed: int) -> Assigned:
    """Cut the units of each stratum at random: the first share is trained with, the second calibrates.

    A stratum's generator is seeded by its own name: another class more or less moves no picture of this one.
    """
    unit_block = np.full(int(cells.units.max(initial=-1)) + 1, TRAIN, np.int8)
    heads = np.intersect1d(cells.heads, among)
    for stratum, name in enumerate(cells.names):
        mine = permuted(cells.units[heads[cells.strata[heads] == stratum]], "/".join(name), seed)
        first = round(len(mine) * shares[0])
        second = first + round(len(mine) * shares[1])
        unit_block[mine[first:second]], unit_block[mine[second:]] = CALIBRATION, TEST
    return unit_block[cells.units]


def permuted(numbers: Indices, name: str, seed: int) -> Indices:
    """The numbers in an order drawn by a seed and a name."""
    return np.random.default_rng([seed, *name.encode()]).permutation(numbers)


def _by_patient(cells: _Ordered, split: GroupedSplit) -> Assigned:
    found = np.zeros(len(cells.samples), np.int8)
    everyone = np.arange(len(cells.samples))
    describe_test_set = _even_draw(cells, everyone, split.test, split.seed)
    found[describe_test_set] = TEST
    rest = np.setdiff1d(everyone, describe_test_set)
    found[_even_draw(cells, rest, split.calibration / (1 - split.test), split.seed)] = CALIBRATION
    return found


def _even_draw(cells: _Ordered, among: Indices, share: float, seed: int) -> Indices:
    """Whole units that hold about a share of each class: of many random draws, the most even one.

    GroupShuffleSplit draws a share of the units and looks at no class; StratifiedGroupKFold looks at the classes and
    cuts equal folds. Shares such as 80, 7.5 and 12.5 % need both.
    """
    units, strata = cells.units[among], cells.strata[among]
    if len(np.unique(units)) < 2:
        raise ValueError("all pictures belong to one patient or are twins of its pictures: they cannot be split")
    wanted = share * np.bincount(strata, minlength=len(cells.names))
    shuffle = GroupShuffleSplit(n_splits=CANDIDATE_SPLITS, test_size=share, random_state=seed)
    draws = [draw for _, draw in shuffle.split(among, strata, units)]
    # Square roots: a rare class weighs as its chance variation does, so that no class is lost for a frequent one.
    scale = np.sqrt(np.maximum(wanted, 1))
    misses = [np.abs((np.bincount(strata[d], minlength=len(wanted)) - wanted) / scale).sum() for d in draws]
    return among[draws[int(np.argmin(misses))]]


def _fold(cells: _Ordered, split: KFoldSplit) -> Assigned:
    everyone = np.arange(len(cells.samples))
    with warnings.catch_warnings():  # of a class with fewer pictures than folds: the table of counts shows it
        warnings.filterwarnings("ignore", message="The least populated class")
        if split.by_patient:
            folds = StratifiedGroupKFold(split.k, shuffle=True, random_state=split.seed)
            describe_test_set = list(folds.split(everyone, cells.strata, cells.units))[split.fold][1]
        else:
            folds = StratifiedKFold(split.k, shuffle=True, random_state=split.seed)
            heads = list(folds.split(cells.heads, cells.strata[cells.heads]))[split.fold][1]
            describe_test_set = np.flatnonzero(np.isin(cells.units, cells.units[cells.heads[heads]]))
    rest = np.setdiff1d(everyone, describe_test_set)
    if split.by_patient:
        found = np.zeros(len(cells.samples), np.int8)
        found[_even_draw(cells, rest, split.calibration, split.seed)] = CALIBRATION
    else:
        found = _shares(cells, rest, (1 - split.calibration, 1.0), split.seed)
    found[describe_test_set] = TEST
    return found


def _listed(cells: _Ordered, split: ListedSplit, named: Mapping[tuple[str, str, str], Block]) -> Assigned:
    told = np.array([BLOCKS.index(named.get(sample.key, "train")) for sample in cells.samples], dtype=np.int8)
    if (told == CALIBRATION).any():
        return told
    rest = np.flatnonzero(told != TEST)
    found = _shares(cells, rest, (1 - split.calibration, 1.0), split.seed)
    found[told == TEST] = TEST
    return found


def subsample(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """A share of each class of each source, at least one picture, drawn at random; in the order given.

    A larger share with the same seed holds the smaller: points of a learning curve differ by what was added.
    """
    if share == 1:
        return list(samples)
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at in sorted(range(len(samples)), key=lambda at: samples[at].place):
        strata[samples[at].source, samples[at].code].append(at)
    kept: set[int] = set()
    for name, mine in strata.items():
        kept.update(permuted(np.array(mine), "/".join(name), seed)[: max(round(len(mine) * share), 1)].tolist())
    return [sample for at, sample in enumerate(samples) if at in kept]


def subsample_classes(samples: Sequence[Sample], shares: Mapping[str, float], seed: int) -> list[Sample]:
    """Of each class that `shares` names, its share, drawn as by `sampled`; of the others all; in the order given."""
    kept = {code: set(subsample([s for s in samples if s.code == code], share, seed)) for code, share in shares.items()}
    return [sample for sample in samples if sample.code not in kept or sample in kept[sample.code]]


def group_ids(count: int, *pairings: Sequence[tuple[int, int]]) -> Indices:
    """Units from pairs that must stay together, transitively: (N,) number of the unit of each sample."""
    pairs = np.array([pair for pairing in pairings for pair in pairing], dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def patient_pairs(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs that join all pictures of a patient of a source; a picture of no known patient is joined to none."""
    patients: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, sample in enumerate(samples):
        if sample.patient:
            patients[sample.source, sample.patient].append(at)
    return [pair for mine in patients.values() for pair in pairwise(mine)]


def describe_split(data: DataConfig, twins_looked_for: bool = True) -> str:
    """How the pictures were divided, for a manifest.

    Args:
        twins_looked_for: whether near duplicates were; runs of earlier versions did not look.
    """
    sentence = _division(data.split)
    drawn = f"{data.sample:.1%} of each class, drawn at random (seed {data.sample_seed})"
    if data.sample < 1 and data.sample_of == "all":
        sentence = f"of {drawn}: {sentence}"
    elif data.sample < 1:
        sentence += f"; trained on {drawn} from the training block"
    if data.training_shares:
        shares = ", ".join(f"{code} {share:.1%}" for code, share in data.training_shares.items())
        sentence += f"; trained on a share of some classes (seed {data.sample_seed}): {shares}"
    if twins_looked_for and data.twins.action != "off":
        kept = "on one side" if data.twins.action == "move" else "listed, not moved"
        sentence += (
            f"; near duplicates (perceptual hashes that differ in at most {data.twins.max_distance} of 255 bits) {kept}"
        )
    return sentence


def describe_test_set(split: SplitConfig) -> str:
    """Which pictures a figure was measured on, to stand beside it."""
    match split:
        case BlockSplit():
            return f"last {split.test:.1%} of each class in file order"
        case RandomSplit():
            return f"random {split.test:.1%} of each class (seed {split.seed})"
        case GroupedSplit():
            return (
                f"patients with about {split.test:.1%} of the pictures (seed {split.seed}), none of them trained with"
            )
        case KFoldSplit():
            whole = "whole patients" if split.by_patient else "pictures at random"
            return f"fold {split.fold + 1} of {split.k}, {whole}, stratified by class (seed {split.seed})"
        case ListedSplit():
            return f"the test pictures that {split.path.name} names"


def _division(split: SplitConfig) -> str:
    match split:
        case BlockSplit():
            return f"contiguous blocks of each class in file-name order: {_shares_text(split)}"
        case RandomSplit():
            return f"at random in each class of each source (seed {split.seed}): {_shares_text(split)}"
        case GroupedSplit():
            return f"by patient (seed {split.seed}), none on two sides: about {_shares_text(split)}"
        case KFoldSplit() | ListedSplit():
            rest = f"of the others {split.calibration:.1%} calibration (seed {split.seed}), the rest training"
            return f"tested: {describe_test_set(split)}; {rest}"


def _shares_text(shares: BlockShares) -> str:
    return f"{shares.train:.1%} training, {shares.calibration:.1%} calibration, {shares.test:.1%} test"
