"""What is said of a split: one sentence for the manifest, one phrase beside each figure.

Knows the kinds of split and their numbers. Splits nothing.
"""

from training.config import Blocks, DataConfig, GroupedSplit, KFold, ListedSplit, RandomSplit, Shares, SplitConfig


def describe(data: DataConfig, twins_looked_for: bool = True) -> str:
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


def tested(split: SplitConfig) -> str:
    """Which pictures a figure was measured on, to stand beside it."""
    match split:
        case Blocks():
            return f"last {split.test:.1%} of each class in file order"
        case RandomSplit():
            return f"random {split.test:.1%} of each class (seed {split.seed})"
        case GroupedSplit():
            return (
                f"patients with about {split.test:.1%} of the pictures (seed {split.seed}), none of them trained with"
            )
        case KFold():
            whole = "whole patients" if split.by_patient else "pictures at random"
            return f"fold {split.fold + 1} of {split.k}, {whole}, stratified by class (seed {split.seed})"
        case ListedSplit():
            return f"the test pictures that {split.path.name} names"


def _division(split: SplitConfig) -> str:
    match split:
        case Blocks():
            return f"contiguous blocks of each class in file-name order: {_shares(split)}"
        case RandomSplit():
            return f"at random in each class of each source (seed {split.seed}): {_shares(split)}"
        case GroupedSplit():
            return f"by patient (seed {split.seed}), none on two sides: about {_shares(split)}"
        case KFold() | ListedSplit():
            rest = f"of the others {split.calibration:.1%} calibration (seed {split.seed}), the rest training"
            return f"tested: {tested(split)}; {rest}"


def _shares(shares: Shares) -> str:
    return f"{shares.train:.1%} training, {shares.calibration:.1%} calibration, {shares.test:.1%} test"
