"""Everything that is decided of the data before a network sees it: what is there, what is used, what stands where.

Knows the order: find, draw a share, look for twins, split. Knows no network and prints nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from training.config import BlockSplit, DataConfig, GroupedSplit, KFoldSplit, ListedSplit
from training.data.images import UnreadableImage
from training.data.layouts import index_source
from training.data.near_duplicates import DuplicatePair, find_near_duplicates, hash_samples
from training.data.samples import BLOCKS, Block, DataError, Sample, Split, group_by_block, split_from_csv
from training.data.splits import assign_blocks, describe_split, group_ids, patient_pairs, subsample, subsample_classes
from training.data.tables import PredefinedSplit, match_predefined_split


@dataclass(frozen=True)
class DataIndex:
    """What was found and decided."""

    found: list[Sample]  # every picture of every source
    left_out: Counter[tuple[str, str]]  # source and class of the data → pictures
    samples: list[Sample]  # those that are divided
    said: list[Block]  # the block of each, as the split says it
    blocks: list[Block]  # and with twins on one side
    parts: Split  # the blocks as they are used
    twins: list[DuplicatePair]  # their pictures are indices into samples
    unreadable: list[UnreadableImage]  # met while twins were looked for
    listed: PredefinedSplit | None

    @property
    def parted(self) -> list[DuplicatePair]:
        """Twins that the split, as it is said, has in two blocks."""
        return [twin for twin in self.twins if self.said[twin.first] != self.said[twin.second]]

    @property
    def moved(self) -> int:
        """Pictures that went to training because of a twin."""
        return sum(said != block for said, block in zip(self.said, self.blocks, strict=True))


def index_data(data: DataConfig, root: Path, codes: Sequence[str], cache: Path | None) -> DataIndex:
    """Find the pictures, draw the share that is used, look for twins, and give each picture its block.

    Args:
        root: what --data names.
        codes: class codes in logit order.
        cache: where fingerprints are kept; None: they are computed anew.

    Raises:
        DataError: a source is not as the configuration says, a split asks for patients that are not known, or a block
            would stay empty.
    """
    found, left_out = find_samples(data, root, codes)
    listed = match_predefined_split(root, data.split, found) if isinstance(data.split, ListedSplit) else None
    samples = subsample(found, data.sample, data.sample_seed) if data.sample_of == "all" else found
    twins, unreadable = _twins(data, samples, cache)
    patients = _patients(data, root, samples)
    alone = group_ids(len(samples), patients)
    named = listed.blocks if listed else None
    said = blocks = assign_blocks(samples, data.split, alone, named)
    if twins and data.twins.action == "move":
        units = group_ids(len(samples), patients, [(twin.first, twin.second) for twin in twins])
        blocks = assign_blocks(samples, data.split, units, named)
        if not isinstance(data.split, BlockSplit | ListedSplit):  # the others deal twins out as one: none is moved
            said = blocks
    parts = _parts(data, root, samples, blocks)
    return DataIndex(found, left_out, samples, said, blocks, parts, twins, unreadable, listed)


def find_samples(data: DataConfig, root: Path, codes: Sequence[str]) -> tuple[list[Sample], Counter[tuple[str, str]]]:
    """Every picture of every source, and the pictures left out, by source and class of the data.

    Raises:
        DataError: a source is not as the configuration says.
    """
    samples: list[Sample] = []
    left_out: Counter[tuple[str, str]] = Counter()
    for source in data.sources:
        found = index_source(root, source, codes)
        samples += found.samples
        left_out.update({(source.name, name): count for name, count in found.left_out.items()})
    return samples, left_out


def load_split(data: DataConfig, root: Path, codes: Sequence[str], split: str) -> Split:
    """The blocks of a run that has begun, by its split list: nothing is drawn or compared again.

    Raises:
        DataError: the pictures of `root` are not those of the list.
    """
    return split_from_csv(
        find_samples(data, root, codes)[0], split, root, whole=data.sample == 1 and not data.training_shares
    )


def _twins(
    data: DataConfig, samples: list[Sample], cache: Path | None
) -> tuple[list[DuplicatePair], list[UnreadableImage]]:
    if data.twins.action == "off":
        return [], []
    rows = hash_samples(samples, cache)
    twins = find_near_duplicates(np.asarray(rows.array), rows.kept, data.twins.max_distance)
    return twins, [UnreadableImage(samples[at], reason) for at, reason in rows.refused.items()]


def _patients(data: DataConfig, root: Path, samples: Sequence[Sample]) -> list[tuple[int, int]]:
    split = data.split
    if not (isinstance(split, GroupedSplit) or (isinstance(split, KFoldSplit) and split.by_patient)):
        return []
    unknown = Counter(sample.source for sample in samples if not sample.patient)
    for source, count in unknown.items():
        raise DataError(
            root,
            f"a split by patient, but the patient of {count} pictures of source {source!r} is not known: name a column "
            "of its list, or give patient_pattern, as '^([^/]+)/' for a folder a patient, '(.*)' for one a picture",
        )
    return patient_pairs(samples)


def _parts(data: DataConfig, root: Path, samples: Sequence[Sample], blocks: Sequence[Block]) -> Split:
    parts = group_by_block(samples, blocks)
    for block, mine in parts.items():
        if not mine:
            raise DataError(root, f"{len(samples)} pictures leave none for the {block} block")
    if data.sample_of == "training":
        parts["train"] = subsample(parts["train"], data.sample, data.sample_seed)
    parts["train"] = subsample_classes(parts["train"], data.training_shares, data.sample_seed)
    return parts


def counts_table(index_data: DataIndex, codes: tuple[str, ...]) -> Table:
    """Pictures by class and source: found, and in each block; classes in logit order, those with none last."""
    table = Table("source", "class", *(("found", *BLOCKS)), title="pictures", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    found = Counter((sample.source, sample.code) for sample in index_data.found)
    split = {block: Counter((s.source, s.code) for s in mine) for block, mine in index_data.parts.items()}
    for source in dict.fromkeys(sample.source for sample in index_data.found):
        mine = [(source, code) for code in codes if found[source, code]]
        for key in mine:
            table.add_row(*key, str(found[key]), *(str(split[block][key]) for block in BLOCKS))
        totals = [sum(counts[key] for key in mine) for counts in (found, *(split[block] for block in BLOCKS))]
        table.add_row(source, "all", *map(str, totals), end_section=True)
    return table


def summary_lines(index_data: DataIndex, data: DataConfig, codes: tuple[str, ...]) -> Iterator[str]:
    """What the table does not show: the kind of split, classes without a picture, twins, lists, the unreadable."""
    yield f"split: {describe_split(data)}"
    there = {sample.code for sample in index_data.found}
    if missing := [code for code in codes if code not in there]:
        yield f"no picture of {', '.join(missing)}"
    for (source, name), count in sorted(index_data.left_out.items()):
        yield f"left out of {source}: {count} of {name!r}"
    if index_data.listed:
        yield f"list of the split: {index_data.listed.matched} of {index_data.listed.rows} rows are pictures of --data"
    yield near_duplicates_line(index_data, data)
    if data.twins.action != "off":
        yield f"unreadable: {len(index_data.unreadable)}"


def near_duplicates_line(index_data: DataIndex, data: DataConfig) -> str:
    """How many near duplicates there are, and what became of them."""
    if data.twins.action == "off":
        return "twins: not looked for (data.twins.action)"
    found = f"twins: {_counted(len(index_data.twins), 'pair')} within {data.twins.max_distance} of 255 bits"
    unlike = sum(
        index_data.samples[twin.first].code != index_data.samples[twin.second].code for twin in index_data.twins
    )
    parted = len(index_data.parted)
    if unlike:
        found += f", {unlike} of them of two classes"
    if index_data.moved:
        return f"{found}; {parted} across blocks: {_counted(index_data.moved, 'picture')} moved to training"
    if index_data.twins:
        found += f"; {parted} across blocks" + (", and left there (data.twins.action)" if parted else "")
    return found


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
