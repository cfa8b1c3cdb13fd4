"""The risk-coverage curve: how many errors remain when only the surest answers are given.

Knows the curve. Knows no network and no classes.
"""

import numpy as np
from matplotlib.axes import Axes

from training.evaluation.metrics import wilson
from training.evaluation.scores import Scores
from training.evaluation.selective import COVERAGES, RISK_LIMIT, RiskCoverage, risk_coverage
from training.report.figures.plate import BLUE, GREY, VERMILLION, Plate, headed, sheet, styled

#: The curve of a large test block is drawn through so many of its points.
POINTS = 400


def coverage_plate(scores: Scores, name: str, split: str) -> Plate:
    """Risk against coverage with its pointwise interval, the marked coverages and the best order there could be."""
    curve = risk_coverage(scores.probabilities.max(axis=1), scores.predicted == scores.labels)
    marks = [curve.at_coverage(share) for share in COVERAGES]
    with styled():
        figure = sheet(6.4, 4.6)
        headed(figure, f"{split}, n = {curve.n}")
        axes = figure.add_subplot()
        ends = _drawn_curve(axes, curve)
        axes.plot(*_best(curve), color=GREY, linestyle=":", label="best possible order")
        axes.axhline(
            100 * RISK_LIMIT, color=VERMILLION, linestyle="--", linewidth=1, label=f"{100 * RISK_LIMIT:.0f} % errors"
        )
        shares, thresholds = (", ".join(texts) for texts in zip(*_marked(curve, marks), strict=True))
        label = f"{shares} % answered: p ≥ {thresholds}"
        axes.plot(curve.coverage[marks], 100 * curve.risk[marks], "o", color=BLUE, markersize=4, label=label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        highest = min(max(110 * float(curve.risk[-1]), 110 * ends, 110 * RISK_LIMIT), 103.0)
        axes.set(xlim=(0, 1), ylim=(-0.02 * highest, highest))  # a risk of 0 is a line, not the edge
        axes.set(xlabel="coverage: share that is answered", ylabel="risk: % errors among the answered")
        axes.grid()
        figure.legend(loc="outside lower center", ncols=2)  # within the axes it would lie on the curve of a weak model
    return Plate(
        name,
        figure,
        f"Risk against coverage, {split}, n = {curve.n}. Dots: 95, 90 and 80 % answered, with the threshold of the top "
        f"probability. Area under the curve {curve.area():.4f}. Band: 95 % Wilson interval at each point.",
        _words(curve, marks),
    )


def _marked(curve: RiskCoverage, marks: list[int]) -> list[tuple[str, str]]:
    """Coverage asked for and threshold of each mark; in the legend, as beside the marks they would overlap."""
    return [(f"{100 * share:.0f}", f"{curve.thresholds[at]:.2f}") for share, at in zip(COVERAGES, marks, strict=True)]


def _drawn_curve(axes: Axes, curve: RiskCoverage) -> float:
    """Draw the curve and its band; returns the band's highest risk from 30 % coverage on."""
    at = np.unique(np.linspace(0, len(curve.answered) - 1, POINTS).round().astype(int))
    coverage = curve.coverage[at]
    pairs = zip(curve.wrong[at], curve.answered[at], strict=True)
    ends = np.array([wilson(int(wrong), int(answered)) for wrong, answered in pairs])
    axes.fill_between(coverage, *(100 * ends.T), color=BLUE, alpha=0.15, linewidth=0, label="95 % interval")
    axes.plot(coverage, 100 * curve.risk[at], color=BLUE, label="by top probability")
    return float(ends[coverage >= 0.3].max(initial=0.0))


def _best(curve: RiskCoverage) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk in % when every right answer is surer than every wrong one."""
    right = curve.n - int(curve.wrong[-1])
    answered = np.unique(np.linspace(1, curve.n, POINTS).round())
    return answered / curve.n, 100 * np.maximum(answered - right, 0) / answered


def _words(curve: RiskCoverage, marks: list[int]) -> str:
    points = ", ".join(
        f"{100 * curve.risk[at]:.1f} % at {100 * curve.coverage[at]:.0f} % coverage" for at in (*marks, -1)
    )
    return f"Line chart of the share of errors among the answered, rising with coverage: {points}; n = {curve.n}."
