"""Figures of a verification: agreement by class, decisions, reliability, and the differential over patients."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes

from model.report.figure import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION, ReportFigure, new_figure, style
from service.verification.differential_bias import PatientShares
from service.verification.document import ClassResult, Rate, Verification

#: Panels of the comparison over patients, at most: the classes with the largest shares.
MOST_PANELS = 9


def figures(document: Verification, shares: PatientShares | None) -> list[ReportFigure]:
    """All figures that the document has data for."""
    found = [_classes(document), _decisions(document)]
    if document.calibration.bins:
        found.append(_reliability(document))
    if shares is not None:
        found.append(_differential(document, shares))
    return found


def _classes(document: Verification) -> ReportFigure:
    """Sensitivity and predictive value of each class with their intervals, and the goal."""
    results = [each for each in document.classes if each.supported]
    places = np.arange(len(results))[::-1]
    with style():
        figure = new_figure(7.2, 0.8 + 0.3 * len(results))
        axes = figure.add_subplot()
        _points(axes, places + 0.15, [each.sensitivity for each in results], BLUE, "o", "sensitivity")
        _points(axes, places - 0.15, [each.predictive_value for each in results], ORANGE, "s", "predictive value")
        for place, each in zip(places, results, strict=True):
            axes.plot([each.goal] * 2, [place - 0.4, place + 0.4], color=VERMILLION, linewidth=1.5)
        axes.plot([], [], color=VERMILLION, label="goal")
        axes.set_yticks(places, [_label(each) for each in results])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(results) - 0.4))
        axes.grid(axis="x")
        figure.legend(loc="outside lower center", ncols=3)
    return ReportFigure(
        "classes",
        figure,
        "Sensitivity and predictive value of each supported class with their 95 % intervals. A class is verified if "
        "both intervals begin at its goal (red line) or to the right of it.",
        "; ".join(f"{each.code}: sensitivity {_text(each.sensitivity)}, {each.verdict}" for each in results),
    )


def _label(each: ClassResult) -> str:
    return f"{each.code} (n {each.sensitivity.n})"


def _text(rate: Rate) -> str:
    return "unknown" if rate.share is None else f"{rate.share:.2f}"


def _points(axes: Axes, places: np.ndarray, rates: Sequence[Rate], color: str, marker: str, label: str) -> None:
    has_cells = [at for at, each in enumerate(rates) if each.share is not None]
    values = np.array([rates[at].share for at in has_cells], np.float64)
    ends = np.array([(rates[at].low, rates[at].high) for at in has_cells]).reshape(-1, 2)
    errors = np.abs(ends - values[:, None]).T
    axes.errorbar(
        values,
        places[has_cells],
        xerr=errors,
        fmt=marker,
        color=color,
        markersize=4,
        linewidth=1,
        capsize=2,
        label=label,
    )


def _decisions(document: Verification) -> ReportFigure:
    """Shares accepted, reviewed and rejected of each group of cells."""
    groups = list(document.decisions)
    if document.site_trust is not None:
        groups.append(document.site_trust.decisions.model_copy(update={"cells": "supported, refitted"}))
    places = np.arange(len(groups))[::-1]
    with style():
        figure = new_figure(7.2, 1.0 + 0.4 * len(groups))
        axes = figure.add_subplot()
        left = np.zeros(len(groups))
        for name, color in (("accepted", GREEN), ("reviewed", SKY), ("rejected", "#c9c9c9")):
            shares = np.array([100 * (getattr(each, name).share or 0) for each in groups])
            axes.barh(places, shares, left=left, height=0.6, color=color, label=name)
            for place, start, share in zip(places, left, shares, strict=True):
                if share >= 6:  # room for the number
                    axes.text(start + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=8)
            left += shares
        axes.set_yticks(places, [f"{each.cells} (n {each.accepted.n})" for each in groups])
        axes.set(xlim=(0, 100), xlabel="% of the cells")
        figure.legend(loc="outside lower center", ncols=3)
    return ReportFigure(
        "decisions",
        figure,
        "What the model decides about each group of cells. Reviewed and rejected cells wait for a person.",
        "; ".join(f"{each.cells}: {100 * (each.accepted.share or 0):.0f} % accepted" for each in groups),
    )


def _reliability(document: Verification) -> ReportFigure:
    """Accuracy against the top probability, in bins."""
    calibration = document.calibration
    probabilities = np.array([each.mean_probability for each in calibration.bins])
    accuracies = np.array([each.accuracy.share for each in calibration.bins], np.float64)
    ends = np.array([(each.accuracy.low, each.accuracy.high) for each in calibration.bins])
    with style():
        figure = new_figure(4.6, 3.8)
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        errors = np.abs(ends - accuracies[:, None]).T
        axes.errorbar(probabilities, accuracies, yerr=errors, fmt="o", color=BLUE, markersize=4, linewidth=1, capsize=2)
        for each, high in zip(calibration.bins, ends[:, 1], strict=True):
            axes.text(
                each.mean_probability, min(high + 0.02, 1.0), str(each.cells), ha="center", fontsize=6, color=GREY
            )
        axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="probability of the predicted class", ylabel="share right")
        axes.grid()
    return ReportFigure(
        "reliability",
        figure,
        "Reliability. On the diagonal, probability equals the share that is right. Small numbers: cells of a bin. "
        f"Expected calibration error {calibration.error:.3f}.",
        f"Reliability diagram; expected calibration error {calibration.error:.3f}.",
    )


def _differential(document: Verification, shares: PatientShares) -> ReportFigure:
    """Bland-Altman plots of the classes with the largest shares."""
    largest = np.sort(np.argsort(-shares.laboratory.mean(axis=0), kind="stable")[:MOST_PANELS])
    index = {each.code: at for at, each in enumerate(document.differential)}
    codes = list(_compared(document, largest))
    columns = min(3, len(codes))
    rows = -(-len(codes) // columns)
    with style():
        figure = new_figure(7.2, 0.6 + 1.9 * rows)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, (code, at) in zip(panels, codes, strict=False):
            _bland_altman(
                axes, shares.laboratory[:, at], shares.model[:, at], document.differential[index[code]].limits
            )
            axes.set_title(f"{code}: bias {document.differential[index[code]].bias.value:+.1f}")
        for axes in panels[len(codes) :]:
            axes.set_axis_off()
        figure.supxlabel("mean of laboratory and model, % of the cells", fontsize=8)
        figure.supylabel("model - laboratory, percentage points", fontsize=8)
    return ReportFigure(
        "differential",
        figure,
        "Bland-Altman: difference of the shares of each patient against their mean. Line: bias; dashed: 95 % limits of "
        "agreement.",
        "; ".join(f"{each.code}: bias {each.bias.value:+.1f} points" for each in document.differential),
    )


def _compared(document: Verification, order: np.ndarray) -> Iterable[tuple[str, int]]:
    """Code and column of the compared classes, in the given order of columns."""
    occurring = {each.code for each in document.differential}
    codes = list(document.criteria.goals)
    return ((codes[at], int(at)) for at in order if codes[at] in occurring)


def _bland_altman(axes: Axes, laboratory: np.ndarray, model: np.ndarray, limits: tuple[float, float]) -> None:
    axes.plot((laboratory + model) / 2, model - laboratory, "o", color=BLUE, markersize=3)
    axes.axhline((limits[0] + limits[1]) / 2, color=VERMILLION, linewidth=1)
    for limit in limits:
        axes.axhline(limit, color=GREY, linewidth=1, linestyle="--")
    axes.tick_params(labelsize=7)
    axes.grid()
