"""The confusion matrix as two heat maps: counts, and shares of each true class.

Knows counts and codes. Knows no pictures.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from training.evaluation.maturation import Agreement
from training.evaluation.metrics import Counts, Floats
from training.report.figures.plate import ORANGE, Plate, headed, inches, sheet, styled

COLOURS = "Blues"
#: So many classes stand in two maps side by side; more would be too small to read on a page.
ABREAST = 10


def confusion_plate(counts: Counts, codes: Sequence[str], tolerated: Agreement, name: str, split: str) -> Plate:
    """Rows true, columns named; classes that occur or are named. Neighbouring stages are framed.

    Args:
        counts: (C, C).
        tolerated: (C, C), what the tolerant figures forgive.
    """
    here = [int(at) for at in np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))]
    shown, forgiven = counts[np.ix_(here, here)], tolerated[np.ix_(here, here)]
    true = shown.sum(axis=1)
    share = shown / np.maximum(true, 1)[:, None]
    rows = [f"{codes[at]} ({n})" for at, n in zip(here, true, strict=True)]
    columns = [f"{codes[at]} ({n})" for at, n in zip(here, shown.sum(axis=0), strict=True)]
    side = 0.34 * max(len(here), 4) + inches([*rows, *columns]) + 0.7
    with styled():
        grid = (1, 2) if len(here) <= ABREAST else (2, 1)
        figure = sheet(grid[1] * side + 0.8, grid[0] * (side + 0.2) + 0.4, squares=True)
        headed(figure, f"{split}, n = {shown.sum()}")
        first, second = figure.subplots(*grid)
        _heat(first, share, [[str(n) if n else "" for n in row] for row in shown], rows, columns)
        _heat(second, share, [[_percent(value) for value in row] for row in share], rows, columns)
        first.set_title("pictures")
        second.set_title("% of the true class")
        for axes in (first, second):
            _frame(axes, forgiven & (shown > 0) & ~np.eye(len(here), dtype=bool))
    return Plate(
        name,
        figure,
        f"Confusion matrix, {split}, n = {shown.sum()}; in brackets the pictures of a row or column. Shade: share of "
        "the true class, in both. Framed: confusions of neighbouring stages, which the tolerant figures forgive.",
        f"Two heat maps of {len(here)} by {len(here)} classes, {shown.sum()} pictures, {np.trace(shown)} of them on "
        f"the diagonal. {_worst(shown, [codes[at] for at in here])}",
    )


def _percent(share: float) -> str:
    """Whole per cent, without making a rare confusion none or an almost whole class whole."""
    if not share:
        return ""
    return "<1" if share < 0.005 else ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def _heat(axes: Axes, share: Floats, texts: list[list[str]], rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.imshow(share, cmap=COLOURS, vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    axes.grid(which="minor", linewidth=0.5)  # else the eye loses its row between two far columns
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="named (pictures)", ylabel="true class (pictures)")
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
