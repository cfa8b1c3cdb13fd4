"""Figures of the top probability: the reliability diagram and the risk-coverage curve."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from model.agreement.calibration import ECE_BINS, Reliability, bins_of, reliability
from model.agreement.class_averages import Floats, Labels
from model.agreement.clustered import proportion
from model.agreement.proportion import Interval
from model.report.figure import BLUE, GREY, VERMILLION, ReportFigure, add_heading, new_figure, style
from training.evaluation.calibration import log_probabilities
from training.evaluation.scores import Scores
from training.evaluation.selective import COVERAGES, RISK_LIMIT, RiskCoverage, risk_coverage

#: Points that a curve is drawn through, at most.
CURVE_POINTS = 400


def reliability_figure(scores: Scores, name: str, split: str) -> ReportFigure:
    """Reliability diagrams before and after temperature scaling, with a histogram of the top probability below each."""
    correct = scores.predicted == scores.labels
    top_before, top_after = np.exp(log_probabilities(scores.logits, 1.0)).max(axis=1), scores.probabilities.max(axis=1)
    before, after = reliability(top_before, correct), reliability(top_after, correct)
    patients = scores.patient_numbers()
    with style():
        figure = new_figure(7.2, 4.6)
        add_heading(figure, f"{split}, n = {len(scores)}")
        panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
        of_bins = (("before temperature", before, top_before), ("after temperature", after, top_after))
        for column, (title, bins, top) in enumerate(of_bins):
            _diagram(panels[0, column], bins, _bin_intervals(top, correct, patients), title)
            _histogram(panels[1, column], bins)
        panels[1, 0].set_ylim(0, 1.25 * max(before.n.max(), after.n.max()))  # shared by both histograms
        panels[0, 0].set_ylabel("accuracy")
        panels[1, 0].set_ylabel("pictures")
    fullest = int(np.argmax(after.n))
    return ReportFigure(
        name,
        figure,
        f"Reliability, {split}, n = {len(scores)}, in {ECE_BINS} bins of the top probability. Bars: 95 % Wilson "
        "interval of each bin. On the diagonal, probability equals accuracy; below it the model is overconfident. "
        "Below: pictures in each bin.",
        f"Two reliability diagrams. ECE {before.ece:.3f} before temperature scaling and {after.ece:.3f} after it. The "
        f"fullest bin after it contains {after.n[fullest]} pictures with a mean probability of "
        f"{after.confidence[fullest]:.2f}, {after.hits[fullest]} of them correct.",
    )


def _diagram(axes: Axes, bins: Reliability, intervals: Floats, title: str) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    filled = np.flatnonzero(bins.n)
    accuracy = bins.hits[filled] / bins.n[filled]
    errors = np.abs(intervals - accuracy[:, None]).T
    axes.errorbar(
        bins.confidence[filled], accuracy, yerr=errors, fmt="o", color=BLUE, markersize=4, linewidth=1, capsize=2
    )
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), title=f"{title}: ECE {bins.ece:.3f}")
    axes.grid()


def _bin_intervals(top: Floats, correct: NDArray[np.bool_], patients: Labels | None) -> Floats:
    """The interval of the accuracy in each bin with pictures, (bins, 2)."""
    bins = bins_of(top)
    return np.array([_interval(correct, bins == at, patients) for at in np.unique(bins)])


def _interval(hits: NDArray[np.bool_], among: NDArray[np.bool_], patients: Labels | None) -> Interval:
    found = proportion(hits[among], None if patients is None else patients[among])
    return found.low, found.high


def _histogram(axes: Axes, bins: Reliability) -> None:
    edges = np.linspace(0, 1, ECE_BINS + 1)
    axes.bar(edges[:-1], bins.n, width=1 / ECE_BINS, align="edge", color=BLUE, edgecolor="white")
    for edge, n in zip(edges, bins.n, strict=False):
        if n:
            axes.text(edge + 0.5 / ECE_BINS, n, str(n), ha="center", va="bottom", fontsize=6)
    axes.set_xlabel("top probability")


def coverage_figure(scores: Scores, name: str, split: str) -> ReportFigure:
    """The risk-coverage curve with its interval, points at 95, 90 and 80 % coverage, and the optimal curve."""
    top, correct = scores.probabilities.max(axis=1), scores.predicted == scores.labels
    curve = risk_coverage(top, correct)
    points = [curve.at_coverage(share) for share in COVERAGES]
    with style():
        figure = new_figure(6.4, 4.6)
        add_heading(figure, f"{split}, n = {curve.n}")
        axes = figure.add_subplot()
        highest = _curve(axes, curve, top, correct, scores.patient_numbers())
        axes.plot(*_optimal(curve), color=GREY, linestyle=":", label="best possible order")
        axes.axhline(
            100 * RISK_LIMIT, color=VERMILLION, linestyle="--", linewidth=1, label=f"{100 * RISK_LIMIT:.0f} % errors"
        )
        # Coverages and thresholds are in the legend: labels beside the points would overlap.
        shares = ", ".join(f"{100 * share:.0f}" for share in COVERAGES)
        thresholds = ", ".join(f"{curve.thresholds[at]:.2f}" for at in points)
        label = f"{shares} % answered: p ≥ {thresholds}"
        axes.plot(curve.coverage[points], 100 * curve.risk[points], "o", color=BLUE, markersize=4, label=label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        top = min(max(110 * float(curve.risk[-1]), 110 * highest, 110 * RISK_LIMIT), 103.0)
        axes.set(xlim=(0, 1), ylim=(-0.02 * top, top))  # a line at 0 stays visible
        axes.set(xlabel="coverage: share answered", ylabel="risk: % errors among the answered")
        axes.grid()
        figure.legend(loc="outside lower center", ncols=2)  # inside it would cover the curve of a weak model
    risks = ", ".join(
        f"{100 * curve.risk[at]:.1f} % at {100 * curve.coverage[at]:.0f} % coverage" for at in (*points, -1)
    )
    return ReportFigure(
        name,
        figure,
        f"Risk against coverage, {split}, n = {curve.n}. Dots: 95, 90 and 80 % answered, with the threshold of the top "
        f"probability. Area under the curve {curve.area():.4f}. Band: 95 % Wilson interval at each point.",
        f"Line chart of the share of errors among the answered, by coverage: {risks}; n = {curve.n}.",
    )


def _curve(axes: Axes, curve: RiskCoverage, top: Floats, correct: NDArray[np.bool_], patients: Labels | None) -> float:
    """Draw the curve and its interval; returns the upper bound of the interval's risk from 30 % coverage on."""
    at = np.unique(np.linspace(0, len(curve.answered) - 1, CURVE_POINTS).round().astype(int))
    coverage = curve.coverage[at]
    intervals = np.array([_interval(~correct, top >= curve.thresholds[point], patients) for point in at])
    axes.fill_between(coverage, *(100 * intervals.T), color=BLUE, alpha=0.15, linewidth=0, label="95 % interval")
    axes.plot(coverage, 100 * curve.risk[at], color=BLUE, label="by top probability")
    return float(intervals[coverage >= 0.3].max(initial=0.0))


def _optimal(curve: RiskCoverage) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk in % if every correct answer had a higher probability than every wrong one."""
    correct = curve.n - int(curve.wrong[-1])
    answered = np.unique(np.linspace(1, curve.n, CURVE_POINTS).round())
    return answered / curve.n, 100 * np.maximum(answered - correct, 0) / answered
