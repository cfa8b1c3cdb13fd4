"""All kinds of split: every picture in one block, no group in two, shares as configured, independent of file order."""

import tomllib
from collections import Counter
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minimal_config import MINIMAL

from examples import examples
from training.config import Config, validate_table
from training.data.index import index_data, load_split
from training.data.samples import BLOCKS, Block, DataError, Sample, group_by_block, split_csv
from training.data.splits import assign_blocks, describe_split, group_ids, patient_pairs, subsample
from training.split_config import BlockSplit, GroupedSplit, KFoldSplit, ListedSplit, RandomSplit, SplitConfig

CODES = ("BLA", "EOS", "PMO")
SOURCES = ("marrow", "blood")
Divided = tuple[list[Sample], SplitConfig, list[tuple[int, int]], dict[tuple[str, str, str], Block]]


def _cells(counts: dict[tuple[str, str], int], patients: int = 0) -> list[Sample]:
    return [
        Sample(
            source,
            code,
            f"{code}_{n:05d}.jpg",
            Path(f"{source}/{code}_{n:05d}.jpg"),
            patient=f"p{n % patients}" if patients else "",
        )
        for (source, code), count in counts.items()
        for n in range(1, count + 1)
    ]


def _alone(samples: list[Sample]) -> np.ndarray:
    return np.arange(len(samples))


counts = st.dictionaries(
    st.tuples(st.sampled_from(SOURCES), st.sampled_from(CODES)), st.integers(1, 40), min_size=2, max_size=4
)
shares = st.builds(
    lambda train, calibration: {"train": train, "calibration": calibration, "test": 1 - train - calibration},
    st.floats(0.3, 0.8),
    st.floats(0.05, 0.15),
)
seeds = st.integers(0, 2**32 - 1)
kinds: st.SearchStrategy[SplitConfig] = st.one_of(
    st.builds(lambda told: BlockSplit(**told), shares),
    st.builds(lambda told, seed: RandomSplit(kind="random", seed=seed, **told), shares, seeds),
    st.builds(
        lambda k, fold, seed: KFoldSplit(kind="kfold", k=k, fold=fold % k, seed=seed),
        st.integers(2, 5),
        st.integers(0, 4),
        seeds,
    ),
    st.builds(lambda seed: ListedSplit(kind="list", path=Path("test.csv"), seed=seed), seeds),
)


@st.composite
def _divided(
    draw: st.DrawFn,
) -> tuple[list[Sample], SplitConfig, list[tuple[int, int]], dict[tuple[str, str, str], Block]]:
    samples = _cells(draw(counts))
    indices = st.integers(0, len(samples) - 1)
    twins = draw(st.lists(st.tuples(indices, indices), max_size=8))
    named: dict[tuple[str, str, str], Block] = {samples[at].key: "test" for at in draw(st.sets(indices, max_size=20))}
    return samples, draw(kinds), twins, named


@settings(max_examples=examples(40))
@given(_divided(), st.randoms())
def test_no_unit_stands_in_two_blocks_and_the_order_of_files_decides_nothing(divided: Divided, random: Random) -> None:
    samples, split, twins, named = divided
    try:
        blocks = assign_blocks(samples, split, group_ids(len(samples), twins), named)
    except ValueError as error:  # scikit-learn warns of classes with fewer pictures than folds
        assert isinstance(split, KFoldSplit) and "n_splits" in str(error)
        return
    assert len(blocks) == len(samples) and set(blocks) <= set(BLOCKS)
    assert all(blocks[first] == blocks[second] for first, second in twins)
    order = list(range(len(samples)))
    random.shuffle(order)
    place = {at: new for new, at in enumerate(order)}
    moved = [(place[first], place[second]) for first, second in twins]
    shuffled = assign_blocks([samples[at] for at in order], split, group_ids(len(samples), moved), named)
    assert shuffled == [blocks[at] for at in order]


