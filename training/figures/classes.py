"""Recall and precision of each class with their intervals, strict and tolerant.

Knows figures by name. Knows no pictures and computes nothing.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes

from model.contract import Metric
from training.figures.plate import BLUE, ORANGE, Plate, sheet, styled


def classes_plate(metrics: Sequence[Metric], name: str, split: str) -> Plate:
    """One row a class; left recall, right precision, with n beside each class.

    Args:
        metrics: of one split.
    """
    found = {(metric.name, metric.code): metric for metric in metrics}
    codes = list(dict.fromkeys(metric.code for metric in metrics if metric.name == "recall"))
    recalls = [found["recall", code] for code in codes]
    with styled():
        figure = sheet(7.2, 1.3 + 0.27 * len(codes))
        for axes, figure_name in zip(figure.subplots(1, 2), ("recall", "precision"), strict=True):
            for offset, level, colour, marker in ((-0.14, "", BLUE, "o"), (0.14, "tolerant_", ORANGE, "D")):
                chosen = [found[level + figure_name, code] for code in codes]
                _dots(axes, chosen, offset, colour, marker, level.rstrip("_") or "strict")
            rows = [f"{metric.code} ({metric.n})" for metric in (found[figure_name, code] for code in codes)]
            axes.set_yticks(range(len(codes)), rows)
            axes.set(xlim=(0, 1.03), ylim=(len(codes) - 0.5, -0.5), title=figure_name)
            axes.set_xlabel("of the pictures of the class" if figure_name == "recall" else "of the pictures named so")
            axes.grid(axis="x")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    lowest = min(recalls, key=lambda metric: metric.value)
    return Plate(
        name,
        figure,
        f"Recall and precision by class, {split}; in brackets n. Bars: 95 % Wilson interval.",
        f"Dot plot of recall and precision of {len(codes)} classes. Lowest recall: {lowest.code}, "
        f"{lowest.value:.3f}, n = {lowest.n}.",
    )


def _dots(axes: Axes, metrics: Sequence[Metric], offset: float, colour: str, marker: str, label: str) -> None:
    places = [(at + offset, m, m.low or 0.0, m.high or 0.0) for at, m in enumerate(metrics) if m.n]
    values = [m.value for _, m, _, _ in places]
    reach = [[m.value - low for _, m, low, _ in places], [high - m.value for _, m, _, high in places]]
    axes.errorbar(
        values,
        [y for y, _, _, _ in places],
        xerr=reach,
        fmt=marker,
        color=colour,
        markersize=4,
        linewidth=1,
        capsize=2,
        label=label,
    )
