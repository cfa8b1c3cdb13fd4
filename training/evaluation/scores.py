"""Logits of a run's held-out pictures (logits.npz): the input of figures, pooled folds and label audits.

The file is a NumPy archive: exact float32, readable without another library, and never a pickle.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import atomic_file, csv_file
from model.agreement.class_averages import Floats, Labels
from training.data.samples import Block, Sample
from training.evaluation.calibration import Logits, log_probabilities
from training.run import Evaluation, MeasuredBlock, RunFolder

#: The label of a cell of another class than the model's.
NO_CLASS = -1
_ARRAYS = ("sources", "files", "labels", "logits", "temperature", "patients")


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits of the pictures of one block; row i of each array is one picture."""

    codes: tuple[str, ...]  # in logit order
    sources: NDArray[np.str_]  # (N,)
    files: NDArray[np.str_]  # (N,), name within the source; for class folders: within the class
    labels: Labels  # (N,)
    logits: Logits  # (N, C), before temperature scaling
    temperature: Floats  # (N,), of the run, or of the picture's fold in pooled folds
    patients: NDArray[np.str_]  # (N,), name within the source; empty: unknown

    @property
    def probabilities(self) -> Floats:
        """softmax(logits / T), (N, C)."""
        return np.exp(log_probabilities(self.logits, self.temperature))

    @property
    def predicted(self) -> Labels:
        """The predicted class of each picture, (N,); the temperature does not change it."""
        return self.logits.argmax(axis=1)

    def __len__(self) -> int:
        return len(self.labels)

    def keys(self) -> list[tuple[str, str, str]]:
        """Source, class and file of each picture, as in split.csv."""
        return [
            (str(source), self.codes[label], str(file))
            for source, label, file in zip(self.sources, self.labels, self.files, strict=True)
        ]

    def patient_numbers(self) -> Labels | None:
        """The number of each picture's patient, (N,); None if that of one is unknown, or without pictures."""
        if not len(self) or not np.char.str_len(self.patients).all():
            return None
        of_source = np.stack([np.unique(names, return_inverse=True)[1] for names in (self.sources, self.patients)])
        return np.unique(of_source, axis=1, return_inverse=True)[1].ravel().astype(np.int64)

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Scores":
        """The pictures selected by a mask or by indices."""
        return Scores(self.codes, *(getattr(self, name)[chosen] for name in _ARRAYS))

    def of_source(self, name: str) -> "Scores":
        """The pictures of one source."""
        return self.rows(self.sources == name)


def scores_of(samples: Sequence[Sample], logits: Logits, temperature: float, codes: tuple[str, ...]) -> Scores:
    """Scores of samples from their logits (N, C)."""
    return Scores(
        codes,
        np.array([sample.source for sample in samples], dtype=np.str_),
        np.array([sample.name for sample in samples], dtype=np.str_),
        np.array([codes.index(sample.code) for sample in samples], dtype=np.int64),
        logits,
        np.full(len(samples), temperature),
        np.array([sample.patient for sample in samples], dtype=np.str_),
    )


def concatenate(parts: Sequence[Scores]) -> Scores:
    """The pictures of several scores with the same class list."""
    return Scores(parts[0].codes, *(np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS))


def write_scores(path: Path, blocks: Mapping[Block, Scores]) -> None:
    """Write the scores of all blocks to one .npz file."""
    scores = concatenate(list(blocks.values()))
    block = np.repeat(list(blocks), [len(part) for part in blocks.values()])
    arrays = {name: getattr(scores, name) for name in _ARRAYS}
    with atomic_file.replacing(path) as file:
        np.savez_compressed(file, codes=np.array(scores.codes), block=block, **arrays)


def read_scores(path: Path, block: Block) -> Scores:
    """One block of a file written by `write_scores`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is incomplete.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = [arrays[name] for name in _ARRAYS if name in arrays]
            if "patients" not in arrays:  # written by an earlier version
                found.append(np.full(len(arrays["labels"]), ""))
            scores = Scores(tuple(arrays["codes"].tolist()), *found)
            return scores.rows(arrays["block"] == block)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"{path}: incomplete file; write it again with `marrowlens-train evaluate`") from error


def write_predictions(path: Path, scores: Scores) -> None:
    """Write a CSV row a picture: source, file, true and predicted class, patient, probability of every class."""
    probabilities, predicted = scores.probabilities, scores.predicted
    with csv_file.replacing(path) as rows:
        of_classes = (f"p_{code}" for code in scores.codes)
        rows.writerow(("source", "file", "true", "predicted", "probability", "patient", *of_classes))
        for row, (source, code, name) in enumerate(scores.keys()):
            top, each = predicted[row], (f"{probability:.4f}" for probability in probabilities[row])
            answer = code, scores.codes[top], f"{probabilities[row, top]:.4f}"
            rows.writerow((source, name, *answer, scores.patients[row], *each))


def write_evaluation(run: RunFolder, evaluation: Evaluation, scores: Mapping[Block, Scores]) -> None:
    """Write evaluation.json, predictions.csv and logits.npz, the results on the test block, to a run's folder.

    Args:
        scores: of the test block at least.
    """
    write_scores(run.logits, scores)
    write_predictions(run.folder / "predictions.csv", scores["test"])
    run.write_evaluation(evaluation)


def write_development(run: RunFolder, evaluation: Evaluation, scores: Scores) -> None:
    """Write development.json and development.npz, the results on the calibration block, to a run's folder."""
    write_scores(run.development_logits, {"calibration": scores})
    run.write_evaluation(evaluation, "calibration")


def measured_scores(run: RunFolder, block: MeasuredBlock) -> Scores:
    """The scores that the figures of a block come from.

    On the calibration block, each picture has the temperature that the other half of the block determined.

    Raises:
        RunError: the run has not been evaluated on this block.
    """
    return scores_of_run(run, "test") if block == "test" else read_scores(run.development_file(), "calibration")


def scores_of_run(run: RunFolder, block: Block) -> Scores:
    """The scores of a block, as written by `evaluate`.

    Raises:
        RunError: the run has not been evaluated.
    """
    return read_scores(run.logits_file(), block)
