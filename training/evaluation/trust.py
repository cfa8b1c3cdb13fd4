"""Trust: fits the trust reference of a run, and measures decisions, prediction sets and novelty with it.

Thresholds are fitted to the calibration block. Figures are measured on the test block; or, for development, on each
fold of the calibration block with the thresholds of the other nine.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from model.agreement.clustered import proportion
from model.image import PictureError, decode
from model.trust.decision import Assessment, Assessor
from model.trust.fitting import MIN_PICTURES, LabelledPredictions, Levels, fit_trust
from model.trust.reference import TrustReference
from training.config import Config
from training.data.images import LabelledImages
from training.data.samples import patient_numbers
from training.evaluation.evaluate import of_intended_tissue
from training.evaluation.non_cell_pictures import non_cell_pictures
from training.evaluation.scores import NO_CLASS
from training.run import MeasuredDecisions, MeasuredSets, MeasuredTrust

if TYPE_CHECKING:
    from training.evaluation.predictor import Predictor

Labels = NDArray[np.int64]
#: Parts of the calibration block: with thresholds of one half, few cells of a class would make sets too large.
FOLDS = 10
#: Least known and training cells: all but one fold must be enough for a fit.
NEEDED = math.ceil(MIN_PICTURES * FOLDS / (FOLDS - 1))
_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class RunTrust:
    """The trust reference of one run.

    Args:
        train: the training block, decoded at the input size.
        calibration: the calibration block.

    Raises:
        ValueError: too few cells of supported classes.
    """

    def __init__(self, predictor: "Predictor", train: LabelledImages, calibration: LabelledImages) -> None:
        self._predictor, self._config = predictor, predictor.config
        self._supported = supported(self._config, train)
        learned, known = self._of_supported(train), self._of_supported(calibration)
        if min(len(learned), len(known)) < NEEDED:
            raise ValueError(
                f"{len(known)} calibration and {len(learned)} training cells of supported classes; a trust reference "
                f"needs {NEEDED} of each"
            )
        self._embeddings = predictor.embeddings(train.images, learned, "scoring train")
        self._labels = train.labels[learned]
        self._known_rows, self._folds = known, _folds(calibration.labels)
        self._known_patients = _patients(calibration, known)
        self.known = predictor.cells(calibration.images[known], calibration.labels[known])
        self.reference = self._fit(self.known, f"calibration block, {self._config.card.tissue}")

    def decide(self, cells: LabelledPredictions) -> list[Assessment]:
        """Assess the answers for pictures outside the calibration block."""
        return _assess(self._assessor(self.reference), cells)

    def decide_cross_validated(self, cells: LabelledPredictions, rows: NDArray[np.int64]) -> list[Assessment]:
        """Assess answers for calibration pictures, each fold of them with the thresholds of the other nine.

        Args:
            rows: (N,), row of each picture in the calibration block.
        """
        assessed: dict[int, Assessment] = {}
        for fold in np.unique(self._folds[rows]).tolist():
            others = self.known.rows(self._folds[self._known_rows] != fold)
            places = np.flatnonzero(self._folds[rows] == fold)
            assessor = self._assessor(self._fit(others, "nine folds of the calibration block"))
            assessed |= zip(places.tolist(), _assess(assessor, cells.rows(places)), strict=True)
        return [assessed[at] for at in range(len(cells))]

    def measured(self, test: LabelledImages | None, outliers: Mapping[str, NDArray[np.uint8]]) -> MeasuredTrust:
        """Figures on known cells, on outliers, and on pictures without a cell.

        Args:
            test: the test block; None: the known cells are those of the calibration block, by cross-validation.
            outliers: name → pictures of other classes, (N, S, S, 3).
        """
        if test is None:
            known, patients = self.known, self._known_patients
            assessed = self.decide_cross_validated(known, self._known_rows)
        else:
            rows = self._of_supported(test)
            patients = _patients(test, rows)
            known = self._predictor.cells(test.images[rows], test.labels[rows])
            assessed = self.decide(known)
        decisions = [_decisions("known cells", known, assessed, patients)]
        for name, cells in self._others(outliers):
            found = self.decide(cells)
            decisions.append(_decisions(name, cells, found).model_copy(update={"auroc": _auroc(assessed, found)}))
        return MeasuredTrust(
            known=f"{'calibration' if test is None else 'test'} block",
            coverage=self.reference.sets.coverage,
            sets=tuple(_sets(self._config.codes, known, assessed, patients)),
            decisions=tuple(decisions),
        )

    def _fit(self, known: LabelledPredictions, source: str) -> TrustReference:
        trust = self._config.trust
        levels = Levels(trust.coverage, trust.review_p, trust.reject_p)
        return fit_trust(self._embeddings, self._labels, known, self._config.codes, source, levels)

    def _others(self, outliers: Mapping[str, NDArray[np.uint8]]) -> Iterable[tuple[str, LabelledPredictions]]:
        for name, pictures in ({**outliers} | non_cell_pictures(self._config.model.input_size)).items():
            yield name, self._predictor.cells(pictures)

    def _of_supported(self, pictures: LabelledImages) -> NDArray[np.int64]:
        """Rows of the pictures of the intended tissue and of supported classes."""
        return np.flatnonzero(of_intended_tissue(self._config, pictures) & np.isin(pictures.labels, self._supported))

    def _assessor(self, reference: TrustReference) -> Assessor:
        codes = self._config.codes
        return Assessor(reference, codes, [code for at, code in enumerate(codes) if at not in self._supported])


def supported(config: Config, train: LabelledImages) -> NDArray[np.int64]:
    """Indices of the classes with enough training pictures of the intended tissue, as the manifest has them."""
    labels = train.labels[of_intended_tissue(config, train)]
    return np.flatnonzero(np.bincount(labels, minlength=len(config.classes)) >= config.card.min_training_images)


def measured_decisions(
    codes: Sequence[str],
    cells: LabelledPredictions,
    assessor: Assessor,
    known: str,
    coverage: float,
    patients: Labels | None = None,
) -> MeasuredTrust:
    """Decisions and prediction sets on other known cells than those of the run, for example another laboratory's.

    Args:
        known: what the cells are.
        coverage: that the sets aim at.
        patients: (N,), number of the patient of each cell; None: patients are not known.
    """
    assessed = _assess(assessor, cells)
    decisions = (_decisions("known cells", cells, assessed, patients),)
    sets = tuple(_sets(codes, cells, assessed, patients))
    return MeasuredTrust(known=known, coverage=coverage, sets=sets, decisions=decisions)


def _patients(pictures: LabelledImages, rows: NDArray[np.int64]) -> Labels | None:
    return patient_numbers([pictures.samples[row] for row in rows])


def _folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each picture, (N,): the pictures of a class are assigned to the folds in rotation."""
    folds = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        folds[rows] = np.arange(len(rows)) % FOLDS
    return folds


