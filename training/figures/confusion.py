"""The confusion matrix as two heat maps: counts, and shares of each true class.

Knows counts and codes. Knows no pictures.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from training.figures.plate import ORANGE, Plate, sheet, styled
from training.maturation import Agreement
from training.metrics import Counts, Floats

COLOURS = "Blues"


def confusion_plate(counts: Counts, codes: Sequence[str], tolerated: Agreement, name: str, split: str) -> Plate:
    """Rows true, columns named; classes that occur or are named. Neighbouring stages are framed.

    Args:
        counts: (C, C).
        tolerated: (C, C), what the tolerant figures forgive.
    """
    here = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    shown, forgiven = counts[np.ix_(here, here)], tolerated[np.ix_(here, here)]
    true = shown.sum(axis=1)
    share = shown / np.maximum(true, 1)[:, None]
    side = 1.4 + 0.34 * len(here)
    with styled():
        figure = sheet(2 * side + 0.8, side + 0.5)
        left, right = figure.subplots(1, 2)
        rows = [f"{codes[at]} ({n})" for at, n in zip(here, true, strict=True)]
        columns = [codes[at] for at in here]
        _heat(left, share, [[str(n) if n else "" for n in row] for row in shown], rows, columns)
        percent = [[f"{100 * value:.0f}" if value else "" for value in row] for row in share]
        _heat(right, share, percent, rows, columns)
        left.set(title=f"counts, n = {shown.sum()}", ylabel="true class (pictures)")
        right.set_title("% of the true class")
        for axes in (left, right):
            _frame(axes, forgiven & (shown > 0) & ~np.eye(len(here), dtype=bool))
    return Plate(
        name,
        figure,
        f"Confusion matrix, {split}. Shade: share of the true class, in both. Framed: confusions of neighbouring "
        "stages, which the tolerant figures forgive.",
        f"Two heat maps of {len(here)} by {len(here)} classes, {shown.sum()} pictures, {np.trace(shown)} of them on "
        f"the diagonal. {_worst(shown, columns)}",
    )


def _heat(axes: Axes, share: Floats, texts: list[list[str]], rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.imshow(share, cmap=COLOURS, vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.set_xlabel("named")
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


def _worst(shown: Counts, codes: Sequence[str]) -> str:
    wrong = shown * ~np.eye(len(shown), dtype=bool)
    if not wrong.any():
        return "No confusion."
    order = np.argsort(-wrong.ravel(), kind="stable")[:3]
    pairs = [(divmod(int(at), len(shown)), int(wrong.ravel()[at])) for at in order if wrong.ravel()[at]]
    return "Most frequent: " + ", ".join(f"{codes[i]} named {codes[j]} {n} times" for (i, j), n in pairs) + "."
