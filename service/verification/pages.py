"""The report of a verification: its sections in words, tables and figures, for HTML and PDF."""

from collections.abc import Sequence

from model.report.figure import ReportFigure, render_figure
from model.report.page import EmbeddedImage, Page, Section, Table
from service.verification import tables
from service.verification.document import Shift, Verification

#: What a report should say of the laboratory; lines without an answer are left to be filled in by hand.
DETAILS = ("laboratory", "stain", "scanner and objective", "period", "readers and their qualification")
_LINE = "_" * 24
#: Fewest cells of each class that thresholds of one's own should be fitted to.
ENOUGH_FOR_THRESHOLDS = 50


def page(
    document: Verification, figures: Sequence[ReportFigure], cells: Sequence[EmbeddedImage], document_sha256: str
) -> Page:
    """The report.

    Args:
        cells: pictures to look at again.
        document_sha256: of the JSON document, which the report names.
    """
    images = {each.name: _image(each) for each in figures}
    unsupported = tables.unsupported(document)
    sections = [
        Section("Verdict", _verdict_text(document), [tables.verdicts(document)], [images["classes"]]),
        Section("Unsupported classes", [], [unsupported] if unsupported else []),
        Section("Agreement", _agreement_text(document), list(tables.agreement(document))),
        Section(
            "Decisions and prediction sets",
            _decision_text(document),
            list(tables.decisions(document)),
            [images["decisions"]],
        ),
        Section("Probabilities", _calibration_text(document), images=_present(images, "reliability")),
        Section("Domain shift", _shift_text(document), list(tables.shifts(document))),
        Section("Subgroups by colour and focus", [], [tables.subgroups(document)] if document.subgroups else []),
        Section(
            "Differential count over patients",
            _differential_text(document),
            [tables.differential(document)] if document.differential else [],
            _present(images, "differential"),
        ),
        Section("Cells to look at again", [_CELLS if cells else "None."], images=cells),
        Section("Signature", _SIGNATURE, [_SIGNATURES]),
    ]
    return Page(
        title=f"Verification of {document.model.name} {document.model.version}",
        notice=document.notice,
        facts=_facts(document, document_sha256),
        sections=[each for each in sections if each.paragraphs or each.tables or each.images],
        footer="Made by marrowlens verify. docs/verify.md explains every figure.",
    )


_CELLS = (
    "The most confident wrong answers for supported classes: errors of the model, or of the label. Then accepted cells "
    "of classes that the model does not support or does not have. The number is the row in cells.csv."
)
_SIGNATURE = (
    "A verdict counts for this model, these thresholds, this stain and this scanner. A change of one of them calls for "
    "another verification. The laboratory's director decides whether the criteria suit the intended use.",
)
_UNSUPPORTED = "not verified, because the model has too few training cells"
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
    said = dict.fromkeys(DETAILS, _LINE) | document.details
    written = document.site_trust.sha256 if document.site_trust else None
    left_out = f"{pictures.copies} copies, {pictures.unreadable} unreadable"
    return [
        *((name[:1].upper() + name[1:], text) for name, text in said.items()),
        ("Made", f"{document.created:%Y-%m-%d %H:%M %Z}, by marrowlens {document.service_version}"),
        ("Model", f"{model.name} {model.version}, on {model.provider} in {model.computed_in}"),
        ("SHA-256 of the model", model.sha256),
        ("SHA-256 of the manifest", model.manifest_sha256),
        ("Thresholds", _thresholds(document)),
        ("Pictures", f"{pictures.used}: {_kinds(document)}"),
        ("Left out", left_out),
        ("Patients", patients),
        ("SHA-256 of the pictures", pictures.sha256),
        ("SHA-256 of verification.json", document_sha256),
        *([("SHA-256 of the thresholds written", written)] if written else []),
    ]


def _thresholds(document: Verification) -> str:
    found = document.thresholds
    if found.site_trust_sha256 is None:
        return f"of the model: {found.source}, {found.cells} cells"
    return f"of the laboratory: {found.source}; SHA-256 of the file {found.site_trust_sha256}"


def _kinds(document: Verification) -> str:
    found = document.pictures
    counts = {
        "of unsupported classes": found.of_unsupported_classes,
        "of classes that the model does not have": found.of_other_classes,
        "without a label (no majority of readers)": found.undecided,
    }
    kinds = [f"{found.used - sum(counts.values())} of supported classes"]
    return ", ".join(kinds + [f"{count} {what}" for what, count in counts.items() if count])


