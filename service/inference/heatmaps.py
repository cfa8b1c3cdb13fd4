"""Rendering of heatmaps as a grey PNG or as colours over the cell.

Attention is how strongly a region is weighted, 0..1 and the same for all classes. Evidence is how much a region speaks
for (positive) or against (negative) one class.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grid = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class MapKind(StrEnum):
    """`none` requests no heatmap; together with another kind it is ignored."""

    ATTENTION = "attention"
    EVIDENCE = "evidence"
    NONE = "none"


class MapFormat(StrEnum):
    """`grid`: numbers; `png`: a grey image of the grid; `overlay`: colours over the cell. Images are base64 PNG."""

    GRID = "grid"
    PNG = "png"
    OVERLAY = "overlay"


def _color_table(anchors: Sequence[str]) -> Pixels:
    """256 RGB colours (256, 3), interpolated between evenly spaced hex colours."""
    colours = np.array([list(bytes.fromhex(anchor)) for anchor in anchors], dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), colours[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


#: Viridis (Smith and van der Walt, CC0), from ten of its colours: uniform lightness, safe for colour-blind readers.
SEQUENTIAL = _color_table(
    ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
)
#: Blue: against; red: for; near-white: neutral.
DIVERGING = _color_table(["1c4fa0", "6f9bd8", "f4f4f4", "e08070", "b01c2e"])


@dataclass(frozen=True, slots=True)
class Scale:
    """The values of the two ends of a colour table, or of black and white."""

    low: float
    high: float

    def normalize(self, grid: Grid) -> Grid:
        """The grid scaled to 0..1 and clipped; 0.5 everywhere if `low` equals `high`."""
        if self.high <= self.low:
            return np.full_like(grid, 0.5)
        unit: Grid = np.clip((grid - np.float32(self.low)) / np.float32(self.high - self.low), 0, 1)
        return unit


ATTENTION_SCALE = Scale(0.0, 1.0)


def evidence_scale(evidence: Grid) -> Scale:
    """One symmetric scale for all classes (C, h, w) of a picture, so that their heatmaps are comparable."""
    reach = float(np.abs(evidence).max())
    return Scale(-reach, reach)


def grey_png(grid: Grid, scale: Scale) -> str:
    """A heatmap (h, w) as an 8-bit grey PNG of h x w pixels, base64."""
    return _png((scale.normalize(grid) * 255).round().astype(np.uint8))


def overlay_png(grid: Grid, scale: Scale, picture: Pixels) -> str:
    """A heatmap (h, w) as colours over the picture (S, S, 3), enlarged to S x S by bicubic interpolation, base64 PNG.

    A signed heatmap is more opaque the further a value is from zero, so the cell stays visible in neutral regions. An
    unsigned one is half-transparent everywhere.
    """
    height, width = picture.shape[:2]
    enlarged = Image.fromarray(scale.normalize(grid)).resize((width, height), Image.Resampling.BICUBIC)
    unit = np.clip(np.asarray(enlarged, dtype=np.float32), 0, 1)  # (S, S); bicubic overshoots
    signed = scale.low < 0
    colours = (DIVERGING if signed else SEQUENTIAL)[(unit * 255).round().astype(np.uint8)]  # (S, S, 3)
    alpha = (0.75 * np.abs(2 * unit - 1) if signed else np.full_like(unit, 0.5))[:, :, None]
    return _png((alpha * colours + (1 - alpha) * picture).round().astype(np.uint8))


def _png(pixels: Pixels) -> str:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return b64encode(file.getvalue()).decode("ascii")
