"""The report of a verification: its sections in words, tables and figures, for HTML and PDF."""

from collections.abc import Iterable, Sequence

from model.report.figure import ReportFigure, render_figure
from model.report.page import EmbeddedImage, Page, Section, Table
from service.verification.document import ClassResult, DecisionRates, Estimate, Rate, SetRates, Verification

INTERVALS = "In brackets: 95 % interval"
#: From this many patients on, intervals by patient are reliable.
FEW_PATIENTS = 10


def page(
    document: Verification, figures: Sequence[ReportFigure], cells: Sequence[EmbeddedImage], document_sha256: str
) -> Page:
    """The report.

    Args:
        cells: pictures to look at again.
        document_sha256: of the JSON document, which the report names.
    """
    images = {each.name: _image(each) for each in figures}
    sections = [
        Section("Verdict", _verdict_text(document), [_verdicts(document)], [images["classes"]]),
        Section("Agreement", _agreement_text(document), list(_agreement_tables(document))),
        Section("Decisions and prediction sets", [], list(_decision_tables(document)), [images["decisions"]]),
        Section("Probabilities", _calibration_text(document), images=_present(images, "reliability")),
        Section("Domain shift", _shift_text(document), list(_shift_tables(document))),
        Section("Slides of different colour and focus", [], [_subgroups(document)] if document.subgroups else []),
        Section(
            "Differential count over patients",
            _differential_text(document),
            [_differential(document)] if document.differential else [],
            _present(images, "differential"),
        ),
        Section("Cells to look at again", [_CELLS if cells else "Every answer is right."], images=cells),
        Section("Signature", _SIGNATURE, [_SIGNATURES]),
    ]
    return Page(
        title=f"Verification of {document.model.name} {document.model.version}",
        notice=document.notice,
        facts=_facts(document, document_sha256),
        sections=sections,
        footer="Made by marrowlens verify. docs/verify.md explains every figure.",
    )


_CELLS = (
    "The most confident wrong answers, and accepted cells of classes that the model does not have. The number is the "
    "row in cells.csv."
)
_SIGNATURE = (
    "A verdict counts for this model, these thresholds, this stain and this scanner. A change of one of them calls for "
    "another verification. The laboratory's director decides whether the criteria suit the intended use.",
)
_UNSUPPORTED = "not verified, because the model has too few training cells"
_LINE = "_" * 24
_SIGNATURES = Table(
    "Approval",
    ("role", "name", "date", "signature"),
    (("verified by", _LINE, _LINE, _LINE), ("approved by", _LINE, _LINE, _LINE)),
    "",
)


def _image(figure: ReportFigure) -> EmbeddedImage:
    return EmbeddedImage(render_figure(figure, "png"), "image/png", figure.caption, figure.alt)


def _present(images: dict[str, EmbeddedImage], name: str) -> list[EmbeddedImage]:
    return [images[name]] if name in images else []


def _facts(document: Verification, document_sha256: str) -> list[tuple[str, str]]:
    model, pictures = document.model, document.pictures
    patients = "not given" if pictures.patients is None else str(pictures.patients)
    left_out = f"{pictures.copies} copies, {pictures.unreadable} unreadable, {pictures.ties} without a majority"
    return [
        ("Made", f"{document.created:%Y-%m-%d %H:%M %Z}"),
        ("Model", f"{model.name} {model.version}, on {model.provider}"),
        ("SHA-256 of the model", model.sha256),
        ("SHA-256 of the manifest", model.manifest_sha256),
        ("Pictures", f"{pictures.used}: {_kinds(document)}"),
        ("Left out", left_out),
        ("Patients", patients),
        ("SHA-256 of the pictures", pictures.sha256),
        ("SHA-256 of verification.json", document_sha256),
    ]


def _kinds(document: Verification) -> str:
    pictures = document.pictures
    supported = pictures.used - pictures.of_unsupported_classes - pictures.of_other_classes
    kinds = f"{supported} of supported classes, {pictures.of_unsupported_classes} of unsupported ones"
    return f"{kinds}, {pictures.of_other_classes} of classes that the model does not have"


