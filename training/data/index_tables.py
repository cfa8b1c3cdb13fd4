"""A survey of the data in tables and sentences, for a person to read before training.

Knows rich and what a survey holds. Decides nothing.
"""

from collections import Counter
from collections.abc import Iterator

from rich.table import Table

from training.config import DataConfig
from training.data.index import Survey
from training.data.samples import BLOCKS
from training.data.split_description import describe


def counts_table(survey: Survey, codes: tuple[str, ...]) -> Table:
    """Pictures by class and source: found, and in each block; classes in logit order, those with none last."""
    table = Table("source", "class", *(("found", *BLOCKS)), title="pictures", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    found = Counter((sample.source, sample.code) for sample in survey.found)
    split = {block: Counter((s.source, s.code) for s in mine) for block, mine in survey.parts.items()}
    for source in dict.fromkeys(sample.source for sample in survey.found):
        mine = [(source, code) for code in codes if found[source, code]]
        for key in mine:
            table.add_row(*key, str(found[key]), *(str(split[block][key]) for block in BLOCKS))
        totals = [sum(counts[key] for key in mine) for counts in (found, *(split[block] for block in BLOCKS))]
        table.add_row(source, "all", *map(str, totals), end_section=True)
    return table


def sentences(survey: Survey, data: DataConfig, codes: tuple[str, ...]) -> Iterator[str]:
    """What the table does not show: the kind of split, classes without a picture, twins, lists, the unreadable."""
    yield f"split: {describe(data)}"
    there = {sample.code for sample in survey.found}
    if missing := [code for code in codes if code not in there]:
        yield f"no picture of {', '.join(missing)}"
    for (source, name), count in sorted(survey.left_out.items()):
        yield f"left out of {source}: {count} of {name!r}"
    if survey.listed:
        yield f"list of the split: {survey.listed.matched} of {survey.listed.rows} rows are pictures of --data"
    yield twin_sentence(survey, data)
    if data.twins.action != "off":
        yield f"unreadable: {len(survey.unreadable)}"


def twin_sentence(survey: Survey, data: DataConfig) -> str:
    """How many near duplicates there are, and what became of them."""
    if data.twins.action == "off":
        return "twins: not looked for (data.twins.action)"
    found = f"twins: {_counted(len(survey.twins), 'pair')} within {data.twins.max_distance} of 255 bits"
    unlike = sum(survey.samples[twin.first].code != survey.samples[twin.second].code for twin in survey.twins)
    parted = len(survey.parted)
    if unlike:
        found += f", {unlike} of them of two classes"
    if survey.moved:
        return f"{found}; {parted} across blocks: {_counted(survey.moved, 'picture')} moved to training"
    if survey.twins:
        found += f"; {parted} across blocks" + (", and left there (data.twins.action)" if parted else "")
    return found


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
