"""Data index: finds the pictures, draws the used share, finds near duplicates and assigns the blocks.

Also its summary as a table and sentences, for `marrowlens-train data`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from model.plural import plural
from training.data.appearance import appearance_pairs, measure_appearance
from training.data.images import UnreadableImage
from training.data.layouts import index_source
from training.data.near_duplicates import DuplicatePair, find_near_duplicates, hash_samples
from training.data.overlaps import Overlap, find_overlaps
from training.data.samples import (
    BLOCKS,
    Block,
    DataError,
    Sample,
    Split,
    group_by_block,
    listed_keys,
    split_from_csv,
)
from training.data.splits import (
    assign_blocks,
    describe_split,
    group_ids,
    patient_pairs,
    slide_pairs,
    subsample,
    subsample_classes,
)
from training.data.tables import PredefinedSplit, match_predefined_split
from training.data_config import DataConfig
from training.split_config import BlockSplit, GroupedSplit, KFoldSplit, ListedSplit


class FoundSamples(NamedTuple):
    """The pictures of all sources, and what was not taken, by source."""

    samples: list[Sample]
    left_out: Counter[tuple[str, str]]  # source and class of the data
    passed_over: Counter[tuple[str, str]]  # source and suffix of files that are no pictures, or in no class folder


@dataclass(frozen=True)
class DataIndex:
    """All pictures of a configuration and their blocks."""

    found: list[Sample]  # every picture of every source
    left_out: Counter[tuple[str, str]]  # source and class of the data → pictures of `leave_out`
    passed_over: Counter[tuple[str, str]]  # source and suffix → files that are no pictures, or in no class folder
    samples: list[Sample]  # those that are divided into blocks
    planned: list[Block]  # the block of each by the split alone
    blocks: list[Block]  # the block of each, with near duplicates on one side
    split: Split  # the blocks as they are used
    duplicates: list[DuplicatePair]  # indices into samples
    overlaps: list[Overlap]  # the same; without near duplicates
    unreadable: list[UnreadableImage]  # met while hashing
    predefined: PredefinedSplit | None

    @property
    def separated(self) -> list[DuplicatePair]:
        """Near duplicates that the split alone puts into two blocks."""
        return [pair for pair in self.duplicates if self.planned[pair.first] != self.planned[pair.second]]

    @property
    def overlaps_separated(self) -> list[Overlap]:
        """Overlaps that the split alone puts into two blocks."""
        return [pair for pair in self.overlaps if self.planned[pair.first] != self.planned[pair.second]]

    @property
    def moved(self) -> int:
        """Number of pictures moved to training because of a near duplicate or an overlap."""
        return sum(planned != block for planned, block in zip(self.planned, self.blocks, strict=True))


def index_data(data: DataConfig, root: Path, codes: Sequence[str], cache: Path | None) -> DataIndex:
    """Find the pictures, draw the used share, find near duplicates and assign each picture its block.

    Args:
        root: the --data folder.
        codes: class codes in logit order.
        cache: folder for fingerprints and appearance; None: compute them anew.

    Raises:
        DataError: a source contradicts the configuration, a split by patient lacks patients, or a block is empty.
    """
    found, left_out, passed_over = find_samples(data, root, codes)
    predefined = match_predefined_split(root, data.split, found) if isinstance(data.split, ListedSplit) else None
    samples = subsample(found, data.sample, data.sample_seed) if data.sample_of == "all" else found
    duplicates, unreadable = _near_duplicates(data, samples, cache)
    overlaps = _overlaps(data, samples, duplicates, cache)
    moved = [(pair.first, pair.second) for pair in duplicates] if data.twins.action == "move" else []
    moved += [(pair.first, pair.second) for pair in overlaps] if data.overlaps.action == "move" else []
    together = _pairs(data, root, samples, group_ids(len(samples), moved), cache)
    named = predefined.blocks if predefined else None
    planned = blocks = assign_blocks(samples, data.split, group_ids(len(samples), together), named)
    if moved:
        blocks = assign_blocks(samples, data.split, group_ids(len(samples), together, moved), named)
        if not isinstance(data.split, BlockSplit | ListedSplit):  # random splits deal out whole groups: none is moved
            planned = blocks
    split = _split(data, root, samples, blocks)
    return DataIndex(
        found, left_out, passed_over, samples, planned, blocks, split, duplicates, overlaps, unreadable, predefined
    )


def find_samples(data: DataConfig, root: Path, codes: Sequence[str]) -> FoundSamples:
    """Every picture of every source but those held out.

    Raises:
        DataError: a source contradicts the configuration, or the list of held-out pictures names none of them.
    """
    samples: list[Sample] = []
    left_out: Counter[tuple[str, str]] = Counter()
    passed_over: Counter[tuple[str, str]] = Counter()
    for source in data.sources:
        found = index_source(root, source, codes)
        samples += found.samples
        left_out.update({(source.name, name): count for name, count in found.left_out.items()})
        passed_over.update({(source.name, suffix): count for suffix, count in found.passed_over.items()})
    if data.held_out is None:
        return FoundSamples(samples, left_out, passed_over)
    tested = listed_keys(data.held_out, "test")
    kept = [sample for sample in samples if sample.key not in tested]
    if len(kept) == len(samples):
        raise DataError(data.held_out, "none of its test pictures is in the data; source, class and file must agree")
    held_out = Counter(sample.source for sample in samples if sample.key in tested)
    left_out.update({(source, f"test pictures of {data.held_out.name}"): count for source, count in held_out.items()})
    return FoundSamples(kept, left_out, passed_over)


def load_split(data: DataConfig, root: Path, codes: Sequence[str], text: str) -> Split:
    """The blocks of a started run by its split.csv; nothing is drawn or compared again.

    Raises:
        DataError: the pictures of `root` are not those of the list.
    """
    complete = data.sample == 1 and not data.training_shares
    return split_from_csv(find_samples(data, root, codes).samples, text, root, complete)


def _near_duplicates(
    data: DataConfig, samples: list[Sample], cache: Path | None
) -> tuple[list[DuplicatePair], list[UnreadableImage]]:
    if data.twins.action == "off":
        return [], []
    rows = hash_samples(samples, cache)
    pairs = find_near_duplicates(np.asarray(rows.array), rows.indices, data.twins.max_distance)
    return pairs, [UnreadableImage(samples[at], reason) for at, reason in rows.errors.items()]


def _overlaps(
    data: DataConfig, samples: list[Sample], duplicates: Sequence[DuplicatePair], cache: Path | None
) -> list[Overlap]:
    if data.overlaps.action == "off":
        return []
    known = {(pair.first, pair.second) for pair in duplicates}
    found = find_overlaps(samples, cache, data.overlaps.min_correlation)
    return [pair for pair in found if (pair.first, pair.second) not in known]


def _pairs(
    data: DataConfig, root: Path, samples: Sequence[Sample], duplicates: NDArray[np.int64], cache: Path | None
) -> list[tuple[int, int]]:
    """Pairs that the split keeps together, besides near duplicates."""
    split = data.split
    if not isinstance(split, GroupedSplit | KFoldSplit) or split.by == "picture":
        return []
    if split.by == "appearance":
        rows = measure_appearance(samples, cache)
        return appearance_pairs(samples, rows, duplicates, split.clusters, split.seed)
    if split.by == "group":
        unknown = Counter(sample.source for sample in samples if not sample.group)
        for source, count in unknown.items():
            raise DataError(
                root,
                f"a split by group needs the slide or field of every picture; {count} pictures of source {source!r} "
                "have none. Name a column of its list (columns.group), or set group_pattern, for example "
                "'^([^/]+)/' for one folder per slide",
            )
        return slide_pairs(samples)
    unknown = Counter(sample.source for sample in samples if not sample.patient)
    for source, count in unknown.items():
        raise DataError(
            root,
            f"a split by patient needs the patient of every picture; {count} pictures of source {source!r} have none. "
            "Name a column of its list, or set patient_pattern: '^([^/]+)/' for one folder per patient, '(.*)' for one "
            "picture per patient; or split by appearance",
        )
    return patient_pairs(samples)


def _split(data: DataConfig, root: Path, samples: Sequence[Sample], blocks: Sequence[Block]) -> Split:
    split = group_by_block(samples, blocks)
    for block, members in split.items():
        if not members:
            raise DataError(root, f"the {block} block is empty: {len(samples)} pictures are too few for this split")
    if data.sample_of == "training":
        split["train"] = subsample(split["train"], data.sample, data.sample_seed)
    split["train"] = subsample_classes(split["train"], data.training_shares, data.sample_seed)
    return split


def counts_table(index: DataIndex, codes: tuple[str, ...]) -> Table:
    """Pictures by source and class, found and in each block; classes in logit order."""
    table = Table("source", "class", *(("found", *BLOCKS)), title="pictures", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    found = Counter((sample.source, sample.code) for sample in index.found)
    split = {block: Counter((s.source, s.code) for s in members) for block, members in index.split.items()}
    for source in dict.fromkeys(sample.source for sample in index.found):
        keys = [(source, code) for code in codes if found[source, code]]
        for key in keys:
            table.add_row(*key, str(found[key]), *(str(split[block][key]) for block in BLOCKS))
        totals = [sum(counts[key] for key in keys) for counts in (found, *(split[block] for block in BLOCKS))]
        table.add_row(source, "all", *map(str, totals), end_section=True)
    return table


def summary_lines(index: DataIndex, data: DataConfig, codes: tuple[str, ...]) -> Iterator[str]:
    """What the table does not show: split, classes without pictures, left-out classes, near duplicates, unreadable."""
    yield f"split: {describe_split(data)}"
    present = {sample.code for sample in index.found}
    if missing := [code for code in codes if code not in present]:
        yield f"no picture of {', '.join(missing)}"
    yield from left_out_lines(index)
    if index.predefined:
        yield f"predefined split: {index.predefined.matched} of {index.predefined.rows} rows are pictures of --data"
    yield from leak_lines(index, data)
    if data.twins.action != "off":
        yield f"unreadable: {len(index.unreadable)}"


def left_out_lines(index: DataIndex) -> Iterator[str]:
    """Classes that the configuration leaves out, and files that were passed over, by suffix."""
    for (source, name), count in sorted(index.left_out.items()):
        yield f"left out of {source}: {count} of {name!r}"
    for source in sorted({source for source, _ in index.passed_over}):
        listed = by_suffix({suffix: count for (of, suffix), count in index.passed_over.items() if of == source})
        yield f"passed over in {source}: {listed}"


def by_suffix(passed_over: Mapping[str, int]) -> str:
    """Numbers of files by suffix, the most frequent first: `3 .txt, 1 .db`."""
    return ", ".join(
        f"{count} {suffix}" for suffix, count in sorted(passed_over.items(), key=lambda of: (-of[1], of[0]))
    )


def leak_lines(index: DataIndex, data: DataConfig) -> Iterator[str]:
    """What may leak between blocks, and what was done: near duplicates, overlaps, patients, slides and fields."""
    yield _near_duplicates_line(index, data)
    yield _overlaps_line(index, data)
    if index.moved:
        yield f"moved to training because of these: {plural(index.moved, 'picture')}"
    yield from _patients_lines(index)


def _overlaps_line(index: DataIndex, data: DataConfig) -> str:
    """Number of overlapping pictures and how they were handled."""
    if data.overlaps.action == "off":
        return "overlaps: not searched (data.overlaps.action)"
    text = f"overlaps: {plural(len(index.overlaps), 'pair')} of shifted crops"
    if not index.overlaps:
        return text
    separated = len(index.overlaps_separated)
    kept = data.overlaps.action == "list" and separated
    return f"{text}; {separated} across blocks" + (", not moved (data.overlaps.action)" if kept else "")


def _patients_lines(index: DataIndex) -> Iterator[str]:
    """Number of patients, slides and fields, and of those in two blocks."""
    for what, key in (("patients", "patient"), ("slides or fields", "group")):
        blocks: dict[tuple[str, str], set[Block]] = {}
        for block, members in index.split.items():
            for sample in members:
                if name := getattr(sample, key):
                    blocks.setdefault((sample.source, name), set()).add(block)
        unknown = sum(not getattr(sample, key) for members in index.split.values() for sample in members)
        if blocks:
            across = sum(len(found) > 1 for found in blocks.values())
            yield (
                f"{what}: {len(blocks)}; {across} in more than one block"
                + (f': split by "{key}" to keep each in one' if across else "")
                + (f"; {unknown} pictures without" if unknown else "")
            )
        elif key == "patient":
            yield "patients: unknown; figures hold for new pictures, and are too good for new patients"


def _near_duplicates_line(index: DataIndex, data: DataConfig) -> str:
    """Number of near duplicates and how they were handled."""
    if data.twins.action == "off":
        return "near duplicates: not searched (data.twins.action)"
    text = f"near duplicates: {plural(len(index.duplicates), 'pair')} within {data.twins.max_distance} of 255 bits"
    mixed = sum(index.samples[pair.first].code != index.samples[pair.second].code for pair in index.duplicates)
    separated = len(index.separated)
    if mixed:
        text += f", {mixed} of them of two classes"
    if index.duplicates:
        kept = data.twins.action == "list" and separated
        text += f"; {separated} across blocks" + (", not moved (data.twins.action)" if kept else "")
    return text