@settings(max_examples=examples(20))
@given(counts, shares)
def test_blocks_are_contiguous_and_of_the_shares_asked(counts: dict, shares: dict[str, float]) -> None:
    samples = _cells(counts)
    parts = group_by_block(samples, assign_blocks(samples, BlockSplit(**shares), _alone(samples)))
    for (source, code), count in counts.items():
        mine = [s for s in samples if (s.source, s.code) == (source, code)]
        joined = [s for block in BLOCKS for s in parts[block] if (s.source, s.code) == (source, code)]
        assert joined == mine
        trained = [s for s in parts["train"] if (s.source, s.code) == (source, code)]
        assert len(trained) == round(count * shares["train"])


@settings(max_examples=examples(20))
@given(counts, shares, seeds)
def test_a_random_split_has_the_shares_asked_in_each_class_of_each_source(
    counts: dict, shares: dict[str, float], seed: int
) -> None:
    samples = _cells(counts)
    blocks = assign_blocks(samples, RandomSplit(kind="random", seed=seed, **shares), _alone(samples))
    found = Counter((s.source, s.code, block) for s, block in zip(samples, blocks, strict=True))
    for stratum, count in counts.items():
        assert found[*stratum, "train"] == round(count * shares["train"])
        assert found[*stratum, "calibration"] <= round(count * shares["calibration"])
        assert abs(found[*stratum, "test"] - count * shares["test"]) <= 1


def test_a_seed_draws_anew_and_a_further_class_moves_no_picture() -> None:
    few = _cells({("marrow", "BLA"): 50, ("marrow", "EOS"): 50})
    more = few + _cells({("marrow", "PMO"): 50})
    split = RandomSplit(kind="random", seed=1)
    blocks = assign_blocks(few, split, _alone(few))
    assert assign_blocks(more, split, _alone(more))[: len(few)] == blocks
    assert assign_blocks(few, split.model_copy(update={"seed": 2}), _alone(few)) != blocks


@pytest.mark.parametrize("by", ["picture", "patient"])
def test_over_all_folds_each_picture_is_tested_once_and_calibration_is_cut_from_the_rest(
    by: Literal["picture", "patient"],
) -> None:
    samples = _cells({("marrow", "BLA"): 60, ("marrow", "EOS"): 40, ("blood", "EOS"): 3}, patients=12)
    units = group_ids(len(samples), patient_pairs(samples) if by == "patient" else [(0, 30), (30, 59)])
    tested: Counter[int] = Counter()
    for fold in range(5):
        split = KFoldSplit(kind="kfold", k=5, fold=fold, calibration=0.2, by=by, seed=3)
        blocks = assign_blocks(samples, split, units)
        tested.update(at for at, block in enumerate(blocks) if block == "test")
        sides = {unit: {block for at, block in enumerate(blocks) if units[at] == unit} for unit in set(units)}
        assert all(len(side) == 1 for side in sides.values())
        assert 0.1 < blocks.count("calibration") / (len(samples) - blocks.count("test")) < 0.3
    assert tested == Counter(range(len(samples)))


def test_a_class_with_fewer_pictures_than_folds_is_tested_once_too() -> None:
    samples = _cells({("marrow", "BLA"): 30, ("marrow", "EOS"): 2})
    tested = Counter()
    for fold in range(5):
        blocks = assign_blocks(samples, KFoldSplit(kind="kfold", fold=fold), _alone(samples))
        tested.update(s.code for s, block in zip(samples, blocks, strict=True) if block == "test")
    assert tested == {"BLA": 30, "EOS": 2}


@settings(max_examples=examples(16))
@given(seed=seeds)
def test_no_patient_stands_on_two_sides_and_every_class_on_each(seed: int) -> None:
    samples = _cells({("marrow", "BLA"): 300, ("marrow", "EOS"): 150, ("marrow", "PMO"): 40}, patients=20)
    split = GroupedSplit(kind="grouped", train=0.6, calibration=0.15, test=0.25, seed=seed)
    blocks = assign_blocks(samples, split, group_ids(len(samples), patient_pairs(samples)))
    sides: dict[str, set[Block]] = {sample.patient: set() for sample in samples}
    for sample, block in zip(samples, blocks, strict=True):
        sides[sample.patient].add(block)
    assert all(len(side) == 1 for side in sides.values())
    assert {(s.code, block) for s, block in zip(samples, blocks, strict=True)} == {
        (c, b) for c in CODES for b in BLOCKS
    }
    assert abs(blocks.count("test") / len(samples) - 0.25) < 0.06
    assert abs(blocks.count("calibration") / len(samples) - 0.15) < 0.06


