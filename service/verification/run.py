"""A verification from start to end: read the labels, classify, compute, and write the report."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape

from model import atomic_file, csv_file
from model.image import decode
from model.report.html import render
from model.report.page import EmbeddedImage
from model.report.pdf import render_pdf
from model.trust.site import read_site_trust
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.scoring.image_files import escaped_name
from service.scoring.progress import PROBLEMS_SHOWN, print_problems
from service.verification.differential_bias import patient_shares
from service.verification.document import Criteria, OwnName, Verification
from service.verification.errors import VerificationError
from service.verification.figures import figures
from service.verification.labelled_cells import NO_CLASS, UNDECIDED, ClassNames, LabelledCells, read_folders, read_list
from service.verification.observations import Observations, Observed, observe
from service.verification.pages import page
from service.verification.site_trust import check_cells, site_figures, thresholds_file
from service.verification.verify import Study, verification

#: Pictures to look at again of supported and of other classes, and their side in the report.
MOST_WRONG, MOST_OTHERS, CELL_PIXELS = 20, 10, 128
DOCUMENT, CELLS = "verification.json", "cells.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRequest:
    """What to verify, and where the results go."""

    folder: Path
    out: Path
    labels: Path | None  # a list instead of class folders
    mapping: Mapping[str, str]  # the laboratory's name of a class → code
    goals: dict[str, float]  # of every class of the model, in logit order
    precision: float
    write_trust: Path | None
    count_other: bool
    default_goal: float | None = None  # None: the laboratory set all goals
    details: Mapping[str, str] = field(default_factory=dict)
    trust_reference: Path | None = None  # the laboratory's thresholds in force


def run(request: VerificationRequest, session: Session, options: InferenceOptions, console: Console) -> Verification:
    """Verify the model, write the report, and return its document.

    Raises:
        VerificationError: the labels cannot be used, there are too few cells for `write_trust`, or `out` has a report.
        OSError: a file cannot be written.
    """
    created = datetime.now().astimezone()
    if (request.out / DOCUMENT).exists():
        raise VerificationError(f"{request.out} has a report; choose another --out, or move it away")
    if request.labels is not None and request.labels.resolve() == (request.out / CELLS).resolve():
        raise VerificationError(f"{request.labels} would be replaced; choose another --out")
    names = ClassNames(session.manifest.classes, request.mapping)
    labelled = _labelled(request, names)
    if request.write_trust is not None:
        check_cells(labelled.cells, session.manifest, request.write_trust)
    request.out.mkdir(parents=True, exist_ok=True)
    observed = observe(labelled.cells, session, options, console)
    _print_left_out(labelled, observed, console)
    found = observed.observations
    with console.status("computing figures"):
        site_trust, written = site_figures(found), None
        if request.write_trust is not None:
            written = thresholds_file(found, request.write_trust, created).content()
            digest = hashlib.sha256(written).hexdigest()
            site_trust = site_trust and site_trust.model_copy(update={"sha256": digest})
        study = Study(
            criteria=Criteria(default_goal=request.default_goal, goals=request.goals, precision=request.precision),
            details=request.details,
            names=tuple(_own_names(labelled, names)),
            site_trust=site_trust,
            fitted_to=_fitted_to(request.trust_reference),
            provider=session.provider,
            computed_in=session.precision,
            count_other=request.count_other,
            created=created,
        )
        document = verification(observed, study)
    with console.status("writing the report"):
        _write(request, document, found)
    if request.write_trust is not None and written is not None:
        atomic_file.write_bytes(request.write_trust, written)
    return document


def _own_names(labelled: LabelledCells, names: ClassNames) -> Iterator[OwnName]:
    for name, count in sorted(labelled.names.items()):
        yield OwnName(name=escaped_name(name), code=names.code(name) or NO_CLASS, labels=count)


def _fitted_to(reference: Path | None) -> frozenset[str]:
    return frozenset() if reference is None else frozenset(read_site_trust(reference)[0].pictures)


def _labelled(request: VerificationRequest, names: ClassNames) -> LabelledCells:
    if request.labels is None:
        return read_folders(request.folder, names)
    return read_list(request.labels, request.folder, names)


def _print_left_out(labelled: LabelledCells, observed: Observed, console: Console) -> None:
    """Print what was left out."""
    notes = [str(labelled.skipped)] if labelled.skipped else []
    undecided = sum(cell.undecided for cell in labelled.cells)
    notes += [f"{undecided} cells have no label: no class has the majority of their readers"] * bool(undecided)
    notes += [f"copies of other pictures left out: {len(observed.copies)}"] * bool(observed.copies)
    for note in notes:
        console.print(escape(note), soft_wrap=True)
    unreadable = observed.unreadable
    print_problems(console, len(unreadable), unreadable[:PROBLEMS_SHOWN], "left out")


def _write(request: VerificationRequest, document: Verification, found: Observations) -> None:
    content = (document.model_dump_json(indent=1) + "\n").encode()
    shares = patient_shares(found, count_other=request.count_other)
    cells = list(_cells_to_look_at(found))
    report = page(document, figures(document, shares), cells, hashlib.sha256(content).hexdigest())
    _write_cells(request.out / CELLS, found)
    atomic_file.write_bytes(request.out / "verification.pdf", render_pdf(report))
    atomic_file.write_text(request.out / "verification.html", render(report))
    atomic_file.write_bytes(request.out / DOCUMENT, content)


_COLUMNS = ("row", "file", "patient", "own_label", "label", "predicted", "probability", "decision", "reasons")


def _write_cells(path: Path, found: Observations) -> None:
    """One row a cell: label, prediction, decision, and the readings of each reader."""
    readers = sorted({reader for cell in found.cells for reader in cell.readings})
    with csv_file.replacing(path) as rows:
        rows.writerow((*_COLUMNS, "prediction_set", *readers))
        for at, (cell, assessment) in enumerate(zip(found.cells, found.assessments, strict=True)):
            predicted, probability = _prediction(found, at)
            read = [cell.readings.get(reader, "") or NO_CLASS if reader in cell.readings else "" for reader in readers]
            label = UNDECIDED if cell.undecided else cell.label or NO_CLASS
            reasons = " ".join(reason.code for reason in assessment.reasons)
            row = at + 1, cell.name, cell.patient or "", escaped_name(cell.own_label), label, predicted
            decided = assessment.decision, reasons, " ".join(assessment.prediction_set)
            rows.writerow((*row, f"{probability:.4f}", *decided, *read))


def _prediction(found: Observations, at: int) -> tuple[str, float]:
    return found.manifest.codes[found.predicted[at]], float(found.probabilities[at].max())


def _cells_to_look_at(found: Observations) -> Iterator[EmbeddedImage]:
    """The most confident wrong answers for supported classes, then accepted cells of other classes."""
    top = found.probabilities.max(axis=1)
    others = found.labelled & ~found.supported & found.decided("accept")
    for doubtful, most in ((found.supported & ~found.right, MOST_WRONG), (others, MOST_OTHERS)):
        for at in np.flatnonzero(doubtful)[np.argsort(-top[doubtful], kind="stable")][:most].tolist():
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
