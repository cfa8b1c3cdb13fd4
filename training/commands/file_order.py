"""The command `file-order`: whether neighbouring files are more alike than any two files of a class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from model.report.page import Table
from training.commands.review import DataRoot
from training.config import read_config
from training.data.appearance import measure_appearance
from training.data.file_order import PERMUTATIONS, TRAITS, FileOrder, measure_file_order
from training.data.images import UnreadableImage
from training.data.index import find_samples
from training.evaluation.paired import holm
from training.pipeline import warn_unreadable
from training.terminal import print_line, print_table, report_errors

SIGNIFICANT = 0.05


def file_order(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Training configuration.")],
    data: DataRoot = Path("."),
    cache: Annotated[Path | None, typer.Option(help="Folder of measured appearance; default: none.")] = None,
) -> None:
    """Test whether the file order follows slides: autocorrelation of background, stain and sharpness in each class.

    If it does not, contiguous blocks are a random split in effect, and no figure on them is one for new patients.
    """
    with report_errors():
        config = read_config(config_path)
        samples = find_samples(config.data, data, config.codes).samples
        rows = measure_appearance(samples, cache)
        warn_unreadable([UnreadableImage(samples[at], reason) for at, reason in rows.errors.items()])
        found = measure_file_order(samples, rows)
        if not found:
            raise ValueError(f"{data}: no class has enough readable pictures to test their order")
    print_table(_table(found))
    print_line(_summary(found))


def _table(found: Sequence[FileOrder]) -> Table:
    rows = [(one.source, one.code, str(one.n), *map(_cell, one.autocorrelation, one.p)) for one in found]
    note = (
        f"Of neighbouring files (lag 1); in brackets the two-sided p value over {PERMUTATIONS} random orders, before "
        "correction. Near 0: neighbouring files are no more alike than any two of the class."
    )
    return Table("Autocorrelation in file order", ("source", "class", "n", *TRAITS), tuple(rows), note)


def _cell(value: float, p: float) -> str:
    return f"{value:+.3f} ({p:.3f})"


def _summary(found: Sequence[FileOrder]) -> str:
    """The number of autocorrelations that differ from 0 after correction, by source."""
    lines = []
    for source in dict.fromkeys(one.source for one in found):
        p = [p for one in found if one.source == source for p in one.p]
        corrected = holm(p)
        significant = sum(value < SIGNIFICANT for value in corrected)
        verdict = "the file order shows structure" if significant else "the file order shows no slide structure"
        lines.append(
            f"{source}: {significant} of {len(p)} differ from 0 at p < {SIGNIFICANT} (Holm; smallest p "
            f"{min(corrected):.3f}): {verdict}"
        )
    return "\n".join(lines)
