"""Cells with the class that a person gave and the one that the network named (the paper's Figure 3).

Knows pictures, codes and probabilities. Knows no network and no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from training.figures.plate import BLUE, GREY, VERMILLION, Plate, sheet, styled
from training.metrics import Floats
from training.scores import Scores

COLUMNS = 6
RIGHT, WRONG = 12, 12
TOP = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture, what it is called, and what the network makes of it."""

    image: NDArray[np.uint8]  # (S, S, 3)
    true: str
    named: str
    probabilities: tuple[tuple[str, float], ...]  # the highest, falling

    @property
    def right(self) -> bool:
        """Whether both say the same."""
        return self.true == self.named


def drawn_cells(scores: Scores) -> NDArray[np.int64]:
    """Rows of a dozen right and a dozen wrong answers, drawn with a fixed seed: not chosen by anyone.

    The right ones go round the classes, so that a frequent class does not fill the sheet.
    """
    shuffled = np.random.default_rng(0).permutation(len(scores))
    right = scores.predicted == scores.labels
    seen: dict[int, int] = {}
    rounds = []
    for row in shuffled[right[shuffled]]:
        seen[label] = seen.get(label := int(scores.labels[row]), 0) + 1
        rounds.append((seen[label], len(rounds), row))
    correct = [row for _, _, row in sorted(rounds)[:RIGHT]]
    return np.array([*correct, *shuffled[~right[shuffled]][:WRONG]], dtype=np.int64)


def top_probabilities(probabilities: Floats, codes: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The three highest of one picture (C,), falling."""
    return tuple((codes[at], float(probabilities[at])) for at in np.argsort(-probabilities, kind="stable")[:TOP])


def gallery_plate(cells: Sequence[Cell], name: str, split: str, wrong_in_all: int, n: int) -> Plate:
    """Right answers first, then wrong ones; each with both classes and its highest probabilities.

    Args:
        wrong_in_all: wrong answers among the n pictures that the cells were drawn from.
    """
    correct, wrong = [cell for cell in cells if cell.right], [cell for cell in cells if not cell.right]
    rows = -(-len(correct) // COLUMNS) + -(-len(wrong) // COLUMNS)
    with styled():
        figure = sheet(1.45 * COLUMNS, 1.95 * rows)
        panels = figure.subplots(rows, COLUMNS, squeeze=False)
        for axes in panels.flat:
            axes.axis("off")
        places = [*_rows_of(correct, 0), *_rows_of(wrong, -(-len(correct) // COLUMNS))]
        for cell, row, column in places:
            _show(panels[row, column], cell)
    confused = "; ".join(f"{cell.true} named {cell.named} ({cell.probabilities[0][1]:.2f})" for cell in wrong)
    return Plate(
        name,
        figure,
        f"Cells as labelled and as named, {split}: {len(correct)} of {n - wrong_in_all} right answers (blue, ✓), going "
        f"round the classes, and {len(wrong)} of {wrong_in_all} wrong ones (dashed, ✗), all drawn at random with a "
        "fixed seed. Below each: its highest probabilities.",
        f"Gallery of {len(cells)} cells. Right: {', '.join(cell.true for cell in correct) or 'none'}. "
        f"Wrong: {confused or 'none'}.",
        photographs=True,
    )


def _rows_of(cells: Sequence[Cell], first: int) -> list[tuple[Cell, int, int]]:
    return [(cell, first + at // COLUMNS, at % COLUMNS) for at, cell in enumerate(cells)]


def _show(axes: Axes, cell: Cell) -> None:
    axes.imshow(cell.image)
    size = len(cell.image)
    colour, line = (BLUE, "-") if cell.right else (VERMILLION, "--")
    axes.add_patch(
        Rectangle((-0.5, -0.5), size, size, fill=False, edgecolor=colour, linewidth=3, linestyle=line, clip_on=False)
    )
    title = f"✓ {cell.true}" if cell.right else f"✗ {cell.true}, named {cell.named}"
    axes.set_title(title, fontsize=8, color=colour, loc="center", pad=5)
    text = "  ".join(f"{code} {100 * probability:.0f} %" for code, probability in cell.probabilities)
    axes.text(0.5, -0.06, text, transform=axes.transAxes, ha="center", va="top", fontsize=5.5, color=GREY)
