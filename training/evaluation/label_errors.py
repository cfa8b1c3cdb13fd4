"""Possible label errors: labels that the predictions of one or several models contradict.

Confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068): a label is in doubt if another class reaches
its threshold, the mean probability of that class over the pictures labelled so. Labels are ranked by margin. The rules
are reimplemented here because cleanlab, the authors' library, is licensed under the AGPL.

Probabilities must be out of sample: of a test block, or of pooled folds.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import csv_file
from model.agreement.class_averages import Agreement, Floats, Labels
from model.agreement.proportion import wilson
from model.report.page import Table
from training.evaluation.paired import draw_accuracy, mcnemar
from training.evaluation.scores import Scores


@dataclass(frozen=True)
class LabelAudit:
    """Predictions of M models on the same N pictures. Row i of each array is one picture."""

    models: tuple[str, ...]
    first: Scores  # of the first model: pictures, labels and class list
    predicted: Labels  # (M, N)
    probabilities: Floats  # (N, C), mean over the models

    def of_source(self, name: str) -> "LabelAudit":
        """The pictures of one source; class thresholds are computed from these alone, since labellers may differ."""
        rows = self.first.sources == name
        return LabelAudit(self.models, self.first.rows(rows), self.predicted[:, rows], self.probabilities[rows])

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether a model's prediction differs from the label, (M, N)."""
        return self.predicted != self.first.labels

    @property
    def all_wrong(self) -> NDArray[np.bool_]:
        """Whether every model's prediction differs from the label, (N,)."""
        return np.all(self.wrong, axis=0)

    @property
    def contradicted(self) -> NDArray[np.bool_]:
        """Whether all models predict the same class, and it is not the label, (N,)."""
        return self.all_wrong & (self.predicted == self.predicted[0]).all(axis=0)

    @property
    def margin(self) -> Floats:
        """Probability of the label minus the highest other probability, (N,), -1 to 1."""
        rows = np.arange(len(self.first))
        others = self.probabilities.copy()
        others[rows, self.first.labels] = -np.inf
        return self.probabilities[rows, self.first.labels] - others.max(axis=1)

    @property
    def suggested(self) -> Labels:
        """The most probable class among those that reach their threshold, (N,); -1 if there is none.

        The threshold of a class is its mean probability over the pictures labelled so (arXiv 1911.00068, eq. 2).
        """
        labels, classes = self.first.labels, self.probabilities.shape[1]
        thresholds = np.full(classes, np.inf)
        for label in np.unique(labels):
            thresholds[label] = self.probabilities[labels == label, label].mean()
        reached = np.where(self.probabilities >= thresholds, self.probabilities, -1.0)
        return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)

    @property
    def doubtful(self) -> NDArray[np.int64]:
        """Rows where every model is wrong or another class is suggested; the lowest margin first."""
        other = (self.suggested >= 0) & (self.suggested != self.first.labels)
        rows = np.flatnonzero(self.all_wrong | other)
        return rows[np.argsort(self.margin[rows], kind="stable")]


def audit_labels(models: Sequence[str], scores: Sequence[Scores]) -> LabelAudit:
    """Match the predictions of several models picture by picture.

    Raises:
        ValueError: the models differ in classes or in test pictures.
    """
    first = scores[0]
    keys = first.keys()
    predicted, total = [first.predicted], first.probabilities
    for model, other in zip(models[1:], scores[1:], strict=True):
        if other.codes != first.codes:
            raise ValueError(f"{model} has other classes than {models[0]}; audit runs with the same classes")
        index = {key: row for row, key in enumerate(other.keys())}
        missing = [key for key in keys if key not in index]
        if missing or len(index) != len(keys):
            raise ValueError(
                f"{model} and {models[0]} were tested on different pictures: {len(missing)} of {len(keys)} are "
                f"missing, {len(index) - len(keys) + len(missing)} are extra; audit runs with the same split"
            )
        rows = other.rows(np.array([index[key] for key in keys], dtype=np.int64))
        predicted.append(rows.predicted)
        total = total + rows.probabilities
    return LabelAudit(tuple(models), first, np.stack(predicted), total / len(scores))


