"""Labels to look at again: pictures that every model gets wrong, and those whose label their probabilities contradict.

Knows probabilities and labels. Knows no network and no pictures.

Ranked by confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068): a label is in doubt where another
class reaches the mean probability that pictures so labelled have, and the more, the further the label's probability
lies below the highest other one (the margin). The library that its authors keep, cleanlab, is under the AGPL; the
two rules are restated here instead. Probabilities must come from networks that have not learned from the picture:
a test block, or pooled folds.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import csv_file
from training.evaluation.maturation import Agreement
from training.evaluation.metrics import Floats, Labels, wilson
from training.evaluation.paired import mcnemar, middle_95, resampled
from training.evaluation.scores import Scores
from training.evaluation.tables import Table


@dataclass(frozen=True)
class Audit:
    """What several models say of the same pictures. Row i of each array is one picture."""

    models: tuple[str, ...]
    first: Scores  # of the first model: whose pictures they are, their labels and the class list
    named: Labels  # (M, N), what each model names
    probabilities: Floats  # (N, C), mean over the models

    def of_source(self, name: str) -> "Audit":
        """The pictures of one source, with the class thresholds of these alone: sources need not share a labeller."""
        here = self.first.sources == name
        return Audit(self.models, self.first.rows(here), self.named[:, here], self.probabilities[here])

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(M, N): which models get which picture wrong."""
        return self.named != self.first.labels

    @property
    def contested(self) -> NDArray[np.bool_]:
        """(N,): wrong in every model."""
        return np.all(self.wrong, axis=0)

    @property
    def contradicted(self) -> NDArray[np.bool_]:
        """(N,): wrong in every model, and all name the same class."""
        return self.contested & (self.named == self.named[0]).all(axis=0)

    @property
    def margin(self) -> Floats:
        """(N,): the label's mean probability less the highest other one, -1 to 1; below 0 the label would change."""
        rows = np.arange(len(self.first))
        others = self.probabilities.copy()
        others[rows, self.first.labels] = -np.inf
        return self.probabilities[rows, self.first.labels] - others.max(axis=1)

    @property
    def suggested(self) -> Labels:
        """(N,): the class of highest probability among those that reach their threshold (Northcutt 2021, eq. 2).

        A class's threshold is the mean of its probability over the pictures labelled so. -1 where none is reached.
        """
        labels, classes = self.first.labels, self.probabilities.shape[1]
        thresholds = np.full(classes, np.inf)
        for label in np.unique(labels):
            thresholds[label] = self.probabilities[labels == label, label].mean()
        reached = np.where(self.probabilities >= thresholds, self.probabilities, -1.0)
        return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)

    @property
    def doubtful(self) -> NDArray[np.int64]:
        """Rows that are wrong in every model, or whose label is in doubt; the lowest margin first."""
        other = (self.suggested >= 0) & (self.suggested != self.first.labels)
        rows = np.flatnonzero(self.contested | other)
        return rows[np.argsort(self.margin[rows], kind="stable")]


def audit(models: Sequence[str], scores: Sequence[Scores]) -> Audit:
    """Bring the answers of several models to the same pictures together.

    Raises:
        ValueError: they differ in classes, or were not tested on the same pictures.
    """
    first = scores[0]
    keys = first.keys()
    named, total = [first.predicted], first.probabilities
    for model, other in zip(models[1:], scores[1:], strict=True):
        if other.codes != first.codes:
            raise ValueError(f"{model} has other classes than {models[0]}")
        at = {key: row for row, key in enumerate(other.keys())}
        missing = [key for key in keys if key not in at]
        if missing or len(at) != len(keys):
            raise ValueError(
                f"{model} was not tested on the pictures of {models[0]}: {len(missing)} of {len(keys)} are missing, "
                f"{len(at) - len(keys) + len(missing)} others are there"
            )
        rows = other.rows(np.array([at[key] for key in keys], dtype=np.int64))
        named.append(rows.predicted)
        total = total + rows.probabilities
    return Audit(tuple(models), first, np.stack(named), total / len(scores))


