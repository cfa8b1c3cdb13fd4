"""ROC and precision-recall curves, a panel a class; and the accuracy of each patient."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.agreement.clustered import proportion
from model.contract import Metric
from model.report.figure import BLUE, GREY, VERMILLION, ReportFigure, add_heading, new_figure, style
from training.evaluation.ranking import Curves, curves
from training.evaluation.scores import Scores

COLUMNS = 5
SIDE = 1.75  # inches, of a panel
#: Patients that are drawn; of more, the lowest.
MAX_PATIENTS = 60
MAX_NAME = 24  # characters of a class name above a panel
Names = Mapping[str, str]  # code → name


def ranking_figures(
    scores: Scores, metrics: Sequence[Metric], names: Names, file: str, split: str
) -> list[ReportFigure]:
    """The ROC and the precision-recall figure; none if all pictures are of one class."""
    found = {(metric.name, metric.code): metric for metric in metrics}
    codes = [code for code in scores.codes if ("auroc", code) in found]
    if not codes:
        return []
    drawn = {code: _curves_of(scores, code) for code in codes}
    sizes = {code: int((scores.labels == scores.codes.index(code)).sum()) for code in codes}
    roc = _figure(drawn, [found["auroc", code] for code in codes], sizes, names, split, _draw_roc)
    precision = _figure(
        drawn, [found["average_precision", code] for code in codes], sizes, names, split, _draw_precision
    )
    lowest = min((found["auroc", code] for code in codes), key=lambda metric: metric.value)
    least = min((found["average_precision", code] for code in codes), key=lambda metric: metric.value)
    shown = f"{split}, n = {len(scores)}; each class against all others"
    return [
        ReportFigure(
            f"roc-{file}",
            roc,
            f"ROC curves, {shown}. Above each: area under the curve and its 95 % interval (Newcombe's method 5). "
            "Dashed: chance.",
            f"ROC curves of {len(codes)} classes. Lowest area: {lowest.code}, {lowest.value:.3f}, n = {lowest.n}.",
        ),
        ReportFigure(
            f"precision-recall-{file}",
            precision,
            f"Precision-recall curves, {shown}. Above each: average precision and its 95 % Wilson interval. "
            "Dashed: chance, the share of the class.",
            f"Precision-recall curves of {len(codes)} classes. Lowest average precision: {least.code}, "
            f"{least.value:.3f}, n = {least.n}.",
        ),
    ]


def _curves_of(scores: Scores, code: str) -> Curves:
    at = scores.codes.index(code)
    return curves(scores.probabilities[:, at], scores.labels == at)


def _figure(
    drawn: Mapping[str, Curves],
    areas: Sequence[Metric],
    sizes: Mapping[str, int],
    names: Names,
    split: str,
    draw: Callable[[Axes, Curves, float], None],
) -> Figure:
    rows = -(-len(drawn) // COLUMNS)
    n = areas[0].n if areas[0].name == "auroc" else sum(sizes.values())
    with style():
        figure = new_figure(SIDE * min(COLUMNS, max(len(drawn), 2)), (SIDE + 0.45) * rows + 0.4)
        add_heading(figure, f"{split}, n = {n}")
        panels = figure.subplots(rows, min(COLUMNS, max(len(drawn), 2)), squeeze=False, sharex=True, sharey=True)
        for axes in panels.flat[len(drawn) :]:
            axes.axis("off")
        for axes, (code, found), area in zip(panels.flat, drawn.items(), areas, strict=False):
            draw(axes, found, sizes[code] / n)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.set_title(_title(code, names, sizes[code], area), fontsize=6.5, pad=3)
            axes.tick_params(labelsize=6)
            axes.set_aspect("equal")
    return figure


def _title(code: str, names: Names, n: int, area: Metric) -> str:
    name = names.get(code, "")
    shown = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
    return f"{code}, n = {n}\n{shown}\n{area.value:.3f} ({area.low or 0:.3f}–{area.high or 0:.3f})"


def _draw_roc(axes: Axes, found: Curves, _: float) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle="--")
    axes.plot(found.false_positive_rate, found.sensitivity, color=BLUE, linewidth=1.2)
    axes.set_xlabel("false positives", fontsize=6)
    axes.set_ylabel("recall", fontsize=6)


def _draw_precision(axes: Axes, found: Curves, share: float) -> None:
    axes.plot([0, 1], [share, share], color=GREY, linewidth=0.7, linestyle="--")
    axes.plot(found.sensitivity, found.precision, color=VERMILLION, linewidth=1.2, drawstyle="steps-pre")
    axes.set_xlabel("recall", fontsize=6)
    axes.set_ylabel("precision", fontsize=6)


def patients_figure(scores: Scores, name: str, split: str) -> ReportFigure | None:
    """Accuracy of each patient, the lowest first; None if patients are unknown."""
    numbers = scores.patient_numbers()
    if numbers is None:
        return None
    correct = scores.predicted == scores.labels
    found = [(str(scores.patients[numbers == at][0]), proportion(correct[numbers == at])) for at in np.unique(numbers)]
    found.sort(key=lambda patient: (patient[1].share or 0.0, patient[0]))
    shares = np.array([of.hits / of.n for _, of in found])
    shown = found[:MAX_PATIENTS]
    with style():
        figure = new_figure(6.2, 1.2 + 0.2 * len(shown))
        add_heading(figure, f"{split}, n = {len(scores)} of {len(found)} patients")
        axes = figure.add_subplot()
        values, places = [of.hits / of.n for _, of in shown], np.arange(len(shown))
        errors = [
            [max(value - of.low, 0) for value, (_, of) in zip(values, shown, strict=True)],
            [max(of.high - value, 0) for value, (_, of) in zip(values, shown, strict=True)],
        ]
        axes.errorbar(values, places, xerr=errors, fmt="o", color=BLUE, markersize=4, linewidth=1, capsize=2)
        axes.axvline(float(correct.mean()), color=GREY, linewidth=0.8, linestyle="--")
        axes.set_yticks(places, [f"{patient} ({of.n})" for patient, of in shown], fontsize=7)
        axes.set(xlim=(-0.02, 1.03), ylim=(len(shown) - 0.5, -0.5), xlabel="accuracy")
        axes.grid(axis="x")
    more = f" The lowest {MAX_PATIENTS} of {len(found)} are drawn." if len(found) > MAX_PATIENTS else ""
    return ReportFigure(
        name,
        figure,
        f"Accuracy by patient, {split}; in brackets the pictures of the patient. Bars: 95 % Wilson interval of the "
        f"patient's pictures. Dashed: of all pictures.{more}",
        f"Dot plot of {len(shown)} patients. Median accuracy {np.median(shares):.3f}, lowest {shares.min():.3f} "
        f"({found[0][0]}, n = {found[0][1].n}), highest {shares.max():.3f}.",
    )
