"""Recall and precision of each class with their intervals, strict and tolerant.

Knows figures by name. Knows no pictures and computes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from model.contract import Metric
from training.report.figures.plate import BLUE, GREY, ORANGE, Plate, headed, inches, sheet, styled


def classes_plate(metrics: Sequence[Metric], name: str, split: str) -> Plate:
    """One row a class; left recall, right precision, with n beside each class.

    Args:
        metrics: of one split.
    """
    found = {(metric.name, metric.code): metric for metric in metrics}
    codes = list(dict.fromkeys(metric.code for metric in metrics if metric.name == "recall"))
    recalls = [found["recall", code] for code in codes]
    with styled():
        figure = sheet(6.0 + 2 * inches(map(str, codes)), 1.5 + 0.27 * len(codes))
        headed(figure, f"{split}, n = {sum(metric.n for metric in recalls)}")
        left, right = figure.subplots(1, 2)
        for axes, name_of, of in ((left, "recall", "of the class"), (right, "precision", "named so")):
            strict, tolerant = ([found[level + name_of, code] for code in codes] for level in ("", "tolerant_"))
            _panel(axes, strict, tolerant, f"share of the pictures {of} (n)")
            axes.set_title(name_of)
        handles = {label: handle for axes in (left, right) for handle, label in zip(*_legend(axes), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    lowest = min(recalls, key=lambda metric: metric.value)
    return Plate(
        name,
        figure,
        f"Recall and precision by class, {split}; in brackets n. Bars: 95 % Wilson interval. Tolerant: neighbouring "
        "stages forgiven, where that changes anything.",
        f"Dot plot of recall and precision of {len(codes)} classes. Lowest recall: {lowest.code}, "
        f"{lowest.value:.3f}, n = {lowest.n}.",
    )


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels; of neither, where nothing is drawn."""
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), list(labels)


def _panel(axes: Axes, strict: Sequence[Metric], tolerant: Sequence[Metric], unit: str) -> None:
    """Strict figures; the tolerant ones below them where they differ."""
    differ = [at for at, (one, other) in enumerate(zip(strict, tolerant, strict=True)) if one.value != other.value]
    _dots(axes, {at - 0.14 * (at in differ): metric for at, metric in enumerate(strict)}, BLUE, "o", "strict")
    _dots(axes, {at + 0.14: tolerant[at] for at in differ}, ORANGE, "D", "tolerant")
    for at, metric in enumerate(strict):
        if not metric.n:
            axes.text(0.02, at, "named nowhere: undefined", va="center", fontsize=7, color=GREY)
    axes.set_yticks(range(len(strict)), [f"{metric.code} ({metric.n})" for metric in strict])
    axes.set(xlim=(0, 1.03), ylim=(len(strict) - 0.5, -0.5), xlabel=unit)
    axes.grid(axis="x")


def _dots(axes: Axes, at: Mapping[float, Metric], colour: str, marker: str, label: str) -> None:
    places = [(y, m, m.low or 0.0, m.high or 0.0) for y, m in at.items() if m.n]
    if not places:
        return
    axes.errorbar(
        [m.value for _, m, _, _ in places],
        [y for y, _, _, _ in places],
        xerr=[[m.value - low for _, m, low, _ in places], [high - m.value for _, m, _, high in places]],
        fmt=marker,
        color=colour,
        markersize=4,
        linewidth=1,
        capsize=2,
        label=label,
    )
