"""The tables of the report."""

from collections.abc import Iterable

from model.plural import plural
from model.report.page import Table
from service.verification.document import ClassResult, DecisionRates, Estimate, Rate, SetRates, Verification

INTERVALS = "In brackets: 95 % interval"
#: From this many patients on, intervals by patient are reliable.
FEW_PATIENTS = 10
#: More cells than a laboratory labels.
MANY_CELLS = 100_000


def rate_text(rate: Rate) -> str:
    """A share and its interval."""
    return "–" if rate.share is None else f"{rate.share:.3f} ({rate.low:.3f}–{rate.high:.3f})"


def estimate_text(estimate: Estimate | None, form: str = ".3f") -> str:
    """A value and its interval; empty if there is none."""
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def outlook(each: ClassResult) -> str:
    """What more cells of a class would lead to, at the rates found; empty with a verdict."""
    if not each.missing_cells:
        return ""
    if each.missing_cells > MANY_CELLS:
        return "too near the goal to tell"
    after = f"then {each.expected}" if each.expected else "for a first estimate"
    return f"{plural(each.missing_cells, 'more cell')}, {after}"


def intervals_note(document: Verification) -> str:
    """How the intervals were made."""
    patients = document.pictures.patients
    if patients is None:
        return f"{INTERVALS} (Wilson), as if every cell were of another patient, because patients are not given."
    few = f" With fewer than {FEW_PATIENTS} patients they are rough." if patients < FEW_PATIENTS else ""
    return f"{INTERVALS} that allows for cells of one patient being alike.{few}"


def verdicts(document: Verification) -> Table:
    """Verdict, sensitivity and predictive value of each supported class."""
    by_patient = document.pictures.patients is not None
    return Table(
        "Supported classes",
        (
            "class",
            "verdict",
            "cells (patients)" if by_patient else "cells",
            "sensitivity",
            "named",
            "predictive value",
            "goal",
            "why",
            "outlook",
        ),
        tuple(
            (
                f"{each.code} {each.name}",
                each.verdict,
                f"{each.sensitivity.n} ({each.sensitivity.patients or 0})" if by_patient else str(each.sensitivity.n),
                rate_text(each.sensitivity),
                str(each.predictive_value.n),
                rate_text(each.predictive_value),
                f"{each.goal:g}",
                each.why,
                outlook(each),
            )
            for each in document.classes
            if each.supported
        ),
        "Sensitivity: share of the cells of this label that were predicted as it. Predicted: cells predicted as the "
        "class. Predictive value: share of these that have its label; it depends on the class mix of this folder, and "
        "differs in a specimen. Outlook: how many more labelled (or predicted) cells of the class it takes in the same "
        "mix, and the verdict that the rates found lead to. "
        f"{intervals_note(document)}",
    )


def unsupported(document: Verification) -> Table | None:
    """What happened to the cells of unsupported classes; None if there are none."""
    rows = [each for each in document.classes if not each.supported and each.sensitivity.n]
    if not rows:
        return None
    return Table(
        "Unsupported classes",
        ("class", "cells", "accepted", "most often taken for"),
        tuple(
            (f"{each.code} {each.name}", str(each.sensitivity.n), rate_text(each.accepted), _taken_for(each))
            for each in rows
        ),
        "The model has too few training cells of these classes and cannot name them. Accepted: share that the model "
        "does not send to a person.",
    )


def _taken_for(each: ClassResult) -> str:
    return ", ".join(f"{code} {count}" for code, count in list(each.mostly_taken_for.items())[:3])


def agreement(document: Verification) -> Iterable[Table]:
    """Agreement by class, the confusion matrix, the readers, and the laboratory's names."""
    yield Table(
        "Agreement by class",
        (
            "class",
            "kappa",
            "most often taken for",
            "accepted",
            "sensitivity of accepted",
            "predictive value of accepted",
        ),
        tuple(
            (
                each.code,
                estimate_text(each.kappa),
                _taken_for(each),
                rate_text(each.accepted),
                rate_text(each.sensitivity_of_accepted),
                rate_text(each.predictive_value_of_accepted),
            )
            for each in document.classes
            if each.supported
        ),
        "Kappa: of this class against all others, corrected for chance. Accepted: share of the cells of this label "
        "that the model does not send to a person; the last two columns are of accepted cells only.",
    )
    yield _confusion(document)
    if document.readers:
        yield Table(
            "Readers",
            ("first", "second", "cells", "agreement", "kappa"),
            tuple(
                (each.first, each.second, str(each.agreement.n), rate_text(each.agreement), estimate_text(each.kappa))
                for each in document.readers
            ),
            "Pairs of readings of the same cells, with those on which the readers disagree.",
        )
    if any(each.name != each.code for each in document.names):
        yield Table(
            "The laboratory's names",
            ("name", "class", "labels"),
            tuple((each.name, each.code, str(each.labels)) for each in document.names),
            "None: a class that the model does not have.",
        )