def _verdict_text(document: Verification) -> list[str]:
    named: dict[str, list[str]] = {"verified": [], "not verified": [], "too few": [], _UNSUPPORTED: []}
    for each in document.classes:
        named[each.verdict if each.supported else _UNSUPPORTED].append(each.code)
    said = "; ".join(f"{verdict}: {', '.join(codes)}" for verdict, codes in named.items() if codes)
    return [
        f"{said[:1].upper()}{said[1:]}.",
        "Verified: the intervals of sensitivity and predictive value begin at the goal or above. Not verified: one of "
        "them ends below the goal, or is precise (half width at most "
        f"{document.criteria.precision:g}) with a share that is not above it. Too few: neither; the table says how "
        "many labelled cells are missing at the rates found. Adding cells until a class is verified makes a wrong "
        "verdict more likely: fix the number of cells before you look.",
    ]


def _verdicts(document: Verification) -> Table:
    return Table(
        "Classes",
        ("class", "verdict", "cells", "sensitivity", "predicted", "predictive value", "goal", "cells missing", "why"),
        tuple(
            (
                f"{each.code} {each.name}",
                each.verdict,
                str(each.sensitivity.n),
                rate_text(each.sensitivity),
                str(each.predictive_value.n),
                rate_text(each.predictive_value),
                f"{each.goal:g}",
                str(each.missing_cells or ""),
                each.why,
            )
            for each in document.classes
            if each.supported
        ),
        f"Sensitivity: share of the cells of this label that were predicted as it. Predictive value: share of the "
        f"cells predicted as the class that have its label; it depends on how many cells of each class are in this "
        f"folder, and is another one in a patient's specimen. {_intervals(document)}",
    )


def _intervals(document: Verification) -> str:
    patients = document.pictures.patients
    if patients is None:
        return f"{INTERVALS} (Wilson), as if every cell were of another patient, because patients are not given."
    few = f" With fewer than {FEW_PATIENTS} patients they are rough." if patients < FEW_PATIENTS else ""
    return f"{INTERVALS} that allows for cells of one patient being alike.{few}"


def _agreement_text(document: Verification) -> list[str]:
    return [
        f"Of {document.accuracy.n} cells of supported classes, {rate_text(document.accuracy)} were predicted as "
        f"their label; Cohen's kappa {estimate_text(document.kappa)}."
    ]


def _agreement_tables(document: Verification) -> Iterable[Table]:
    yield Table(
        "Agreement by class",
        ("class", "kappa", "accepted", "sensitivity of accepted"),
        tuple(_agreement_row(each) for each in document.classes if each.supported),
        "Kappa: of this class against all others, corrected for chance. Accepted: share of the cells of this label "
        "that the model does not send to a person.",
    )
    named = list(dict.fromkeys(code for row in document.confusion.values() for code in row))
    yield Table(
        "Labels and predictions",
        ("label", *named),
        tuple((label, *(str(row.get(code, "")) for code in named)) for label, row in document.confusion.items()),
        "Cells by label (rows) and predicted class (columns). None: classes that the model does not have.",
    )
    if document.readers:
        yield Table(
            "Readers",
            ("first", "second", "cells", "agreement", "kappa"),
            tuple(
                (each.first, each.second, str(each.agreement.n), rate_text(each.agreement), estimate_text(each.kappa))
                for each in document.readers
            ),
            "Pairs of readings of the same cells. The model cannot agree with readers better than they agree with each "
            "other.",
        )


def _agreement_row(each: ClassResult) -> tuple[str, ...]:
    accepted = each.accepted, each.sensitivity_of_accepted
    return each.code, estimate_text(each.kappa), *(rate_text(rate) for rate in accepted)


def _decision_tables(document: Verification) -> Iterable[Table]:
    header = "cells", "n", "accepted", "reviewed", "rejected", "accuracy of accepted"
    rows = [_decision_row(each) for each in document.decisions]
    note = _intervals(document)
    if document.site_trust is not None:
        own = document.site_trust.decisions.model_copy(update={"cells": "supported classes, own thresholds"})
        rows.append(_decision_row(own))
        note += (
            " Own thresholds: each fifth of the cells (or of the patients) with thresholds fitted to the other four."
        )
    yield Table("Decisions", header, tuple(rows), note)
    own_sets = {each.code: each for each in document.site_trust.sets} if document.site_trust else {}
    promised = f"{document.set_coverage_promised:.0%}"
    yield Table(
        "Prediction sets",
        ("class", "n", "covered", "mean size", "covered, own thresholds", "mean size, own thresholds"),
        tuple(
            (each.code or "all", str(each.covered.n), *_set_texts(each), *_set_texts(own_sets.get(each.code)))
            for each in document.sets
        ),
        f"Covered: share of the cells whose set contains their class; promised: {promised} of each class, for cells "
        "like those of the thresholds.",
    )


