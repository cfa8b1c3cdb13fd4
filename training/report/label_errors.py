"""The audit of evaluated runs, written out: a list for a second reader, and the pictures on one page.

Knows run folders and what a page holds. Decides on no label.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from model import atomic_file
from training.config import Config
from training.evaluation.label_errors import Audit, audit, differences, pairs, shares, write_audit
from training.evaluation.maturation import tolerant
from training.evaluation.scores import Scores, scores_of_run
from training.evaluation.tables import Table
from training.report.html import Page, Picture, Section, render
from training.report.illustrate import FOOTER, NOTICE, Cells
from training.run import RunFolder, display_names

#: The page shows so many; audit.csv lists all.
SHOWN = 120
#: Side of a picture on the page, in pixels.
SHOWN_SIZE = 160


def audit_runs(runs: Sequence[RunFolder], data: Path, out: Path) -> list[Table]:
    """Write audit.csv and audit.html of what several runs say of the same test pictures.

    Returns:
        The tables of the page.

    Raises:
        RunError: a run has not been evaluated.
        DataError: a picture is not there.
        ValueError: the runs were not tested on the same pictures.
    """
    models, config = display_names(runs), runs[0].config()
    whole = audit(models, [scores_of_run(run, "test") for run in runs])
    out.mkdir(parents=True, exist_ok=True)
    audits = {split: whole.of_source(source) for source, split in runs[0].evaluation().splits.items()}
    write_audit(out / "audit.csv", list(audits.values()))
    cells = Cells(config, data)
    made, sections = [], []
    for split, found in audits.items():
        tables = [shares(found), differences(found), pairs(found, tolerant(config.codes, config.evaluation.neighbours))]
        made += tables
        sections.append(Section(split, _words(found), tables, _pictures(found, cells)))
    page = Page("Labels to look at again", NOTICE, _facts(models, config, whole.first), sections, FOOTER)
    atomic_file.write_text(out / "audit.html", render(page))
    return made


def _facts(models: Sequence[str], config: Config, scores: Scores) -> list[tuple[str, str]]:
    facts = [("runs", ", ".join(models)), ("pictures", f"{len(scores)}, none of them learned from")]
    for source in config.data.sources:
        facts.append((f"data: {source.name}", f"{source.tissue}, {source.licence}. {source.attribution}"))
    return facts


def _words(found: Audit) -> tuple[str, ...]:
    doubtful = len(found.doubtful)
    return (
        f"{doubtful} of {len(found.first)} labels are in doubt: all runs name another class, or the mean of their "
        "probabilities favours another class as much as it favours that class where it is the label (Northcutt et "
        f"al. 2021). audit.csv lists them all; below are {min(doubtful, SHOWN)}, the most doubtful first. The models "
        "may be as wrong as the label: read the cell, then decide.",
    )


def _pictures(found: Audit, cells: Cells) -> list[Picture]:
    codes, labels, keys = found.first.codes, found.first.labels, found.first.keys()
    wrong, margin, contradicted = found.wrong.sum(axis=0), found.margin, found.contradicted
    pictures = []
    for row in found.doubtful[:SHOWN]:
        file = io.BytesIO()
        Image.fromarray(cells.image(keys[row], SHOWN_SIZE)).save(file, format="JPEG", quality=88)
        named = ", ".join(dict.fromkeys(codes[at] for at in found.named[:, row]))
        verdict = "all" if contradicted[row] else f"{wrong[row]} of {len(found.models)} wrong"
        caption = f"{keys[row][2]}: label {codes[labels[row]]}, named {named} ({verdict}), margin {margin[row]:+.2f}"
        alt = f"Cell labelled {codes[labels[row]]}, named {named}"
        pictures.append(Picture(file.getvalue(), "image/jpeg", caption, alt, small=True))
    return pictures
