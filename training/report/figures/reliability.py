"""The reliability diagram: how often answers of a given probability are right, before and after the temperature.

Knows bins. Knows no network and no classes.
"""

import numpy as np
from matplotlib.axes import Axes

from training.evaluation.calibration import ECE_BINS, Reliability, log_probabilities, reliability
from training.evaluation.metrics import wilson
from training.evaluation.scores import Scores
from training.report.figures.plate import BLUE, GREY, Plate, headed, sheet, styled


def reliability_plate(scores: Scores, name: str, split: str) -> Plate:
    """Before and after the temperature, side by side, with the counts of the bins below."""
    correct = scores.predicted == scores.labels
    before = reliability(np.exp(log_probabilities(scores.logits, 1.0)).max(axis=1), correct)
    after = reliability(scores.probabilities.max(axis=1), correct)
    with styled():
        figure = sheet(7.2, 4.6)
        headed(figure, f"{split}, n = {len(scores)}")
        panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
        for column, (title, bins) in enumerate((("before temperature", before), ("after temperature", after))):
            _diagram(panels[0, column], bins, title)
            _counts(panels[1, column], bins)
        panels[1, 0].set_ylim(0, 1.25 * max(before.n.max(), after.n.max()))  # one scale for both
        panels[0, 0].set_ylabel("share that is right")
        panels[1, 0].set_ylabel("pictures")
    sure = int(np.argmax(after.n))
    return Plate(
        name,
        figure,
        f"Reliability, {split}, n = {len(scores)}, in {ECE_BINS} bins of the top probability. Bars: 95 % Wilson "
        "interval of each bin. On the diagonal a probability means what it says; below it the model is too sure. "
        "Below: pictures in each bin.",
        f"Two reliability diagrams. ECE {before.ece:.3f} before the temperature and {after.ece:.3f} after it. The "
        f"fullest bin after it holds {after.n[sure]} pictures of mean probability {after.confidence[sure]:.2f}, "
        f"{after.hits[sure]} of them right.",
    )


def _diagram(axes: Axes, bins: Reliability, title: str) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    filled = np.flatnonzero(bins.n)
    share = bins.hits[filled] / bins.n[filled]
    ends = np.array([wilson(int(bins.hits[at]), int(bins.n[at])) for at in filled])
    reach = np.abs(ends - share[:, None]).T
    axes.errorbar(bins.confidence[filled], share, yerr=reach, fmt="o", color=BLUE, markersize=4, linewidth=1, capsize=2)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), title=f"{title}: ECE {bins.ece:.3f}")
    axes.grid()


def _counts(axes: Axes, bins: Reliability) -> None:
    edges = np.linspace(0, 1, ECE_BINS + 1)
    axes.bar(edges[:-1], bins.n, width=1 / ECE_BINS, align="edge", color=BLUE, edgecolor="white")
    for edge, n in zip(edges, bins.n, strict=False):
        if n:
            axes.text(edge + 0.5 / ECE_BINS, n, str(n), ha="center", va="bottom", fontsize=6)
    axes.set_xlabel("top probability")
