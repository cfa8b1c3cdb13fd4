"""Assignment of samples to training, calibration and test, and the description of a split.

Samples of one group (near duplicates, pictures of a patient or of like appearance) stay together. The result depends on
names and seeds, not on the order of the samples. scikit-learn makes folds and splits by group; its stratified splitters
reject classes with a single picture, so shares of classes are cut here.
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

from training.data.samples import BLOCKS, Block, Key, Sample
from training.data_config import DataConfig
from training.split_config import (
    BlockShares,
    BlockSplit,
    GroupedSplit,
    KFoldSplit,
    ListedSplit,
    RandomSplit,
    SplitConfig,
)

Indices = NDArray[np.int64]
Assigned = NDArray[np.int8]  # (N,) index into BLOCKS
TRAIN, CALIBRATION, TEST = range(len(BLOCKS))
#: Random splits by patient that are compared; the one with the most even classes is used.
CANDIDATE_SPLITS = 200
#: `by` of a split → its groups; {} is the number of clusters.
_GROUPS = {
    "patient": "patients",
    "group": "slides or fields",
    "appearance": "clusters of like background and stain, {} per source (a proxy for slides, not slides)",
}


def assign_blocks(
    samples: Sequence[Sample], split: SplitConfig, groups: Indices, named: Mapping[Key, Block] | None = None
) -> list[Block]:
    """The block of each sample, in the given order.

    No group is in two blocks. Kinds "random", "grouped" and "kfold" deal out whole groups. Kinds "blocks" and "list"
    fix the block of each picture; a group in two of their blocks goes to training, so the test block only shrinks.

    Args:
        groups: (N,) number of each sample's group.
        named: sample key → its block in the predefined split, for kind "list".
    """
    order = np.array(sorted(range(len(samples)), key=lambda at: samples[at].sort_key), dtype=np.int64)
    ordered = _Ordered([samples[at] for at in order], groups[order])
    match split:
        case BlockSplit():
            found = _move_to_training(_contiguous(ordered, split), ordered.groups)
        case RandomSplit():
            found = _random(ordered, np.arange(len(order)), (split.train, split.calibration), split.seed)
        case GroupedSplit():
            found = _by_group(ordered, split)
        case KFoldSplit():
            found = _fold(ordered, split)
        case ListedSplit():
            found = _move_to_training(_predefined(ordered, split, named or {}), ordered.groups)
    blocks: list[Block] = ["train"] * len(samples)
    for at, block in zip(order, found, strict=True):
        blocks[at] = BLOCKS[block]
    return blocks


class _Ordered:
    """Samples in sorting order with their strata (class of a source) and groups, numbered by first appearance."""

    def __init__(self, samples: Sequence[Sample], groups: Indices) -> None:
        self.samples = samples
        self.names = sorted({(sample.source, sample.code) for sample in samples})
        number = {name: at for at, name in enumerate(self.names)}
        self.strata = np.array([number[s.source, s.code] for s in samples], dtype=np.int64)
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        self.groups: Indices = rank[inverse]
        self.heads: Indices = np.sort(first)  # the first sample of each group


def _contiguous(ordered: _Ordered, split: BlockSplit) -> Assigned:
    found = np.zeros(len(ordered.samples), np.int8)
    for stratum in range(len(ordered.names)):
        members = np.flatnonzero(ordered.strata == stratum)
        first = round(len(members) * split.train)
        second = first + round(len(members) * split.calibration)
        found[members[first:second]], found[members[second:]] = CALIBRATION, TEST
    return found


def _move_to_training(found: Assigned, groups: Indices) -> Assigned:
    """Assign groups that are in two blocks to training."""
    size = int(groups.max(initial=-1)) + 1
    lowest, highest = np.full(size, TEST, np.int8), np.full(size, TRAIN, np.int8)
    np.minimum.at(lowest, groups, found)
    np.maximum.at(highest, groups, found)
    return np.where((lowest != highest)[groups], np.int8(TRAIN), found)


def _random(ordered: _Ordered, among: Indices, shares: tuple[float, float], seed: int) -> Assigned:
    """Divide the groups of each stratum at random into training, calibration and test.

    A stratum's generator is seeded by its name, so adding a class leaves the others unchanged.

    Args:
        among: indices of the samples to divide.
        shares: of training and calibration; the rest is tested.
    """
    group_block = np.full(int(ordered.groups.max(initial=-1)) + 1, TRAIN, np.int8)
    heads = np.intersect1d(ordered.heads, among)
    for stratum, name in enumerate(ordered.names):
        members = _permuted(ordered.groups[heads[ordered.strata[heads] == stratum]], "/".join(name), seed)
        first = round(len(members) * shares[0])
        second = first + round(len(members) * shares[1])
        group_block[members[first:second]], group_block[members[second:]] = CALIBRATION, TEST
    return group_block[ordered.groups]


def _permuted(numbers: Indices, name: str, seed: int) -> Indices:
    return np.random.default_rng([seed, *name.encode()]).permutation(numbers)


def _by_group(ordered: _Ordered, split: GroupedSplit) -> Assigned:
    found = np.zeros(len(ordered.samples), np.int8)
    everyone = np.arange(len(ordered.samples))
    tested = _balanced_groups(ordered, everyone, split.test, split.seed)
    found[tested] = TEST
    rest = np.setdiff1d(everyone, tested)
    found[_balanced_groups(ordered, rest, split.calibration / (1 - split.test), split.seed)] = CALIBRATION
    return found


def _balanced_groups(ordered: _Ordered, among: Indices, share: float, seed: int) -> Indices:
    """Samples of whole groups with about this share of each class: the most even of CANDIDATE_SPLITS random draws.

    GroupShuffleSplit draws a share of the groups regardless of class; StratifiedGroupKFold respects classes, but makes
    equal folds. Shares such as 80, 7.5 and 12.5 % need both.
    """
    groups, strata = ordered.groups[among], ordered.strata[among]
    if len(np.unique(groups)) < 2:
        raise ValueError("all pictures are in one group (patient, cluster or near duplicates); cannot split")
    wanted = share * np.bincount(strata, minlength=len(ordered.names))
    shuffle = GroupShuffleSplit(n_splits=CANDIDATE_SPLITS, test_size=share, random_state=seed)
    draws = [draw for _, draw in shuffle.split(among, strata, groups)]
    # Divided by the square root: errors relative to the chance variation of a class, so that rare classes count.
    scale = np.sqrt(np.maximum(wanted, 1))
    errors = [np.abs((np.bincount(strata[d], minlength=len(wanted)) - wanted) / scale).sum() for d in draws]
    return among[draws[int(np.argmin(errors))]]


def _fold(ordered: _Ordered, split: KFoldSplit) -> Assigned:
    everyone = np.arange(len(ordered.samples))
    with warnings.catch_warnings():  # classes with fewer pictures than folds are visible in the table of counts
        warnings.filterwarnings("ignore", message="The least populated class")
        if split.by != "picture":
            folds = StratifiedGroupKFold(split.k, shuffle=True, random_state=split.seed)
            tested = list(folds.split(everyone, ordered.strata, ordered.groups))[split.fold][1]
        else:
            folds = StratifiedKFold(split.k, shuffle=True, random_state=split.seed)
            heads = list(folds.split(ordered.heads, ordered.strata[ordered.heads]))[split.fold][1]
            tested = np.flatnonzero(np.isin(ordered.groups, ordered.groups[ordered.heads[heads]]))
    rest = np.setdiff1d(everyone, tested)
    if split.by != "picture":
        found = np.zeros(len(ordered.samples), np.int8)
        found[_balanced_groups(ordered, rest, split.calibration, split.seed)] = CALIBRATION
    else:
        found = _random(ordered, rest, (1 - split.calibration, 1.0), split.seed)
    found[tested] = TEST
    return found


def _predefined(ordered: _Ordered, split: ListedSplit, named: Mapping[Key, Block]) -> Assigned:
    listed = np.array([BLOCKS.index(named.get(sample.key, "train")) for sample in ordered.samples], dtype=np.int8)
    if (listed == CALIBRATION).any():
        return listed
    rest = np.flatnonzero(listed != TEST)
    found = _random(ordered, rest, (1 - split.calibration, 1.0), split.seed)
    found[listed == TEST] = TEST
    return found


def subsample(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """A random share of each class of each source, at least one picture; in the given order.

    With the same seed, a larger share contains the smaller one, as a learning curve needs.
    """
    if share == 1:
        return list(samples)
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at in sorted(range(len(samples)), key=lambda at: samples[at].sort_key):
        strata[samples[at].source, samples[at].code].append(at)
    kept: set[int] = set()
    for name, members in strata.items():
        kept.update(_permuted(np.array(members), "/".join(name), seed)[: max(round(len(members) * share), 1)].tolist())
    return [sample for at, sample in enumerate(samples) if at in kept]


def subsample_classes(samples: Sequence[Sample], shares: Mapping[str, float], seed: int) -> list[Sample]:
    """A share (class → share) of some classes, drawn as by `subsample`, and all of the others; in the given order."""
    kept = {code: set(subsample([s for s in samples if s.code == code], share, seed)) for code, share in shares.items()}
    return [sample for sample in samples if sample.code not in kept or sample in kept[sample.code]]


def group_ids(count: int, *pairings: Sequence[tuple[int, int]]) -> Indices:
    """Connected components of pairs that must stay together: (N,) number of each sample's group."""
    pairs = np.array([pair for pairing in pairings for pair in pairing], dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def patient_pairs(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs that connect all pictures of a patient within a source; pictures without a patient are in no pair."""
    return _pairs(samples, [sample.patient for sample in samples])


def slide_pairs(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs that connect all pictures of a slide or field within a source; pictures without one are in no pair."""
    return _pairs(samples, [sample.group for sample in samples])


def _pairs(samples: Sequence[Sample], names: Sequence[str]) -> list[tuple[int, int]]:
    together: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, (sample, name) in enumerate(zip(samples, names, strict=True)):
        if name:
            together[sample.source, name].append(at)
    return [pair for members in together.values() for pair in pairwise(members)]


def describe_split(data: DataConfig) -> str:
    """One sentence about the split, for the manifest."""
    sentence = _kind_of_split(data.split)
    drawn = f"{data.sample:.1%} of each class, drawn at random (seed {data.sample_seed})"
    if data.sample < 1 and data.sample_of == "all":
        sentence = f"of {drawn}: {sentence}"
    elif data.sample < 1:
        sentence += f"; trained on {drawn} from the training block"
    if data.held_out:
        sentence = f"without the test pictures of {data.held_out.name}: {sentence}"
    if data.training_shares:
        shares = ", ".join(f"{code} {share:.1%}" for code, share in data.training_shares.items())
        sentence += f"; trained on a share of some classes (seed {data.sample_seed}): {shares}"
    if data.twins.action != "off":
        handled = "on one side" if data.twins.action == "move" else "listed, not moved"
        bits = f"perceptual hashes that differ in at most {data.twins.max_distance} of 255 bits"
        sentence += f"; near duplicates ({bits}) {handled}"
    if data.overlaps.action == "move":
        sentence += f"; overlapping pictures (correlation of {data.overlaps.min_correlation:g} or more) on one side"
    if data.outliers:
        sentence += f"; outlier exposure to pictures of no class: {', '.join(map(str, data.outliers))}"
    return sentence


def describe_test_set(split: SplitConfig) -> str:
    """A phrase about the test block, printed beside its figures."""
    match split:
        case BlockSplit():
            return f"last {split.test:.1%} of each class in file order"
        case RandomSplit():
            return f"random {split.test:.1%} of each class (seed {split.seed})"
        case GroupedSplit():
            whole = _GROUPS[split.by].format(split.clusters)
            return f"{whole} with about {split.test:.1%} of the pictures (seed {split.seed}), not used in training"
        case KFoldSplit():
            members = "pictures at random" if split.by == "picture" else f"whole {_GROUPS[split.by]}"
            members = members.format(split.clusters)
            return f"fold {split.fold + 1} of {split.k}, {members}, stratified by class (seed {split.seed})"
        case ListedSplit():
            return f"test pictures listed in {split.path.name}"


def _kind_of_split(split: SplitConfig) -> str:
    match split:
        case BlockSplit():
            order = "random in effect unless file names follow patients"
            return f"contiguous blocks of each class in file-name order ({order}): {_percentages(split)}"
        case RandomSplit():
            return f"at random in each class of each source (seed {split.seed}): {_percentages(split)}"
        case GroupedSplit():
            whole = _GROUPS[split.by].format(split.clusters)
            return f"whole {whole} (seed {split.seed}): about {_percentages(split)}"
        case KFoldSplit() | ListedSplit():
            rest = f"of the others {split.calibration:.1%} calibration (seed {split.seed}), the rest training"
            return f"tested: {describe_test_set(split)}; {rest}"


def _percentages(shares: BlockShares) -> str:
    return f"{shares.train:.1%} training, {shares.calibration:.1%} calibration, {shares.test:.1%} test"
