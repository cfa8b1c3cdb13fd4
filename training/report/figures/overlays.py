"""What the network weighted and what spoke for a class, laid over the cells.

Knows pictures and maps. Knows no network; shows what a map is, and claims nothing of why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from training.report.figures.gallery import Cell, joined, verdict
from training.report.figures.plate import DIVERGING, SEQUENTIAL, Plate, headed, inches, sheet, styled

Grid = NDArray[np.float32]
Picture = NDArray[np.uint8]

ROWS = 6


@dataclass(frozen=True, slots=True)
class Maps:
    """The maps of one cell."""

    cell: Cell
    attention: Grid  # (scales, h, w), 0..1
    evidence_named: Grid  # (h, w), of the class that was named
    evidence_true: Grid  # (h, w), of the class that a person gave


def overlays_plate(maps: Sequence[Maps], scales: Sequence[str], name: str, split: str) -> Plate:
    """One row a cell: the picture, the attention of each scale, the evidence for the named and for the true class."""
    columns = 3 + len(scales)
    with styled():
        side = max(1.5, inches((f"named {code}" for m in maps for code in (m.cell.true, m.cell.named)), 7))
        figure = sheet(side * columns, (side + 0.3) * len(maps) + 0.7)
        headed(figure, f"{split}: {len(maps)} cells of its gallery")
        panels = figure.subplots(len(maps), columns, squeeze=False)
        for row, of_cell in zip(panels, maps, strict=True):
            _row(row, of_cell)
        titles = ("cell", *(f"attention {s}" for s in scales), "evidence, named class", "evidence, true class")
        for axes, title in zip(panels[0], titles, strict=True):
            axes.set_title(title, fontsize=8, loc="center")
        _bar(figure, panels[:, 1 : 1 + len(scales)], SEQUENTIAL, ("least", "most weighted"))
        _bar(figure, panels[:, -2:], DIVERGING, ("against (blue)", "for the class (red)"))
    cells = "; ".join(f"{m.cell.true} named {m.cell.named}" for m in maps)
    return Plate(
        name,
        figure,
        f"Attention and evidence, {split}, {len(maps)} cells. Attention: what the network weighted, whatever the "
        "class. Evidence: its mean over the map and the bias make the class's logit, exactly; ± is the reach of the "
        "colours in a row. Neither proves that a reason was right.",
        f"Cells with their maps laid over them: {cells}.",
        photographs=True,
    )


def _bar(figure: Figure, under: NDArray[np.object_], colours: str, ends: tuple[str, str]) -> None:
    bar = figure.colorbar(ScalarMappable(cmap=colours), ax=under, location="bottom", aspect=25, shrink=0.9, pad=0.02)
    bar.set_ticks([])
    bar.set_label(" to ".join(ends), fontsize=7)


def _row(panels: NDArray[np.object_], maps: Maps) -> None:
    cell = maps.cell
    for axes in panels:
        axes.axis("off")
    panels[0].imshow(cell.image)
    panels[0].text(0.5, -0.03, verdict(cell), transform=panels[0].transAxes, ha="center", va="top", fontsize=7)
    for axes, grid in zip(panels[1:], maps.attention, strict=False):
        axes.imshow(laid_over(grid, cell.image, signed=False))
    reach = float(max(np.abs(maps.evidence_named).max(), np.abs(maps.evidence_true).max(), 1e-9))
    _evidence(panels[-2], maps.evidence_named / reach, cell.image, cell.named, reach)
    if cell.right:
        panels[-1].text(0.5, 0.5, "the named class\nis the true one", ha="center", va="center", fontsize=7)
    else:
        _evidence(panels[-1], maps.evidence_true / reach, cell.image, cell.true, reach)


def _evidence(axes: Axes, grid: Grid, image: Picture, code: str, reach: float) -> None:
    axes.imshow(laid_over(grid, image, signed=True))
    text = joined([f"for {code},", f"± {reach:.1f}"], " ")
    axes.text(0.5, -0.03, text, transform=axes.transAxes, ha="center", va="top", fontsize=7)


def laid_over(grid: Grid, image: Picture, signed: bool) -> Picture:
    """A map (h, w) in colours over a picture (S, S, 3), smoothly enlarged.

    Args:
        grid: 0..1, or -1..1 where `signed`; a signed map is the more opaque the further it lies from zero, so that the
            cell stays visible where the map says nothing.
    """
    size = image.shape[1], image.shape[0]
    enlarged = np.asarray(Image.fromarray(grid.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    unit = np.clip((enlarged + 1) / 2 if signed else enlarged, 0, 1)
    colours = matplotlib.colormaps[DIVERGING if signed else SEQUENTIAL](unit)[..., :3] * 255
    alpha = (0.6 * np.abs(2 * unit - 1) if signed else np.full_like(unit, 0.5))[..., None]
    return (alpha * colours + (1 - alpha) * image).round().astype(np.uint8)
