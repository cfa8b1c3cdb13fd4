"""Cells with the class that a person gave and the one that the network named (the paper's Figure 3).

Knows pictures, codes and probabilities. Knows no network and no files.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from training.evaluation.metrics import Floats
from training.evaluation.scores import Scores
from training.report.figures.plate import BLUE, VERMILLION, Plate, headed, inches, sheet, styled

WIDTH, CELL = 10.6, 1.6  # of the sheet and of a cell with its words, in inches
RIGHT, WRONG = 12, 12
TOP = 3
#: Characters of small type that fit under a cell.
LINE = 28


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
    right = (scores.predicted == scores.labels)[shuffled]
    seen: Counter[int] = Counter()
    turns = []
    for label in scores.labels[shuffled[right]].tolist():
        turns.append(seen[label])
        seen[label] += 1
    correct = shuffled[right][np.argsort(turns, kind="stable")[:RIGHT]]
    return np.concatenate([correct, shuffled[~right][:WRONG]]).astype(np.int64)


def top_probabilities(probabilities: Floats, codes: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The three highest of one picture (C,), falling."""
    return tuple((codes[at], float(probabilities[at])) for at in np.argsort(-probabilities, kind="stable")[:TOP])


def gallery_plate(cells: Sequence[Cell], name: str, split: str, wrong_in_all: int, n: int) -> Plate:
    """Right answers first, then wrong ones; each with both classes and its highest probabilities.

    Args:
        wrong_in_all: wrong answers among the n pictures that the cells were drawn from.
    """
    correct, wrong = [cell for cell in cells if cell.right], [cell for cell in cells if not cell.right]
    words = [[*verdict(cell).split("\n"), *joined(_told(cell), "  ").split("\n")] for cell in cells]
    cell_width = max(CELL, *(inches(lines, 7.5) for lines in words))
    cell_height = cell_width + 0.25 + 0.15 * max(map(len, words))
    columns = next((n for n in (6, 4, 3) if n * cell_width <= WIDTH), 2)  # a dozen fills whole rows
    rows = -(-len(correct) // columns) + -(-len(wrong) // columns)
    with styled():
        figure = sheet(cell_width * columns, cell_height * rows + 0.3)
        right_of_all, wrong_of_all = f"{len(correct)} of {n - wrong_in_all}", f"{len(wrong)} of {wrong_in_all}"
        headed(figure, f"{split}, n = {n}: {right_of_all} right answers, {wrong_of_all} wrong ones, drawn at random")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.axis("off")
        # The wrong ones begin a row of their own.
        for at, cell in [*enumerate(correct), *enumerate(wrong, -(-len(correct) // columns) * columns)]:
            _show(panels.flat[at], cell)
    confused = "; ".join(f"{cell.true} named {cell.named} ({cell.probabilities[0][1]:.2f})" for cell in wrong)
    return Plate(
        name,
        figure,
        f"Cells as labelled and as named, {split}, n = {n}: {right_of_all} right answers (blue, ✓), going round the "
        f"classes, and {wrong_of_all} wrong ones (dashed, ✗), all drawn at random with a fixed seed. Below each: its "
        "highest probabilities, after the temperature.",
        f"Gallery of {len(cells)} cells. Right: {', '.join(cell.true for cell in correct) or 'none'}. "
        f"Wrong: {confused or 'none'}.",
        photographs=True,
    )


def _show(axes: Axes, cell: Cell) -> None:
    axes.imshow(cell.image)
    size = len(cell.image)
    colour, line = (BLUE, "-") if cell.right else (VERMILLION, "--")
    axes.add_patch(
        Rectangle((-0.5, -0.5), size, size, fill=False, edgecolor=colour, linewidth=3, linestyle=line, clip_on=False)
    )
    axes.set_title(verdict(cell), fontsize=8, loc="center", pad=5)
    axes.text(0.5, -0.06, joined(_told(cell), "  "), transform=axes.transAxes, ha="center", va="top", fontsize=6.5)


def verdict(cell: Cell) -> str:
    """Right or wrong, and both classes; in two lines where their codes are long."""
    return f"✓ {cell.true}" if cell.right else joined([f"✗ {cell.true},", f"named {cell.named}"], " ", 22)


def _told(cell: Cell) -> list[str]:
    return [f"{code} {100 * probability:.0f} %" for code, probability in cell.probabilities if probability >= 0.005]


def joined(parts: Sequence[str], gap: str, characters: int = LINE) -> str:
    """In one line, or, where that is longer, in a line each."""
    line = gap.join(parts)
    return line if len(line) <= characters else "\n".join(parts)