def shares(found: Audit) -> Table:
    """How much of each model's error all share, and what its accuracy would be if the labels were at fault."""
    n, contested, contradicted = len(found.first), int(found.contested.sum()), int(found.contradicted.sum())
    rows = []
    for model, wrong in zip(found.models, found.wrong, strict=True):
        errors = int(wrong.sum())
        of_errors = max(errors, 1)
        right = n - errors
        rows.append(
            (
                model,
                f"{right / n:.3f}",
                str(errors),
                f"{contested} ({contested / of_errors:.0%})",
                f"{contradicted} ({contradicted / of_errors:.0%})",
                f"{(right + contradicted) / n:.3f}",
                str(n),
            )
        )
    low, high = wilson(contradicted, n)
    return Table(
        "How much of the error all models share",
        ("model", "accuracy", "errors", "wrong in all", "and all name one class", "accuracy if those were right", "n"),
        tuple(rows),
        f"{contradicted} of {n} labels ({contradicted / n:.1%}; 95 % Wilson interval {low:.1%} to {high:.1%}) are "
        "contradicted by every model with one and the same class. If each of them were a wrong label, the accuracies "
        "would be those of the column before the last. It is no measurement of label noise: models that learn from "
        "the same labels share mistakes, and a wrong label that a model repeats is not among them. Only a second "
        "reader can tell.",
    )


def differences(found: Audit) -> Table:
    """Each model, and the mean of all their probabilities, against the first, picture by picture."""
    labels, n = found.first.labels, len(found.first)
    names = [*found.models, "mean of all"] if len(found.models) > 1 else list(found.models)
    answers = [*found.named, found.probabilities.argmax(axis=1)][: len(names)]
    right, drawn = answers[0] == labels, resampled(labels, answers[0][None]).accuracy
    rows = [(names[0], f"{right.mean():.3f}", "", "", "", "", str(n))]
    for name, named in zip(names[1:], answers[1:], strict=True):
        hits = named == labels
        alone, first_alone = int((hits & ~right).sum()), int((right & ~hits).sum())
        low, high = middle_95(resampled(labels, named[None]).accuracy - drawn)
        points = f"{100 * (hits.mean() - right.mean()):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        p = f"{mcnemar(alone, first_alone):.3f}"
        rows.append((name, f"{hits.mean():.3f}", str(alone), str(first_alone), points, p, str(n)))
    return Table(
        "Against the first model, picture by picture",
        ("model", "accuracy", "right alone", "first right alone", "points", "p", "n"),
        tuple(rows),
        "Points: accuracy less the first model's, 95 % interval over 2000 resamplings of the pictures. p: McNemar's "
        "exact test, not raised for the number of models. Neither speaks of patients, nor of another training.",
    )


def pairs(found: Audit, tolerated: Agreement) -> Table:
    """Which classes the contradicted labels lie between, the most frequent first."""
    codes, labels = found.first.codes, found.first.labels
    counts = Counter((labels[row], found.named[0, row]) for row in np.flatnonzero(found.contradicted))
    size = np.bincount(labels, minlength=len(codes))
    rows = [
        (codes[true], codes[named], str(n), f"{n / size[true]:.1%}", "yes" if tolerated[true, named] else "no")
        for (true, named), n in counts.most_common()
    ]
    return Table(
        "Labels that every model contradicts with the same class",
        ("label", "named by all", "pictures", "of the class", "neighbouring stages"),
        tuple(rows),
        f"n = {len(labels)} pictures.",
    )


def write_audit(path: Path, audits: Sequence[Audit]) -> None:
    """The list for a second reader: one row a doubtful picture, audit by audit, the most doubtful first."""
    header = ("source", "file", "label", "suggested", "wrong_models", "models", "agreed", "p_label", "margin")
    with csv_file.replacing(path) as rows:
        rows.writerow(header)
        for found in audits:
            rows.writerows(_rows(found))


def _rows(found: Audit) -> Iterator[tuple[object, ...]]:
    codes, labels, keys, wrong = found.first.codes, found.first.labels, found.first.keys(), found.wrong.sum(axis=0)
    margin, suggested, contradicted = found.margin, found.suggested, found.contradicted
    for row in found.doubtful:
        source, code, name = keys[row]
        other = codes[suggested[row]] if suggested[row] not in (-1, labels[row]) else ""
        agreed = codes[found.named[0, row]] if contradicted[row] else ""
        sure = f"{found.probabilities[row, labels[row]]:.4f}"
        yield source, name, code, other, wrong[row], len(found.models), agreed, sure, f"{margin[row]:.4f}"