def _decision_row(each: DecisionRates) -> tuple[str, ...]:
    decided = (rate_text(rate) for rate in (each.accepted, each.reviewed, each.rejected))
    accuracy = each.accuracy_of_accepted
    return each.cells, str(each.accepted.n), *decided, "" if accuracy is None else rate_text(accuracy)


def _set_texts(each: SetRates | None) -> tuple[str, str]:
    if each is None:
        return "", ""
    return rate_text(each.covered), "" if each.mean_size is None else f"{each.mean_size:.2f}"


def _calibration_text(document: Verification) -> list[str]:
    found = document.calibration
    if not found.bins:
        return ["No cell of a supported class."]
    is_worse = found.error > found.by_chance_high
    judged = "more than chance explains: do not read a probability as a share" if is_worse else "no more than by chance"
    return [
        f"Expected calibration error {found.error:.3f}; a perfectly calibrated model has up to "
        f"{found.by_chance_high:.3f} with as many cells: {judged}."
    ]


def _shift_text(document: Verification) -> list[str]:
    shifted = [each.what for each in document.shifts if each.shifted]
    drifted = [each.kind.replace("_", " ") for each in document.drift if each.distance > each.threshold]
    if not shifted and not drifted:
        return ["No sign that these cells look unlike those that the model was made with."]
    return [
        "These cells look unlike those that the model was made with: "
        f"{'; '.join([*shifted, *(f'drift of {kind}' for kind in drifted)])}. More cells are rejected or reviewed than "
        "promised, and the figures of the model card do not hold here. Own thresholds (--write-trust) mend the shares, "
        "not the accuracy."
    ]


def _shift_tables(document: Verification) -> Iterable[Table]:
    yield Table(
        "Cells unlike the model's known cells",
        ("sign", "found", "expected", "shifted"),
        tuple(
            (each.what, rate_text(each.found), f"{each.expected:g}", "yes" if each.shifted else "no")
            for each in document.shifts
        ),
        "Among the cells of supported classes. Shifted: the interval begins above the expected share.",
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
            "Distance of all pictures from the model's drift reference (docs/drift.md). A folder with another mix of "
            "classes than a specimen's drifts in its class mix.",
        )


def _subgroups(document: Verification) -> Table:
    return Table(
        "Thirds of the cells",
        ("property", "cells", "n", "accuracy", "accepted"),
        tuple(
            (each.property, each.group, str(each.accuracy.n), rate_text(each.accuracy), rate_text(each.accepted))
            for each in document.subgroups
        ),
        f"Cells of supported classes. {_intervals(document)}",
    )


def _differential_text(document: Verification) -> list[str]:
    if document.differential:
        return [
            f"Shares of {document.differential[0].patients} patients with enough counted cells, by the model's "
            "predictions and by the laboratory's labels. CLSI EP09 recommends at least 40 patients."
        ]
    return ["Not compared: at least 5 patients with 20 counted cells each are needed."]


def _differential(document: Verification) -> Table:
    return Table(
        "Model against laboratory",
        ("class", "bias, points", "limits of agreement", "slope", "intercept"),
        tuple(
            (
                each.code,
                estimate_text(each.bias, "+.1f"),
                f"{each.limits[0]:+.1f} to {each.limits[1]:+.1f}",
                estimate_text(each.slope),
                estimate_text(each.intercept, ".1f"),
            )
            for each in document.differential
        ),
        "Bias and limits: Bland-Altman, model minus laboratory, percentage points. Slope and intercept: "
        "Passing-Bablok; no systematic difference if the intervals contain 1 and 0. Empty: too few patients or too "
        "little variation.",
    )


def rate_text(rate: Rate) -> str:
    """A share and its interval."""
    return "none" if rate.share is None else f"{rate.share:.3f} ({rate.low:.3f}–{rate.high:.3f})"


def estimate_text(estimate: Estimate | None, form: str = ".3f") -> str:
    """A value and its interval; empty if there is none."""
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"