def test_one_patient_cannot_be_split() -> None:
    samples = _cells({("marrow", "BLA"): 10}, patients=1)
    with pytest.raises(ValueError, match="in one group"):
        assign_blocks(samples, GroupedSplit(kind="grouped"), group_ids(10, patient_pairs(samples)))


def test_patients_of_the_same_name_in_two_sources_are_two_and_the_unknown_are_apart() -> None:
    samples = _cells({("marrow", "BLA"): 3, ("blood", "BLA"): 3}, patients=1) + _cells({("marrow", "EOS"): 2})
    assert group_ids(8, patient_pairs(samples)).tolist() == [0, 0, 0, 1, 1, 1, 2, 3]


def test_twins_of_two_blocks_go_to_training_and_take_nothing_else_with_them() -> None:
    samples = _cells({("marrow", "BLA"): 100})
    said = assign_blocks(samples, BlockSplit(), _alone(samples))
    blocks = assign_blocks(samples, BlockSplit(), group_ids(100, [(0, 95), (81, 99), (97, 98)]))
    moved = {at: block for at, block in enumerate(blocks) if block != said[at]}
    assert moved == {95: "train", 81: "train", 99: "train"}


@settings(max_examples=examples(20))
@given(counts, st.floats(0.01, 0.5), st.floats(1, 2), seeds)
def test_a_larger_sample_holds_the_smaller_and_no_class_is_lost(
    counts: dict, share: float, times: float, seed: int
) -> None:
    samples = _cells(counts)
    small, large = subsample(samples, share, seed), subsample(samples, share * times, seed)
    assert set(small) <= set(large) <= set(samples)
    assert small == [sample for sample in samples if sample in set(small)]
    found = Counter((s.source, s.code) for s in small)
    assert found == {stratum: max(round(count * share), 1) for stratum, count in counts.items()}
    assert set(subsample(samples[::-1], share, seed)) == set(small)


def _held_out(folder: Path, text: str) -> Config:
    (folder / "held.csv").write_text(text)
    return validate_table(Config, tomllib.loads(MINIMAL) | {"data": _data(folder)}, folder)


def _data(folder: Path) -> dict[str, object]:
    source = {"name": "drawn", "folder": "drawn", "licence": "CC0", "attribution": "drawn"}
    split = {"kind": "kfold", "k": 3}
    return {"sources": [source], "held_out": folder / "held.csv", "twins": {"action": "off"}, "split": split}


def test_folds_leave_out_what_another_run_tests(tmp_path: Path) -> None:
    for code in CODES:
        (tmp_path / "drawn" / code).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "drawn" / code / f"{number:02d}.png").touch()
    rows = [f"{'test' if at < 3 else 'train'},drawn,{code},{at:02d}.png" for code in CODES for at in range(12)]
    config = _held_out(tmp_path, "block,source,code,file\n" + "\n".join(rows) + "\n")
    index = index_data(config.data, tmp_path, config.codes, None)
    used = [sample for members in index.split.values() for sample in members]
    assert len(used) == 3 * 9 and not {sample.name for sample in used} & {"00.png", "01.png", "02.png"}
    assert index.left_out == {("drawn", "test pictures of held.csv"): 9}
    assert load_split(config.data, tmp_path, config.codes, split_csv(index.split)) == index.split
    assert describe_split(config.data).startswith("without the test pictures of held.csv: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("block,source,code,file\ntest,other,EOS,00.png\n", "none of its test pictures is in the data"),
        ("file,class\n00.png,EOS\n", "not a split list"),
    ],
)
def test_a_list_that_holds_nothing_out_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "drawn" / "EOS").mkdir(parents=True)
    (tmp_path / "drawn" / "EOS" / "00.png").touch()
    config = _held_out(tmp_path, text)
    with pytest.raises(DataError, match=says):
        index_data(config.data, tmp_path, config.codes, None)
