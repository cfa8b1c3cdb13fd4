"""The label audit of evaluated runs: audit.csv for a second reader, and audit.html with the pictures."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from model import atomic_file
from model.report.html import render
from model.report.page import EmbeddedImage, Page, Section, Table
from training.evaluation.label_errors import (
    LabelAudit,
    audit_labels,
    contradicted_pairs,
    model_differences,
    shared_errors,
    write_audit,
)
from training.evaluation.metrics import tolerant
from training.evaluation.scores import scores_of_run
from training.report.report import FOOTER, NOTICE, CellReader, source_facts
from training.run import RunFolder, display_names

MAX_PICTURES = 120  # on the page; audit.csv lists all
PICTURE_SIZE = 160  # pixels


def write_label_audit(runs: Sequence[RunFolder], data: Path, out: Path) -> list[Table]:
    """Write audit.csv and audit.html from the predictions of several runs on the same test pictures.

    Returns:
        The tables of the page.

    Raises:
        RunError: a run has not been evaluated.
        DataError: a picture is missing.
        ValueError: the runs were tested on different pictures.
    """
    models, config = display_names(runs), runs[0].config()
    audit = audit_labels(models, [scores_of_run(run, "test") for run in runs])
    out.mkdir(parents=True, exist_ok=True)
    audits = {split: audit.of_source(source) for source, split in runs[0].evaluation().splits.items()}
    write_audit(out / "audit.csv", list(audits.values()))
    cells = CellReader(config, data)
    tolerated = tolerant(config.codes, config.evaluation.neighbours)
    tables, sections = [], []
    for split, part in audits.items():
        of_split = [shared_errors(part), model_differences(part), contradicted_pairs(part, tolerated)]
        tables += of_split
        sections.append(Section(split, (_summary(part),), of_split, _images(part, cells)))
    facts = [("runs", ", ".join(models)), ("pictures", f"{len(audit.first)}, none of them in a training block")]
    page = Page("Possible label errors", NOTICE, facts + source_facts(config), sections, FOOTER)
    atomic_file.write_text(out / "audit.html", render(page))
    return tables


def _summary(audit: LabelAudit) -> str:
    doubtful = len(audit.doubtful)
    return (
        f"{doubtful} of {len(audit.first)} labels are in doubt: every run predicts another class, or the mean "
        "probability of another class reaches that class's threshold, its mean over the pictures labelled so "
        f"(Northcutt et al. 2021). audit.csv lists all; below are {min(doubtful, MAX_PICTURES)}, the lowest margin "
        "first. The models may be as wrong as the label: look at the cell, then decide."
    )


def _images(audit: LabelAudit, cells: CellReader) -> list[EmbeddedImage]:
    codes, labels, keys = audit.first.codes, audit.first.labels, audit.first.keys()
    wrong, margin, contradicted = audit.wrong.sum(axis=0), audit.margin, audit.contradicted
    images = []
    for row in audit.doubtful[:MAX_PICTURES]:
        file = io.BytesIO()
        Image.fromarray(cells.image(keys[row], PICTURE_SIZE)).save(file, format="JPEG", quality=88)
        predicted = ", ".join(dict.fromkeys(codes[at] for at in audit.predicted[:, row]))
        models = "all runs" if contradicted[row] else f"{wrong[row]} of {len(audit.models)} runs wrong"
        label = codes[labels[row]]
        caption = f"{keys[row][2]}: label {label}, predicted {predicted} ({models}), margin {margin[row]:+.2f}"
        alt = f"Cell labelled {label}, predicted {predicted}"
        images.append(EmbeddedImage(file.getvalue(), "image/jpeg", caption, alt, small=True))
    return images
