"""Figures → the tables that people read: the same in the terminal, in the model card and in the report.

Knows the names of the figures and how they are set. Knows no Markdown, no HTML and no terminal.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from model.contract import Metric
from training.evaluation.selective import COVERAGES, RISK_LIMIT

Lookup = Callable[..., Metric | None]  # name, code → the figure


#: What the names of figures mean, as a model card has them; a name in … stands for every ending or beginning.
LEGEND: tuple[tuple[tuple[str, ...], str], ...] = (
    (("accuracy",), "pictures that got their own class; interval: Wilson"),
    (
        ("macro_f1", "weighted_f1", "balanced_accuracy"),
        "mean over the classes of F1, the same by their pictures, mean of the recalls; intervals: resampled pictures",
    ),
    (("tolerant_…",), "a neighbouring stage of maturation is no error"),
    (("lineage_…",), "another class of the same lineage is no error; a class without a lineage stands by itself"),
    (("nll",), "negative log likelihood of the label, the loss, in nats"),
    (("brier",), "squared distance of the probabilities to the label, 0 to 2"),
    (("ece",), "expected calibration error in 15 bins; it is biased upwards and has no interval"),
    (
        ("ece_by_chance",),
        "what a perfectly calibrated model with these probabilities would show at this n, mean and 95 % of draws",
    ),
    (("…_before_temperature",), "the same of the probabilities without the temperature"),
    (
        ("accuracy_at_…_coverage", "threshold_at_…_coverage"),
        "of the surest so many percent of the pictures, and the least top probability among them",
    ),
    (
        (f"coverage_at_{RISK_LIMIT * 100:.0f}_risk", f"threshold_at_{RISK_LIMIT * 100:.0f}_risk"),
        f"share answered where at most {RISK_LIMIT:.0%} of the answers are wrong, and from which top probability; read "
        "on the pictures that it is tried on, so it looks better than it is",
    ),
    (
        (f"cross_coverage_at_{RISK_LIMIT * 100:.0f}_risk", f"cross_accuracy_at_{RISK_LIMIT * 100:.0f}_risk"),
        "the same with the threshold of the other half of the pictures, which does not have this fault",
    ),
    (("aurc",), "area under the curve of errors by share answered; 0 is best"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header, rows of text, and what has to be known to read them."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def tables(metrics: Iterable[Metric], split: str) -> list[Table]:
    """The tables of one split; a table without a figure is left out, and every figure stands in one of them."""
    found = {(metric.name, metric.code): metric for metric in metrics if metric.split == split}
    used: set[tuple[str, str | None]] = set()

    def look(name: str, code: str | None = None) -> Metric | None:
        used.add((name, code))
        return found.get((name, code))

    codes = list(dict.fromkeys(code for _, code in found if code is not None))
    made = [_levels(look), _classes(look, codes), _neighbours(look, codes), _probabilities(look), _selective(look)]
    rest = [metric for key, metric in found.items() if key not in used]
    made.append(
        Table(
            "Further figures",
            ("figure", "class", "value", "n"),
            tuple((metric.name, metric.code or "", shown(metric), str(metric.n)) for metric in rest),
            "",
        )
    )
    return [table for table in made if table.rows]


def shown(metric: Metric | None) -> str:
    """A figure and its interval, as text."""
    if metric is None:
        return ""
    if metric.n == 0:
        return "undefined"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} ({metric.low:.3f}–{metric.high:.3f})"


def _in_words(name: str) -> str:
    return name.replace("_", " ").replace("f1", "F1")


def _n(metric: Metric | None) -> str:
    return "" if metric is None else str(metric.n)


def _filled(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Without the rows that hold nothing beside their name."""
    return tuple(row for row in rows if any(row[1:]))


