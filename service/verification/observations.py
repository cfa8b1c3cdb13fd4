"""The model's answers for labelled cells, as arrays: what every figure of a verification is computed from."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from model.contract import Manifest
from model.drift.distance import DriftMeasurement
from model.image import PictureError
from model.trust.decision import Assessment, Assessor
from model.trust.fitting import LabelledPredictions
from model.trust.quality import measure
from model.trust.reference import TrustReference
from service.config.settings import parse_classes
from service.inference.batching.errors import BatcherClosed, RunFailed
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.scoring.image_files import error_reason
from service.scoring.local import classify_files
from service.scoring.progress import progress_bar
from service.telemetry.metrics import Metrics
from service.verification.errors import VerificationError
from service.verification.labelled_cells import NO_CLASS, UNDECIDED, LabelledCell

Mask = NDArray[np.bool_]  # (N,)
_Floats = NDArray[np.float32]
_Row = tuple[LabelledCell, _Floats, _Floats, _Floats, Assessment]  # probabilities, embedding, measures


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """N labelled cells and the model's answers, in the order of the cells.

    Labels are indices of the model's classes; the number of classes stands for every other class, -1 for a cell without
    a majority of its readers.
    """

    manifest: Manifest
    trust: TrustReference  # in force
    cells: tuple[LabelledCell, ...]
    labels: NDArray[np.int64]  # (N,)
    probabilities: NDArray[np.float32]  # (N, C)
    embeddings: NDArray[np.float32]  # (N, D)
    measures: NDArray[np.float32]  # (N, 6), of the pictures
    assessments: tuple[Assessment, ...]
    digests: tuple[str, ...]  # SHA-256 of each picture's bytes
    patients: NDArray[np.int64] | None  # (N,), number of the patient; None: unknown

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def other(self) -> int:
        """The label of a class that the model does not have."""
        return len(self.manifest.codes)

    @property
    def labelled(self) -> Mask:
        """Cells with a label."""
        labelled: Mask = self.labels >= 0
        return labelled

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Index of the predicted class, (N,)."""
        found: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return found

    @property
    def known(self) -> Mask:
        """Cells of the model's classes."""
        known: Mask = self.labelled & (self.labels != self.other)
        return known

    @property
    def right(self) -> Mask:
        """Cells whose predicted class is their label."""
        right: Mask = self.predicted == self.labels
        return right

    def decided(self, decision: str) -> Mask:
        """Cells with this decision."""
        return np.array([each.decision == decision for each in self.assessments], np.bool_)

    @property
    def supported(self) -> Mask:
        """Cells labelled with a class that has a threshold."""
        thresholds = self.trust.sets.thresholds
        has_threshold = np.array([code in thresholds for code in self.manifest.codes] + [False, False])
        supported: Mask = has_threshold[self.labels]
        return supported

    @property
    def pictures_sha256(self) -> str:
        """SHA-256 of the sorted digests of all pictures, each with its label."""
        codes = (*self.manifest.codes, NO_CLASS, UNDECIDED)
        lines = sorted(f"{digest} {codes[label]}\n" for digest, label in zip(self.digests, self.labels, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def predictions(self, chosen: Mask) -> LabelledPredictions:
        """The chosen cells as the fit of a trust reference takes them."""
        everything = LabelledPredictions(self.probabilities, self.embeddings, self.measures, self.labels)
        return everything.rows(chosen)

    def assessed_with(self, assessor: Assessor, chosen: Mask) -> list[Assessment]:
        """Assessments of the chosen cells by another reference."""
        cells = self.predictions(chosen)
        return assessor.assess_measured(cells.probabilities, cells.embeddings, cells.measures)


@dataclass(slots=True)
class Observed:
    """The observations, and the pictures that are left out of them."""

    observations: Observations
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # name, reason
    copies: list[tuple[str, str]] = field(default_factory=list)  # name, name of the same picture
    drift: DriftMeasurement | None = None  # of all readable pictures; None: the model has no drift reference


def observe(cells: Sequence[LabelledCell], session: Session, options: InferenceOptions, console: Console) -> Observed:
    """Classify labelled cells as a request would. A picture that occurs twice is used once.

    Raises:
        VerificationError: the model has no trust reference or fails, no picture can be read, or the same picture has
            two labels.
    """
    trust = session.manifest.trust
    if trust is None:
        raise VerificationError("the model has no trust reference; export it with [trust] (docs/trust.md)")
    review = parse_classes(options.review_classes)
    gathered, classifier = _Gathered(session.manifest, trust, review), Classifier(session, options, Metrics())
    try:
        asyncio.run(_classify(cells, classifier, options, console, gathered))
    except (RunFailed, BatcherClosed) as error:
        raise VerificationError(f"the model failed: {error.__cause__ or error}") from error
    found = gathered.observed()
    found.drift = classifier.measure_drift()
    return found


async def _classify(
    cells: Sequence[LabelledCell],
    classifier: Classifier,
    options: InferenceOptions,
    console: Console,
    gathered: "_Gathered",
) -> None:
    files = ((str(at), cell.path) for at, cell in enumerate(cells))
    with progress_bar(console, len(cells)) as progress:
        async with aclosing(classify_files(classifier, files, options.max_image_bytes)) as outcomes:
            async for at, outcome in outcomes:
                cell = cells[int(at)]
                if isinstance(outcome, PictureError | OSError):
                    gathered.unreadable.append((cell.name, error_reason(outcome)))
                elif isinstance(outcome, Exception):
                    raise outcome
                else:
                    gathered.add(cell, outcome)
                progress.advance(progress.task_ids[0])


class _Gathered:
    """Answers while they come, without their pictures."""

    def __init__(self, manifest: Manifest, trust: TrustReference, review: Sequence[str]) -> None:
        self._manifest, self._trust = manifest, trust
        self.unreadable: list[tuple[str, str]] = []
        self._copies: list[tuple[str, str]] = []
        self._first: dict[str, LabelledCell] = {}  # by digest
        self._assessor = Assessor(trust, manifest.codes, manifest.unsupported, review)
        self._rows: list[_Row] = []

    def add(self, cell: LabelledCell, answer: Answer) -> None:
        """Add one answer, or note a copy.

        Raises:
            VerificationError: the same picture with another label.
        """
        digest = hashlib.sha256(cell.path.read_bytes()).hexdigest()
        first = self._first.setdefault(digest, cell)
        if first is not cell:
            if (first.label, first.undecided) != (cell.label, cell.undecided):
                raise VerificationError(
                    f"{first.name} and {cell.name} are the same picture with the labels {first.label or 'none'} and "
                    f"{cell.label or 'none'}; correct one"
                )
            if first.patient != cell.patient:
                raise VerificationError(
                    f"{first.name} and {cell.name} are the same picture of two patients; correct one"
                )
            self._copies.append((cell.name, first.name))
            return
        row = answer.probabilities.copy(), answer.embedding.copy(), measure(answer.picture[None])[0]
        (assessment,) = self._assessor.assess_measured(*(each[None] for each in row))
        self._rows.append((cell, *row, assessment))

    def observed(self) -> Observed:
        """All answers.

        Raises:
            VerificationError: there is none.
        """
        if not self._rows:
            raise VerificationError(f"none of the {len(self.unreadable)} pictures can be read")
        cells, probabilities, embeddings, measures, assessments = zip(*self._rows, strict=True)
        codes = self._manifest.codes
        labels = [_label(cell, codes) for cell in cells]
        found = Observations(
            self._manifest,
            self._trust,
            cells,
            np.array(labels),
            np.stack(probabilities),
            np.stack(embeddings),
            np.stack(measures),
            assessments,
            tuple(self._first),
            _patients(cells),
        )
        return Observed(found, self.unreadable, self._copies)


def _label(cell: LabelledCell, codes: Sequence[str]) -> int:
    if cell.undecided:
        return -1
    return len(codes) if cell.label is None else codes.index(cell.label)


def _patients(cells: Sequence[LabelledCell]) -> NDArray[np.int64] | None:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(cell.patient for cell in cells))}
    return None if None in numbers else np.array([numbers[cell.patient] for cell in cells])