def shared_errors(audit: LabelAudit) -> Table:
    """Errors of each model that all models share, and its accuracy if contradicted labels were wrong."""
    n, all_wrong, contradicted = len(audit.first), int(audit.all_wrong.sum()), int(audit.contradicted.sum())
    rows = []
    for model, wrong in zip(audit.models, audit.wrong, strict=True):
        errors = int(wrong.sum())
        correct = n - errors
        rows.append(
            (
                model,
                f"{correct / n:.3f}",
                str(errors),
                f"{all_wrong} ({all_wrong / max(errors, 1):.0%})",
                f"{contradicted} ({contradicted / max(errors, 1):.0%})",
                f"{(correct + contradicted) / n:.3f}",
                str(n),
            )
        )
    low, high = wilson(contradicted, n)
    return Table(
        "Errors shared by all models",
        ("model", "accuracy", "errors", "wrong in all", "same class in all", "accuracy if those are label errors", "n"),
        tuple(rows),
        f"{contradicted} of {n} labels ({contradicted / n:.1%}; 95 % Wilson interval {low:.1%} to {high:.1%}) are "
        "contradicted: all models predict the same other class. The column before the last gives the accuracy if every "
        "one of them were a label error. This does not measure label noise: models trained on the same labels share "
        "mistakes, and may also have learned wrong labels. Only a second reader can decide.",
    )


def model_differences(audit: LabelAudit) -> Table:
    """Each model, and the mean of all probabilities, compared with the first model picture by picture."""
    labels, n = audit.first.labels, len(audit.first)
    names, predictions = list(audit.models), list(audit.predicted)
    if len(names) > 1:
        names.append("mean of all")
        predictions.append(audit.probabilities.argmax(axis=1))
    classes = len(audit.first.codes)
    first, first_draws = predictions[0] == labels, draw_accuracy(labels, predictions[0], classes)
    rows = [(names[0], f"{first.mean():.3f}", "", "", "", "", str(n))]
    for name, predicted in zip(names[1:], predictions[1:], strict=True):
        correct = predicted == labels
        alone, first_alone = int((correct & ~first).sum()), int((first & ~correct).sum())
        low, high = (draw_accuracy(labels, predicted, classes) - first_draws).difference_interval()
        points = f"{100 * (correct.mean() - first.mean()):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        p = f"{mcnemar(alone, first_alone):.3f}"
        rows.append((name, f"{correct.mean():.3f}", str(alone), str(first_alone), points, p, str(n)))
    return Table(
        "Compared with the first model, picture by picture",
        ("model", "accuracy", "only it correct", "only first correct", "points", "p", "n"),
        tuple(rows),
        "Points: accuracy minus the first model's, with the 95 % interval of 2000 draws of the Bayesian bootstrap. "
        "p: McNemar's exact test, not corrected for the number of models. Neither covers variation between patients or "
        "between trainings.",
    )


def contradicted_pairs(audit: LabelAudit, tolerated: Agreement) -> Table:
    """Pairs of label and predicted class among the contradicted labels, the most frequent first."""
    codes, labels = audit.first.codes, audit.first.labels
    counts = Counter((labels[row], audit.predicted[0, row]) for row in np.flatnonzero(audit.contradicted))
    size = np.bincount(labels, minlength=len(codes))
    rows = [
        (codes[true], codes[predicted], str(n), f"{n / size[true]:.1%}", "yes" if tolerated[true, predicted] else "no")
        for (true, predicted), n in counts.most_common()
    ]
    return Table(
        "Labels contradicted by all models with the same class",
        ("label", "predicted by all", "pictures", "of the class", "neighbouring stages"),
        tuple(rows),
        f"n = {len(labels)} pictures.",
    )


def write_audit(path: Path, audits: Sequence[LabelAudit]) -> None:
    """Write the CSV list for a second reader: a row for each doubtful picture, audit by audit, lowest margin first."""
    header = ("source", "file", "label", "suggested", "wrong_models", "models", "agreed", "p_label", "margin")
    with csv_file.replacing(path) as rows:
        rows.writerow(header)
        for audit in audits:
            rows.writerows(_rows(audit))


def _rows(audit: LabelAudit) -> Iterator[tuple[object, ...]]:
    codes, labels, keys, wrong = audit.first.codes, audit.first.labels, audit.first.keys(), audit.wrong.sum(axis=0)
    margin, suggested, contradicted = audit.margin, audit.suggested, audit.contradicted
    for row in audit.doubtful:
        source, code, name = keys[row]
        other = codes[suggested[row]] if suggested[row] not in (-1, labels[row]) else ""
        agreed = codes[audit.predicted[0, row]] if contradicted[row] else ""
        p_label = f"{audit.probabilities[row, labels[row]]:.4f}"
        yield source, name, code, other, wrong[row], len(audit.models), agreed, p_label, f"{margin[row]:.4f}"