def _levels(look: Lookup) -> Table:
    rows = []
    for name in ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy"):
        strict, tolerant, lineage = (look(level + name) for level in ("", "tolerant_", "lineage_"))
        rows.append((_in_words(name), shown(strict), shown(tolerant), shown(lineage), _n(strict)))
    return Table(
        "Which class",
        ("figure", "strict", "tolerant", "lineage", "n"),
        _filled(rows),
        "Strict: the very class. Tolerant: a neighbouring stage of maturation is no error. Lineage: another class of "
        "the same lineage is no error; a class without a lineage stands by itself. In brackets: 95 % interval "
        "(accuracy: Wilson; the others: resampled pictures).",
    )


def _classes(look: Lookup, codes: Sequence[str]) -> Table:
    return Table(
        "Class by class",
        ("class", "recall", "n", "precision", "n named", "F1", "n either"),
        _class_rows(look, codes, ""),
        "n: pictures of the class; n named: pictures that got its name; n either: of the one or the other. In "
        "brackets: 95 % Wilson interval (F1: of the share of hits among n either, carried over). The mix of classes is "
        "that of this block, not that of a patient's specimen, so precision will differ there.",
    )


def _neighbours(look: Lookup, codes: Sequence[str]) -> Table:
    strict, lenient = _class_rows(look, codes, ""), _class_rows(look, codes, "tolerant_")
    return Table(
        "Class by class, neighbouring stages forgiven",
        ("class", "recall", "n", "precision", "n named", "F1", "n either"),
        tuple(row for row in lenient if row not in strict),
        "Recall: pictures of the class that got its name or a neighbour's; precision: pictures with its name that are "
        "of it or of a neighbour. Of a class that is not listed, no picture was taken for a neighbour or the other way "
        "round.",
    )


def _class_rows(look: Lookup, codes: Sequence[str], level: str) -> tuple[tuple[str, ...], ...]:
    rows = []
    for code in codes:
        found = [look(level + name, code) for name in ("recall", "precision", "f1")]
        rows.append((code, *(text for metric in found for text in (shown(metric), _n(metric)))))
    return _filled(rows)


def _probabilities(look: Lookup) -> Table:
    rows = []
    for name in ("nll", "brier", "ece"):
        before, after = look(f"{name}_before_temperature"), look(name)
        rows.append((name, shown(before), shown(after), _n(after)))
    chance = look("ece_by_chance")
    rows.append(("ece by chance", "", shown(chance), _n(chance)))
    return Table(
        "How far the probabilities can be believed",
        ("figure", "before temperature", "after", "n"),
        _filled(rows),
        "nll: negative log likelihood of the label, the loss, in nats. brier: squared distance to the label, 0 to 2. "
        "ece: expected calibration error in 15 bins; it is biased upwards and has no interval. ece by chance: what a "
        "perfectly calibrated model with these probabilities would show at this n, mean and middle 95 % of 400 draws.",
    )


def _selective(look: Lookup) -> Table:
    rows = []
    for share in COVERAGES:
        name = f"{share * 100:.0f}_coverage"
        right, threshold = look(f"accuracy_at_{name}"), look(f"threshold_at_{name}")
        rows.append((f"surest {share:.0%}", "", _n(threshold), shown(right), _n(right), shown(threshold)))
    limit = f"{RISK_LIMIT * 100:.0f}_risk"
    coverage, threshold = look(f"coverage_at_{limit}"), look(f"threshold_at_{limit}")
    rows.append((f"at most {RISK_LIMIT:.0%} errors", shown(coverage), _n(coverage), "", "", shown(threshold)))
    coverage, right = look(f"cross_coverage_at_{limit}"), look(f"cross_accuracy_at_{limit}")
    rows.append(("threshold of the other half", shown(coverage), _n(coverage), shown(right), _n(right), ""))
    area = look("aurc")
    rows.append(("area under risk by coverage", shown(area), _n(area), "", "", ""))
    return Table(
        "If it answers only where it is sure",
        ("answered", "coverage", "n", "accuracy", "n answered", "threshold"),
        _filled(rows),
        "Pictures whose top probability reaches the threshold are answered; a person reads the others. A threshold "
        f"for {RISK_LIMIT:.0%} errors that is read on the pictures it is tried on looks better than it is; the row of "
        "the other half does not have this fault, and neither speaks of another laboratory.",
    )
