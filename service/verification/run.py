"""A verification from start to end: read the labels, classify, compute, and write the report."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape

from model import atomic_file, csv_file
from model.image import decode
from model.report.page import EmbeddedImage, render
from model.report.pdf import render_pdf
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.scoring.progress import PROBLEMS_SHOWN, print_problems
from service.verification.differential_bias import patient_shares
from service.verification.document import Criteria, Verification
from service.verification.figures import figures
from service.verification.labelled_cells import NO_CLASS, ClassNames, LabelledCells, read_folders, read_list
from service.verification.observations import Observations, Observed, observe
from service.verification.pages import page
from service.verification.site_trust import site_figures, write_thresholds
from service.verification.verify import verification

#: Pictures to look at again, and their side in the report.
MOST_CELLS, CELL_PIXELS = 30, 128


@dataclass(frozen=True, slots=True)
class Request:
    """What to verify, and where the results go."""

    folder: Path
    out: Path
    labels: Path | None  # a list instead of class folders
    mapping: Mapping[str, str]  # the laboratory's name of a class → code
    goals: dict[str, float]  # of every class of the model, in logit order
    precision: float
    write_trust: Path | None
    count_other: bool


def run(request: Request, session: Session, options: InferenceOptions, console: Console) -> Verification:
    """Verify the model, write the report, and return its document.

    Raises:
        VerificationError: the labels cannot be used, or there are too few cells for `write_trust`.
        OSError: a file cannot be written.
    """
    created = datetime.now().astimezone()
    labelled = _labelled(request, session)
    request.out.mkdir(parents=True, exist_ok=True)
    observed = observe(labelled.cells, session, options, console)
    _tell(labelled, observed, console)
    found = observed.observations
    with console.status("computing figures"):
        site_trust = site_figures(found)
        if request.write_trust is not None:
            digest = write_thresholds(found, request.write_trust, created)
            site_trust = site_trust and site_trust.model_copy(update={"sha256": digest})
        document = verification(
            observed,
            Criteria(goals=request.goals, precision=request.precision),
            site_trust,
            provider=session.provider,
            ties=labelled.ties,
            count_other=request.count_other,
            created=created,
        )
    with console.status("writing the report"):
        _write(request, document, found)
    return document


def _labelled(request: Request, session: Session) -> LabelledCells:
    names = ClassNames(session.manifest.classes, request.mapping)
    if request.labels is None:
        return read_folders(request.folder, names)
    return read_list(request.labels, request.folder, names)


def _tell(labelled: LabelledCells, observed: Observed, console: Console) -> None:
    """Print what was left out."""
    notes = [str(labelled.skipped)] if labelled.skipped else []
    notes += [f"{labelled.ties} pictures left out: readers named different classes equally often"] * bool(labelled.ties)
    notes += [f"{len(observed.copies)} copies of other pictures left out"] * bool(observed.copies)
    for note in notes:
        console.print(escape(note), soft_wrap=True)
    unreadable = observed.unreadable
    print_problems(console, len(unreadable), unreadable[:PROBLEMS_SHOWN], "left out")


def _write(request: Request, document: Verification, found: Observations) -> None:
    content = (document.model_dump_json(indent=1) + "\n").encode()
    shares = patient_shares(found, count_other=request.count_other)
    cells = list(_cells_to_look_at(found))
    report = page(document, figures(document, shares), cells, hashlib.sha256(content).hexdigest())
    _write_cells(request.out / "cells.csv", found)
    atomic_file.write_bytes(request.out / "verification.pdf", render_pdf(report))
    atomic_file.write_text(request.out / "verification.html", render(report))
    atomic_file.write_bytes(request.out / "verification.json", content)


def _write_cells(path: Path, found: Observations) -> None:
    """One row a cell: label, prediction and decision."""
    with csv_file.replacing(path) as rows:
        rows.writerow(("row", "file", "label", "predicted", "probability", "decision", "reasons", "prediction_set"))
        for at, (cell, assessment) in enumerate(zip(found.cells, found.assessments, strict=True)):
            reasons = " ".join(reason.code for reason in assessment.reasons)
            members = " ".join(assessment.prediction_set)
            predicted, probability = _prediction(found, at)
            row = at + 1, cell.name, cell.label or NO_CLASS, predicted, f"{probability:.4f}", assessment.decision
            rows.writerow((*row, reasons, members))


def _prediction(found: Observations, at: int) -> tuple[str, float]:
    return found.manifest.codes[found.predicted[at]], float(found.probabilities[at].max())


def _cells_to_look_at(found: Observations) -> Iterator[EmbeddedImage]:
    """The most confident wrong answers, and accepted cells of other classes."""
    top = found.probabilities.max(axis=1)
    doubtful = (found.known & ~found.right) | (~found.known & found.decided("accept"))
    for at in np.flatnonzero(doubtful)[np.argsort(-top[doubtful], kind="stable")][:MOST_CELLS].tolist():
        cell = found.cells[at]
        predicted, probability = _prediction(found, at)
        caption = (
            f"{at + 1}: {cell.label or 'other class'}, predicted {predicted} {probability:.2f}, "
            f"{found.assessments[at].decision}"
        )
        yield EmbeddedImage(_picture(cell.path), "image/jpeg", caption, caption, small=True)


def _picture(path: Path) -> bytes:
    """The picture as a small JPEG; it was readable before."""
    out = io.BytesIO()
    Image.fromarray(decode(path.read_bytes(), CELL_PIXELS)).save(out, "JPEG", quality=88)
    return out.getvalue()
