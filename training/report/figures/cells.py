"""Figures of cells: a gallery of labels and predictions (the paper's Figure 3), and attention and evidence maps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image as PillowImage

from model.agreement.class_averages import Floats
from model.report.figure import (
    BLUE,
    DIVERGING,
    SEQUENTIAL,
    VERMILLION,
    ReportFigure,
    add_heading,
    new_figure,
    style,
    text_width,
)
from training.evaluation.scores import Scores

Map = NDArray[np.float32]  # (h, w)
RGB = NDArray[np.uint8]  # (S, S, 3)

MAX_WIDTH, MIN_CELL_WIDTH = 10.6, 1.6  # inches, of the gallery and of a cell with its caption
GALLERY_CORRECT, GALLERY_WRONG = 12, 12  # cells
TOP_K = 3
MAX_CHARACTERS = 28  # of a line below a cell
MAP_CELLS = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture with its label and prediction."""

    image: RGB
    label: str
    predicted: str
    probabilities: tuple[tuple[str, float], ...]  # the highest, in falling order

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.label == self.predicted


@dataclass(frozen=True, slots=True)
class CellMaps:
    """The maps of one cell."""

    cell: Cell
    attention: Map  # (scales, h, w), 0..1
    evidence_predicted: Map  # of the predicted class
    evidence_label: Map  # of the labelled class


def gallery_rows(scores: Scores) -> NDArray[np.int64]:
    """Rows of 12 correct and 12 wrong predictions, drawn at random with a fixed seed.

    The correct ones are drawn from each class in turn, so that a frequent class does not fill the gallery.
    """
    shuffled = np.random.default_rng(0).permutation(len(scores))
    correct = (scores.predicted == scores.labels)[shuffled]
    drawn: Counter[int] = Counter()
    turns = []
    for label in scores.labels[shuffled[correct]].tolist():
        turns.append(drawn[label])
        drawn[label] += 1
    chosen = shuffled[correct][np.argsort(turns, kind="stable")[:GALLERY_CORRECT]]
    return np.concatenate([chosen, shuffled[~correct][:GALLERY_WRONG]]).astype(np.int64)


