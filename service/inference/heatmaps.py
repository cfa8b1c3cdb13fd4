"""A map of the network as a person or a program wants it: numbers, a grey picture, or colours over the cell.

Knows colour tables, interpolation and PNG. Does not know what a map means beyond its kind: attention is how strongly
a region was weighted (0..1, whatever the class), evidence what a region spoke for or against one class (signed).
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
Picture = NDArray[np.uint8]


class MapKind(StrEnum):
    """`none` asks for no map; beside another kind it adds nothing."""

    ATTENTION = "attention"
    EVIDENCE = "evidence"
    NONE = "none"


class MapFormat(StrEnum):
    """`grid` numbers; `png` a grey picture of the grid; `overlay` colours over the cell. Pictures are base64 PNG."""

    GRID = "grid"
    PNG = "png"
    OVERLAY = "overlay"


def _table(anchors: Sequence[str]) -> Picture:
    """256 RGB colours, (256, 3), interpolated between evenly spaced hex anchors."""
    colours = np.array([list(bytes.fromhex(anchor)) for anchor in anchors], dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), colours[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


#: Viridis (Smith and van der Walt, CC0) from ten of its colours: even in lightness, safe for colour-blind readers.
SEQUENTIAL = _table(
    ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
)
#: Blue against, red for, near-white neutral.
DIVERGING = _table(["1c4fa0", "6f9bd8", "f4f4f4", "e08070", "b01c2e"])


@dataclass(frozen=True, slots=True)
class Scale:
    """What black and white of a grey map, or the two ends of a colour table, stand for."""

    low: float
    high: float

    def unit(self, grid: Grid) -> Grid:
        """The grid's values on 0..1, clipped; a scale without extent gives its middle."""
        if self.high <= self.low:
            return np.full_like(grid, 0.5)
        unit: Grid = np.clip((grid - np.float32(self.low)) / np.float32(self.high - self.low), 0, 1)
        return unit


ATTENTION_SCALE = Scale(0.0, 1.0)


def evidence_scale(evidence: Grid) -> Scale:
    """One symmetric scale for all classes of a picture, (C, h, w), so that their maps can be compared."""
    reach = float(np.abs(evidence).max())
    return Scale(-reach, reach)


def grey_png(grid: Grid, scale: Scale) -> str:
    """A map (h, w) as an 8-bit grey PNG of h x w pixels, base64."""
    return _png((scale.unit(grid) * 255).round().astype(np.uint8))


def overlay_png(grid: Grid, scale: Scale, picture: Picture) -> str:
    """A map (h, w) as colours over the picture (S, S, 3), smoothly enlarged to S x S, base64 PNG.

    A signed map is more opaque the further a value lies from zero, so that the cell stays visible where the map says
    nothing; an unsigned one is evenly half-transparent.
    """
    height, width = picture.shape[:2]
    enlarged = Image.fromarray(scale.unit(grid)).resize((width, height), Image.Resampling.BICUBIC)
    unit = np.clip(np.asarray(enlarged, dtype=np.float32), 0, 1)  # (S, S); bicubic overshoots
    signed = scale.low < 0
    colours = (DIVERGING if signed else SEQUENTIAL)[(unit * 255).round().astype(np.uint8)]  # (S, S, 3)
    alpha = (0.75 * np.abs(2 * unit - 1) if signed else np.full_like(unit, 0.5))[:, :, None]
    return _png((alpha * colours + (1 - alpha) * picture).round().astype(np.uint8))


def _png(pixels: Picture) -> str:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return b64encode(file.getvalue()).decode("ascii")