def _assess(assessor: Assessor, cells: LabelledPredictions) -> list[Assessment]:
    return assessor.assess_measured(cells.probabilities, cells.embeddings, cells.measures)


def decode_folder(folder: Path, size: int) -> NDArray[np.uint8]:
    """The readable pictures below a folder, (N, S, S, 3)."""
    pictures = [np.empty((0, size, size, 3), np.uint8)]
    for path in sorted(each for each in folder.rglob("*") if each.suffix.lower() in _SUFFIXES):
        with suppress(PictureError):
            pictures.append(decode(path.read_bytes(), size)[None])
    return np.concatenate(pictures)


def _decisions(
    name: str, cells: LabelledPredictions, assessed: Sequence[Assessment], patients: Labels | None = None
) -> MeasuredDecisions:
    accepted = np.array([each.decision == "accept" for each in assessed])
    rejected = np.array([each.decision == "reject" for each in assessed])
    found = MeasuredDecisions(
        pictures=name, n=len(cells), accepted=float(accepted.mean()), rejected=float(rejected.mean())
    )
    if not accepted.any() or (cells.labels == NO_CLASS).any():
        return found
    right = (cells.probabilities.argmax(axis=1) == cells.labels)[accepted]
    share = proportion(right, None if patients is None else patients[accepted])
    return found.model_copy(update={"accuracy": float(right.mean()), "low": share.low, "high": share.high})


def _sets(
    codes: Sequence[str], cells: LabelledPredictions, assessed: Sequence[Assessment], patients: Labels | None
) -> Iterable[MeasuredSets]:
    inside = np.array([codes[at] in each.prediction_set for at, each in zip(cells.labels, assessed, strict=True)])
    sizes = np.array([len(each.prediction_set) for each in assessed])
    of_classes = [(codes[at], cells.labels == at) for at in np.unique(cells.labels)]
    for code, rows in ((None, np.ones(len(inside), np.bool_)), *of_classes):
        yield _set_figures(code, inside[rows], sizes[rows], None if patients is None else patients[rows])


def _set_figures(
    code: str | None, inside: NDArray[np.bool_], sizes: NDArray[np.int64], patients: Labels | None
) -> MeasuredSets:
    share = proportion(inside, patients)
    return MeasuredSets(
        code=code,
        n=len(inside),
        covered=float(inside.mean()),
        low=share.low,
        high=share.high,
        size=float(sizes.mean()),
    )


def _auroc(known: Sequence[Assessment], others: Sequence[Assessment]) -> float:
    """Chance that a picture is more novel than a known cell."""
    is_other = np.repeat([False, True], [len(known), len(others)])
    return float(roc_auc_score(is_other, [each.novelty for each in (*known, *others)]))