def _verdict_text(document: Verification) -> list[str]:
    named: dict[str, list[str]] = {"verified": [], "not verified": [], "too few": [], _UNSUPPORTED: []}
    for each in document.classes:
        named[each.verdict if each.supported else _UNSUPPORTED].append(each.code)
    said = "; ".join(f"{verdict}: {', '.join(codes)}" for verdict, codes in named.items() if codes)
    default = document.criteria.default_goal
    set_by = "" if default is None else f" The goal of {default:g} is the default, and was not set by the laboratory."
    return [
        f"{said[:1].upper()}{said[1:]}.",
        *_warnings(document),
        "Verified: the intervals of sensitivity and predictive value begin at the goal or above. Not verified: one of "
        f"them ends below the goal, or is precise (half width at most {document.criteria.precision:g}) with a share "
        "that is not above it. Too few: neither. Adding cells until a class is verified makes a wrong verdict more "
        f"likely: fix the number of cells before you look.{set_by}",
    ]


def _warnings(document: Verification) -> list[str]:
    """What makes the figures too good."""
    pictures, thresholds = document.pictures, document.thresholds
    found = []
    if pictures.undecided:
        share = pictures.undecided / pictures.used
        found.append(
            f"Warning: {pictures.undecided} cells ({share:.0%}) are in no figure but that of the readers, because no "
            "class has the majority of their readers. These are the difficult ones: without them the figures are too "
            "good. Let another person decide; cells.csv lists them as undecided."
        )
    if thresholds.fitted_to:
        found.append(
            f"Warning: the thresholds in force were fitted to {thresholds.fitted_to} of these pictures. Decisions and "
            "prediction sets look better than they are; verify them with other cells."
        )
    return found


def _agreement_text(document: Verification) -> list[str]:
    if not document.accuracy.n:
        return ["No cell of a supported class."]
    return [
        f"Of {document.accuracy.n} cells of supported classes, {tables.rate_text(document.accuracy)} were predicted as "
        f"their label; Cohen's kappa {tables.estimate_text(document.kappa)}."
    ]


def _decision_text(document: Verification) -> list[str]:
    by_group = {each.cells: each.accepted.hits for each in document.decisions}
    accepted = by_group.get("all labelled cells", 0)
    right = next(each.accuracy_of_accepted for each in document.decisions if each.cells == "all labelled cells")
    others = sum(by_group.get(name, 0) for name in ("unsupported classes", "other classes"))
    wrong = accepted if right is None else right.n - right.hits
    return [
        f"Of {accepted} accepted cells {wrong} were wrong, {others} of them of classes that the model does not support "
        "or does not have. The share depends on the class mix."
    ]


def _calibration_text(document: Verification) -> list[str]:
    found = document.calibration
    if not found.bins:
        return ["No cell of a supported class."]
    is_worse = found.error > found.by_chance_high
    judged = "miscalibrated: do not read a probability as a share" if is_worse else "no miscalibration shown"
    return [
        f"Expected calibration error {found.error:.3f}; a perfectly calibrated model has up to "
        f"{found.by_chance_high:.3f} with as many cells: {judged}."
    ]


def _shift_text(document: Verification) -> list[str]:
    shifted = [_shift(each) for each in document.shifts if each.shifted]
    drifted = [f"drift of {each.kind.replace('_', ' ')}" for each in document.drift if each.distance > each.threshold]
    if not document.accuracy.n:
        return ["No cell of a supported class."]
    signs = "; ".join([*shifted, *drifted])
    found = (
        f"Cells unlike the model's known cells: {signs}. Where a share is far above the expected one, figures of the "
        "model card do not hold for these cells."
        if signs
        else "No sign that these cells look unlike the model's known cells."
    )
    return [found, *_own_thresholds(document)]


def _shift(each: Shift) -> str:
    return f"{each.what}: {100 * (each.found.share or 0):.1f} % of the cells, {100 * each.expected:g} % expected"


def _own_thresholds(document: Verification) -> list[str]:
    """What thresholds of one's own would change."""
    now = next((each for each in document.decisions if each.cells == "supported classes"), None)
    if document.site_trust is None or now is None:
        return []
    kept = document.site_trust.kept
    also = f" Kept from the model, for too few cells: {', '.join(kept)}." if kept else ""
    own = document.site_trust.decisions
    fewest = min((each.covered.n for each in document.sets[1:]), default=0)
    few = (
        f" The smallest class has {fewest} cells; with fewer than {ENOUGH_FOR_THRESHOLDS}, sets are larger than needed."
    )
    return [
        f"Thresholds fitted to these cells would accept {own.accepted.share or 0:.0%} instead of "
        f"{now.accepted.share or 0:.0%}, and reject {own.rejected.share or 0:.0%} instead of "
        f"{now.rejected.share or 0:.0%}.{few if fewest < ENOUGH_FOR_THRESHOLDS else ''}{also}"
    ]


def _differential_text(document: Verification) -> list[str]:
    if document.differential:
        return [
            f"Shares of {document.differential[0].patients} patients with at least 20 counted cells, by the model's "
            "predictions and by the laboratory's labels. CLSI EP09 recommends at least 40 patients."
        ]
    if document.pictures.patients is None:
        return ["Not compared: patients are not given."]
    return ["Not compared: fewer than five patients have at least 20 counted cells by both methods."]
