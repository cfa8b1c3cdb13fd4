"""Thresholds of the laboratory: what a trust reference fitted to these cells does, and the file with it."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from model.contract import Manifest
from model.plural import plural
from model.trust.decision import Assessor
from model.trust.fitting import MIN_PICTURES, few_cells, recalibrate
from model.trust.reference import TrustReference
from model.trust.site import SiteTrustFile
from service.verification.document import SiteTrust
from service.verification.errors import VerificationError
from service.verification.labelled_cells import LabelledCell
from service.verification.observations import Mask, Observations
from service.verification.rates import decision_rates, set_rates

FOLDS = 5
#: Fewest cells with a promise: all but one fold must be enough for a fit.
NEEDED = -(-MIN_PICTURES * FOLDS // (FOLDS - 1))


def site_figures(found: Observations) -> SiteTrust | None:
    """Figures with the laboratory's thresholds, each fold by the cells of the others; None for too few cells."""
    if found.supported.sum() < NEEDED or (found.patients is not None and len(np.unique(found.patients)) < FOLDS):
        return None
    assessments, refitted = list(found.assessments), np.zeros(len(found), np.bool_)
    for members, reference in _folds(found):
        refitted |= members
        assessor = Assessor(reference, found.manifest.codes, found.manifest.unsupported)
        for at, each in zip(np.flatnonzero(members).tolist(), found.assessed_with(assessor, members), strict=True):
            assessments[at] = each
    if not refitted[found.supported].all():  # a fold has too few other cells
        return None
    return SiteTrust(
        kept=few_cells(found.trust, found.predictions(found.supported), found.manifest.codes),
        decisions=decision_rates(found, "known cells", found.supported, assessments),
        sets=set_rates(found, assessments),
    )


def _folds(found: Observations) -> Iterator[tuple[Mask, TrustReference]]:
    """The cells of each fold, and a reference fitted to the supported cells of the others. Folds share no patient."""
    folds = _by_class(found) if found.patients is None else found.patients % FOLDS
    for fold in range(FOLDS):
        members = folds == fold
        known = found.predictions(found.supported & ~members)
        if members.any() and len(known) >= MIN_PICTURES:
            yield members, recalibrate(found.trust, known, found.manifest.codes, "four fifths of the cells")


def _by_class(found: Observations) -> np.ndarray:
    """The fold of each cell, (N,): the cells of a class are assigned to the folds in rotation."""
    folds = np.empty(len(found), np.int64)
    for label in np.unique(found.labels):
        rows = np.flatnonzero(found.labels == label)
        folds[rows] = np.arange(len(rows)) % FOLDS
    return folds


def check_cells(cells: Sequence[LabelledCell], manifest: Manifest, path: Path) -> None:
    """Check before the cells are classified that they are enough for thresholds.

    Raises:
        VerificationError: there are too few.
    """
    if not path.parent.is_dir():
        raise VerificationError(f"{path.parent}: not a folder")
    promised = () if manifest.trust is None else manifest.trust.sets.thresholds
    if (count := sum(cell.label in promised for cell in cells)) < MIN_PICTURES:
        raise VerificationError(
            f"{path} cannot be written: {plural(count, 'cell')} of supported classes; at least {MIN_PICTURES} are "
            "needed"
        )


def thresholds_file(found: Observations, path: Path, created: datetime) -> SiteTrustFile:
    """The file of thresholds fitted to all cells of supported classes, for MARROWLENS_TRUST_REFERENCE.

    Raises:
        VerificationError: too few cells.
    """
    known = found.predictions(found.supported)
    source = f"{len(known)} cells of the laboratory, {created:%Y-%m-%d}"
    try:
        reference = recalibrate(found.trust, known, found.manifest.codes, source)
    except ValueError as error:
        raise VerificationError(f"{path} cannot be written: {error}") from error
    manifest = found.manifest
    pictures = sorted(digest[:16] for digest, is_used in zip(found.digests, found.supported, strict=True) if is_used)
    return SiteTrustFile(
        model=manifest.name,
        version=manifest.version,
        model_sha256=manifest.sha256,
        pictures=tuple(pictures),
        trust=reference,
    )
