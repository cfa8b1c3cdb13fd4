"""Figures by class: the confusion matrix, and recall and precision with their intervals."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from model.agreement.class_averages import Agreement, Counts, Floats
from model.contract import Metric
from model.report.figure import (
    BLUE,
    GREY,
    ORANGE,
    ReportFigure,
    add_heading,
    new_figure,
    style,
    text_width,
)

COLOURS = "Blues"
#: Classes up to which the two matrices are drawn side by side: more would be too small on a page.
SIDE_BY_SIDE = 10
MAX_NAME = 24  # characters of a class name beside its code


def confusion_figure(
    counts: Counts, codes: Sequence[str], tolerated: Agreement, name: str, split: str, names: Mapping[str, str] = {}
) -> ReportFigure:
    """The confusion matrix as two heat maps, counts and shares of the true class; tolerated confusions are framed.

    Rows are true classes, columns predicted classes. Classes that neither occur nor are predicted are left out.

    Args:
        counts: (C, C).
        tolerated: (C, C), what the tolerant metrics count as correct.
        names: code → name, written beside the code in the rows of the first map.
    """
    used = [int(at) for at in np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))]
    shown, tolerable = counts[np.ix_(used, used)], tolerated[np.ix_(used, used)]
    true = shown.sum(axis=1)
    share = shown / np.maximum(true, 1)[:, None]
    rows = [f"{codes[at]} ({n})" for at, n in zip(used, true, strict=True)]
    named = [f"{_named(codes[at], names)} ({n})" for at, n in zip(used, true, strict=True)]
    columns = [f"{codes[at]} ({n})" for at, n in zip(used, shown.sum(axis=0), strict=True)]
    side = 0.34 * max(len(used), 4) + text_width([*rows, *columns]) + 0.7
    more = max(text_width(named) - text_width([*rows, *columns]), 0)
    with style():
        grid = (1, 2) if len(used) <= SIDE_BY_SIDE else (2, 1)
        figure = new_figure(grid[1] * side + more + 0.8, grid[0] * (side + 0.2) + 0.4, fixed_aspect=True)
        add_heading(figure, f"{split}, n = {shown.sum()}")
        first, second = figure.subplots(*grid)
        _heat_map(first, share, [[str(n) if n else "" for n in row] for row in shown], named, columns)
        _heat_map(second, share, [[_percent(value) for value in row] for row in share], rows, columns)
        first.set_title("pictures")
        second.set_title("% of the true class")
        for axes in (first, second):
            _frame(axes, tolerable & (shown > 0) & ~np.eye(len(used), dtype=bool))
    return ReportFigure(
        name,
        figure,
        f"Confusion matrix, {split}, n = {shown.sum()}; in brackets the pictures of a row or column. Shade: share of "
        "the true class, in both. Framed: confusions of neighbouring stages, correct for the tolerant metrics.",
        f"Two heat maps of {len(used)} by {len(used)} classes, {shown.sum()} pictures, {np.trace(shown)} of them on "
        f"the diagonal. {_most_frequent(shown, [codes[at] for at in used])}",
    )


def _named(code: str, names: Mapping[str, str]) -> str:
    name = names.get(code, "")
    shown = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
    return f"{code} {shown}".rstrip()


def _percent(share: float) -> str:
    """Per cent without decimals; a rare confusion is "<1" and an almost perfect class ">99"."""
    if not share:
        return ""
    return "<1" if share < 0.005 else ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def _heat_map(axes: Axes, share: Floats, texts: list[list[str]], rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.imshow(share, cmap=COLOURS, vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    axes.grid(which="minor", linewidth=0.5)  # guides the eye along rows and columns
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="predicted class (pictures)", ylabel="true class (pictures)")
    axes.spines[:].set_visible(False)
    colours = matplotlib.colormaps[COLOURS]
    for (row, column), value in np.ndenumerate(share):
        if texts[row][column]:
            lightness = np.dot(colours(value)[:3], (0.299, 0.587, 0.114))
            ink = "black" if lightness > 0.5 else "white"
            axes.text(column, row, texts[row][column], ha="center", va="center", color=ink, fontsize=7)


def _frame(axes: Axes, cells: Agreement) -> None:
    for row, column in np.argwhere(cells):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=ORANGE, linewidth=1.5, zorder=3, clip_on=False))


def _most_frequent(shown: Counts, codes: Sequence[str]) -> str:
    wrong = shown * ~np.eye(len(shown), dtype=bool)
    if not wrong.any():
        return "No confusion."
    order = np.argsort(-wrong.ravel(), kind="stable")[:3]
    pairs = [(divmod(int(at), len(shown)), int(wrong.ravel()[at])) for at in order if wrong.ravel()[at]]
    return "Most frequent: " + ", ".join(f"{codes[i]} predicted as {codes[j]} {n} times" for (i, j), n in pairs) + "."


def classes_figure(metrics: Sequence[Metric], name: str, split: str, names: Mapping[str, str] = {}) -> ReportFigure:
    """Recall (left) and precision (right) of each class, a row a class, with n beside each.

    Args:
        metrics: of one split.
        names: code → name, written beside the code on the left.
    """
    found = {(metric.name, metric.code): metric for metric in metrics}
    codes = list(dict.fromkeys(metric.code for metric in metrics if metric.name == "recall"))
    recalls = [found["recall", code] for code in codes]
    with style():
        labels = [_named(str(code), names) for code in codes]
        figure = new_figure(6.0 + text_width(labels) + text_width(map(str, codes)), 1.5 + 0.27 * len(codes))
        add_heading(figure, f"{split}, n = {sum(metric.n for metric in recalls)}")
        panels = figure.subplots(1, 2)
        for axes, kind, of in zip(panels, ("recall", "precision"), ("of the class", "predicted as it"), strict=True):
            strict, tolerant = ([found[level + kind, code] for code in codes] for level in ("", "tolerant_"))
            _panel(axes, strict, tolerant, f"share of the pictures {of} (n)")
            axes.set_title(kind)
        panels[0].set_yticks(
            range(len(codes)), [f"{label} ({of.n})" for label, of in zip(labels, recalls, strict=True)]
        )
        labelled = [axes.get_legend_handles_labels() for axes in panels]
        handles = {label: handle for found in labelled for handle, label in zip(*found, strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    lowest = min(recalls, key=lambda metric: metric.value)
    return ReportFigure(
        name,
        figure,
        f"Recall and precision by class, {split}; in brackets n. Bars: 95 % Wilson interval. Tolerant: a neighbouring "
        "stage of maturation counts as correct; shown where it differs.",
        f"Dot plot of recall and precision of {len(codes)} classes. Lowest recall: {lowest.code}, "
        f"{lowest.value:.3f}, n = {lowest.n}.",
    )


def _panel(axes: Axes, strict: Sequence[Metric], tolerant: Sequence[Metric], unit: str) -> None:
    """Strict metrics, and below them the tolerant ones that differ."""
    differ = [at for at, (one, other) in enumerate(zip(strict, tolerant, strict=True)) if one.value != other.value]
    _dots(axes, {at - 0.14 * (at in differ): metric for at, metric in enumerate(strict)}, BLUE, "o", "strict")
    _dots(axes, {at + 0.14: tolerant[at] for at in differ}, ORANGE, "D", "tolerant")
    for at, metric in enumerate(strict):
        if not metric.n:
            axes.text(0.02, at, "never predicted: undefined", va="center", fontsize=7, color=GREY)
    axes.set_yticks(range(len(strict)), [f"{metric.code} ({metric.n})" for metric in strict])
    axes.set(xlim=(0, 1.03), ylim=(len(strict) - 0.5, -0.5), xlabel=unit)
    axes.grid(axis="x")


def _dots(axes: Axes, metrics: Mapping[float, Metric], colour: str, marker: str, label: str) -> None:
    """Metrics by their height in the panel; undefined ones (n = 0) are left out."""
    defined = {y: metric for y, metric in metrics.items() if metric.n}
    if not defined:
        return
    axes.errorbar(
        [metric.value for metric in defined.values()],
        list(defined),
        xerr=[
            [metric.value - (metric.low or 0.0) for metric in defined.values()],
            [(metric.high or 0.0) - metric.value for metric in defined.values()],
        ],
        fmt=marker,
        color=colour,
        markersize=4,
        linewidth=1,
        capsize=2,
        label=label,
    )