def top_probabilities(probabilities: Floats, codes: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The three highest probabilities of one picture (C,), in falling order."""
    return tuple((codes[at], float(probabilities[at])) for at in np.argsort(-probabilities, kind="stable")[:TOP_K])


def gallery_figure(cells: Sequence[Cell], name: str, split: str, all_wrong: int, n: int) -> ReportFigure:
    """Correct predictions, then wrong ones; each cell with label, prediction and highest probabilities.

    Args:
        all_wrong: wrong predictions among the n pictures that the cells were drawn from.
    """
    correct, wrong = [cell for cell in cells if cell.correct], [cell for cell in cells if not cell.correct]
    texts = [[*_title(cell).split("\n"), *_one_or_more_lines(_percents(cell), "  ").split("\n")] for cell in cells]
    cell_width = max(MIN_CELL_WIDTH, *(text_width(lines, 7.5) for lines in texts))
    cell_height = cell_width + 0.25 + 0.15 * max(map(len, texts))
    columns = next((n for n in (6, 4, 3) if n * cell_width <= MAX_WIDTH), 2)  # divisors of 12: full rows
    rows = -(-len(correct) // columns) + -(-len(wrong) // columns)
    shares = f"{len(correct)} of {n - all_wrong} right answers", f"{len(wrong)} of {all_wrong} wrong ones"
    with style():
        figure = new_figure(cell_width * columns, cell_height * rows + 0.3)
        add_heading(figure, f"{split}, n = {n}: {shares[0]}, {shares[1]}, drawn at random")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.axis("off")
        # The wrong ones begin in a new row.
        for at, cell in [*enumerate(correct), *enumerate(wrong, -(-len(correct) // columns) * columns)]:
            _draw_cell(panels.flat[at], cell)
    confused = "; ".join(
        f"{cell.label} predicted as {cell.predicted} ({cell.probabilities[0][1]:.2f})" for cell in wrong
    )
    return ReportFigure(
        name,
        figure,
        f"Cells with label and prediction, {split}, n = {n}: {shares[0]} (blue, ✓), class by class, and {shares[1]} "
        "(dashed, ✗), all drawn at random with a fixed seed. Below each: its highest probabilities, after temperature "
        "scaling.",
        f"Gallery of {len(cells)} cells. Right: {', '.join(cell.label for cell in correct) or 'none'}. "
        f"Wrong: {confused or 'none'}.",
        photographs=True,
    )


def _draw_cell(axes: Axes, cell: Cell) -> None:
    axes.imshow(cell.image)
    size = len(cell.image)
    colour, line = (BLUE, "-") if cell.correct else (VERMILLION, "--")
    axes.add_patch(
        Rectangle((-0.5, -0.5), size, size, fill=False, edgecolor=colour, linewidth=3, linestyle=line, clip_on=False)
    )
    axes.set_title(_title(cell), fontsize=8, loc="center", pad=5)
    text = _one_or_more_lines(_percents(cell), "  ")
    axes.text(0.5, -0.06, text, transform=axes.transAxes, ha="center", va="top", fontsize=6.5)


def _title(cell: Cell) -> str:
    if cell.correct:
        return f"✓ {cell.label}"
    return _one_or_more_lines([f"✗ {cell.label},", f"predicted {cell.predicted}"], " ", 22)


def _percents(cell: Cell) -> list[str]:
    return [f"{code} {100 * probability:.0f} %" for code, probability in cell.probabilities if probability >= 0.005]


def _one_or_more_lines(parts: Sequence[str], separator: str, characters: int = MAX_CHARACTERS) -> str:
    """The parts in one line, or in a line each if that would be longer than `characters`."""
    line = separator.join(parts)
    return line if len(line) <= characters else "\n".join(parts)


def maps_figure(maps: Sequence[CellMaps], scales: Sequence[str], name: str, split: str) -> ReportFigure:
    """A row a cell: picture, attention of each kernel scale, evidence for the predicted and the labelled class."""
    columns = 3 + len(scales)
    with style():
        titles = (f"predicted {code}" for m in maps for code in (m.cell.label, m.cell.predicted))
        side = max(1.5, text_width(titles, 7))
        figure = new_figure(side * columns, (side + 0.3) * len(maps) + 0.7)
        add_heading(figure, f"{split}: {len(maps)} cells of its gallery")
        panels = figure.subplots(len(maps), columns, squeeze=False)
        for row, of_cell in zip(panels, maps, strict=True):
            _draw_maps(row, of_cell)
        heads = ("cell", *(f"attention {s}" for s in scales), "evidence, predicted", "evidence, label")
        for axes, head in zip(panels[0], heads, strict=True):
            axes.set_title(head, fontsize=8, loc="center")
        # An empty bar below the first column keeps its cells level with their maps.
        _colour_bar(figure, panels[:, :1], SEQUENTIAL, " ").set_visible(False)
        if scales:
            _colour_bar(figure, panels[:, 1 : 1 + len(scales)], SEQUENTIAL, "least to most weighted")
        _colour_bar(figure, panels[:, -2:], DIVERGING, "against (blue) to for the class (red)")
    cells = "; ".join(f"{m.cell.label} predicted as {m.cell.predicted}" for m in maps)
    return ReportFigure(
        name,
        figure,
        f"Attention and evidence, {split}, {len(maps)} cells. Attention: what the network weighted, for all classes "
        "alike. Evidence: its mean over the map plus the bias is exactly the logit of the class; ± is the range of "
        "colours in a row. Neither proves why the network decided so.",
        f"Cells overlaid with their maps: {cells}.",
        photographs=True,
    )


def _colour_bar(figure: Figure, under: NDArray[np.object_], colours: str, label: str) -> Axes:
    bar = figure.colorbar(ScalarMappable(cmap=colours), ax=under, location="bottom", aspect=25, shrink=0.9, pad=0.02)
    bar.set_ticks([])
    bar.set_label(label, fontsize=7)
    return bar.ax


def _draw_maps(panels: NDArray[np.object_], maps: CellMaps) -> None:
    cell = maps.cell
    for axes in panels:
        axes.axis("off")
    panels[0].imshow(cell.image)
    panels[0].text(0.5, -0.03, _title(cell), transform=panels[0].transAxes, ha="center", va="top", fontsize=7)
    for axes, attention in zip(panels[1:], maps.attention, strict=False):
        axes.imshow(overlay(attention, cell.image, signed=False))
    limit = float(max(np.abs(maps.evidence_predicted).max(), np.abs(maps.evidence_label).max(), 1e-9))
    _draw_evidence(panels[-2], maps.evidence_predicted / limit, cell.image, cell.predicted, limit)
    if cell.correct:
        panels[-1].imshow(np.full_like(cell.image, 255))  # as large as the other maps, so that columns are aligned
        centre = panels[-1].transAxes
        panels[-1].text(
            0.5, 0.5, "the prediction\nis the label", transform=centre, ha="center", va="center", fontsize=7
        )
    else:
        _draw_evidence(panels[-1], maps.evidence_label / limit, cell.image, cell.label, limit)


def _draw_evidence(axes: Axes, evidence: Map, image: RGB, code: str, limit: float) -> None:
    axes.imshow(overlay(evidence, image, signed=True))
    text = _one_or_more_lines([f"for {code},", f"± {limit:.1f}"], " ")
    axes.text(0.5, -0.03, text, transform=axes.transAxes, ha="center", va="top", fontsize=7)


def overlay(values: Map, image: RGB, signed: bool) -> RGB:
    """A map (h, w) in colours over a picture (S, S, 3), enlarged bicubically.

    Args:
        values: 0..1, or -1..1 if `signed`; a signed map is transparent at 0, so that the cell stays visible.
    """
    size = image.shape[1], image.shape[0]
    enlarged = PillowImage.fromarray(values.astype(np.float32)).resize(size, PillowImage.Resampling.BICUBIC)
    scaled = np.asarray(enlarged)
    unit = np.clip((scaled + 1) / 2 if signed else scaled, 0, 1)
    colours = matplotlib.colormaps[DIVERGING if signed else SEQUENTIAL](unit)[..., :3] * 255
    alpha = (0.6 * np.abs(2 * unit - 1) if signed else np.full_like(unit, 0.5))[..., None]
    return (alpha * colours + (1 - alpha) * image).round().astype(np.uint8)
