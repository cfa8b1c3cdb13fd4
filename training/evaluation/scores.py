"""The logits of a run's held-out pictures, kept in its folder: all that figures, pooling and audits need of a network.

Knows one .npz file and its arrays, and the list beside it. Knows no network and computes no figure.

A NumPy archive rather than a table: exact float32, read without a further library, and never a pickle.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import atomic_file, csv_file
from training.data.samples import Block, Sample
from training.evaluation.calibration import Logits, log_probabilities
from training.evaluation.metrics import Floats, Labels
from training.run import Evaluation, RunFolder


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits of the pictures of one block; row i of each array is one picture."""

    codes: tuple[str, ...]  # in logit order
    sources: NDArray[np.str_]  # (N,)
    files: NDArray[np.str_]  # (N,), the sample's name within its source (class folders: within its class)
    labels: Labels  # (N,)
    logits: Logits  # (N, C), before the temperature
    temperature: Floats  # (N,), that the run fitted; from one run all alike, from pooled folds each fold's

    @property
    def probabilities(self) -> Floats:
        """softmax(logits / T), (N, C)."""
        return np.exp(log_probabilities(self.logits, self.temperature))

    @property
    def predicted(self) -> Labels:
        """The class named for each picture, (N,); no temperature changes it."""
        return self.logits.argmax(axis=1)

    def __len__(self) -> int:
        return len(self.labels)

    def keys(self) -> list[tuple[str, str, str]]:
        """Source, class and file of each picture, as a row of split.csv."""
        return [
            (str(source), self.codes[label], str(file))
            for source, label, file in zip(self.sources, self.labels, self.files, strict=True)
        ]

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Scores":
        """The pictures chosen by a mask or by indices."""
        return Scores(
            self.codes,
            self.sources[chosen],
            self.files[chosen],
            self.labels[chosen],
            self.logits[chosen],
            self.temperature[chosen],
        )

    def of_source(self, name: str) -> "Scores":
        """The pictures of one source."""
        return self.rows(self.sources == name)


def scores_of(samples: Sequence[Sample], logits: Logits, temperature: float, codes: tuple[str, ...]) -> Scores:
    """Logits (N, C) with whose they are."""
    return Scores(
        codes,
        np.array([sample.source for sample in samples], dtype=np.str_),
        np.array([sample.name for sample in samples], dtype=np.str_),
        np.array([codes.index(sample.code) for sample in samples], dtype=np.int64),
        logits,
        np.full(len(samples), temperature),
    )


def joined(parts: Sequence[Scores]) -> Scores:
    """One after the other; the parts must have the same classes."""
    names = ("sources", "files", "labels", "logits", "temperature")
    return Scores(parts[0].codes, *(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def write_scores(path: Path, blocks: Mapping[Block, Scores]) -> None:
    """Write the blocks to one .npz."""
    whole = joined(list(blocks.values()))
    block = np.repeat(list(blocks), [len(scores) for scores in blocks.values()])
    with atomic_file.replacing(path) as file:
        np.savez_compressed(
            file,
            codes=np.array(whole.codes),
            block=block,
            sources=whole.sources,
            files=whole.files,
            labels=whole.labels,
            logits=whole.logits,
            temperature=whole.temperature,
        )


def read_scores(path: Path, block: Block) -> Scores:
    """One block of what `write_scores` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not whole.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            whole = Scores(
                tuple(arrays["codes"].tolist()),
                *(arrays[name] for name in ("sources", "files", "labels", "logits", "temperature")),
            )
            return whole.rows(arrays["block"] == block)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"{path} is not whole; `marrowlens-train evaluate` writes it anew") from error


def write_predictions(path: Path, scores: Scores) -> None:
    """One row a picture: source, file, true class, predicted class, its probability."""
    probabilities, predicted = scores.probabilities, scores.predicted
    with csv_file.replacing(path) as rows:
        rows.writerow(("source", "file", "true", "predicted", "probability"))
        for row, (source, code, name) in enumerate(scores.keys()):
            named = predicted[row]
            rows.writerow((source, name, code, scores.codes[named], f"{probabilities[row, named]:.4f}"))


def write_evaluation(run: RunFolder, evaluation: Evaluation, scores: Mapping[Block, Scores]) -> None:
    """Write a run's evaluation.json, predictions.csv and logits.npz.

    Args:
        scores: of the test block at least.
    """
    write_scores(run.logits, scores)
    write_predictions(run.folder / "predictions.csv", scores["test"])
    run.write_evaluation(evaluation)


def scores_of_run(run: RunFolder, block: Block) -> Scores:
    """The logits of a block, as `evaluate` found them.

    Raises:
        RunError: the run has not been evaluated.
    """
    return read_scores(run.evaluated(), block)