def _confusion(document: Verification) -> Table:
    """Rows and columns in the order of the classes, supported ones first; cells on the diagonal in brackets."""
    order = [each.code for each in document.classes]
    columns = [code for code in order if any(code in row for row in document.confusion.values())]
    rows = [*(code for code in order if code in document.confusion), *(set(document.confusion) - set(order))]

    def cell(label: str, code: str) -> str:
        count = document.confusion[label].get(code)
        return "" if count is None else f"[{count}]" if label == code else str(count)

    return Table(
        "Labels and predictions",
        ("label", *columns, "all"),
        tuple(
            (label, *(cell(label, code) for code in columns), str(sum(document.confusion[label].values())))
            for label in rows
        ),
        "Cells by label (rows) and predicted class (columns); right predictions in brackets. None: classes that the "
        "model does not have.",
    )


def decisions(document: Verification) -> Iterable[Table]:
    """Decisions by group of cells, and prediction sets by class; with own thresholds beside."""
    rows = [_decision_row(each) for each in document.decisions]
    note = (
        "Not applicable: the model does not claim these classes, so no prediction counts as right. "
        f"{intervals_note(document)}"
    )
    if document.site_trust is not None:
        own = document.site_trust.decisions.model_copy(update={"cells": "supported classes, refitted thresholds"})
        rows.append(_decision_row(own))
        note += " Refitted: thresholds fitted to these cells, five-fold cross-validation."
    yield Table(
        "Decisions", ("cells", "n", "accepted", "reviewed", "rejected", "accuracy of accepted"), tuple(rows), note
    )
    own_sets = {each.code: each for each in document.site_trust.sets} if document.site_trust else {}
    yield Table(
        "Prediction sets",
        ("class", "n", "coverage", "mean size", "coverage, refitted", "mean size, refitted"),
        tuple(
            (each.code or "all", str(each.covered.n), *_set_texts(each), *_set_texts(own_sets.get(each.code)))
            for each in document.sets
        ),
        "Coverage: share of the cells whose set contains their class; nominal coverage "
        f"{document.nominal_coverage:.0%} of each class, for cells like those of the thresholds.",
    )


def _decision_row(each: DecisionRates) -> tuple[str, ...]:
    decided = (rate_text(rate) for rate in (each.accepted, each.reviewed, each.rejected))
    accuracy = each.accuracy_of_accepted
    return each.cells, str(each.accepted.n), *decided, "not applicable" if accuracy is None else rate_text(accuracy)


def _set_texts(each: SetRates | None) -> tuple[str, str]:
    if each is None:
        return "", ""
    return rate_text(each.covered), "" if each.mean_size is None else f"{each.mean_size:.2f}"


def shifts(document: Verification) -> Iterable[Table]:
    """Signs of a domain shift, and drift."""
    yield Table(
        "Cells unlike the model's known cells",
        ("sign", "found", "expected", "shifted"),
        tuple(
            (each.what, rate_text(each.found), f"{each.expected:g}", "yes" if each.shifted else "no")
            for each in document.shifts
        ),
        "Among the cells of supported classes. Shifted: more than expected, at a level that allows for the number of "
        "signs (Bonferroni).",
    )
    if document.drift:
        yield Table(
            "Drift",
            ("kind", "distance", "threshold", "above"),
            tuple(
                (
                    each.kind.replace("_", " "),
                    f"{each.distance:.3f}",
                    f"{each.threshold:.3f}",
                    "yes" if each.distance > each.threshold else "no",
                )
                for each in document.drift
            ),
            "Distance of all pictures together from the model's drift reference (docs/drift.md). A folder with another "
            "mix of classes than a specimen's drifts in its class mix.",
        )


def subgroups(document: Verification) -> Table:
    """Accuracy and share accepted in thirds of the cells."""
    return Table(
        "Thirds of the cells",
        ("property", "cells", "n", "accuracy", "accepted"),
        tuple(
            (each.property, each.group, str(each.accuracy.n), rate_text(each.accuracy), rate_text(each.accepted))
            for each in document.subgroups
        ),
        f"Cells of supported classes. {intervals_note(document)}",
    )


def differential(document: Verification) -> Table:
    """Bland-Altman and Passing-Bablok by class."""
    return Table(
        "Model against laboratory",
        ("class", "bias, points", "limits of agreement", "slope", "intercept", "systematic difference"),
        tuple(
            (
                each.code,
                estimate_text(each.bias, "+.1f"),
                f"{each.limits[0]:+.1f} to {each.limits[1]:+.1f}",
                estimate_text(each.slope),
                estimate_text(each.intercept, ".1f"),
                "" if each.differs is None else "yes" if each.differs else "no",
            )
            for each in document.differential
        ),
        "Bias and limits: Bland-Altman, model minus laboratory, percentage points. Slope and intercept: "
        "Passing-Bablok; a systematic difference if their intervals exclude 1 or 0. Empty: fewer than ten patients, or "
        "no such cell in half of them.",
    )
