"""One figure as it is written: PNG and SVG, the same bytes on every run, with the words for who cannot see it.

Knows colours, type and files. Knows no figure's content.

matplotlib draws (its licence is in the manner of the PSF's): it writes both formats from one description, and figures
built without pyplot keep no state and need no display. The colours are those of Okabe and Ito, made to be told apart
by colour-blind readers; nothing is said by colour alone.
"""

import io
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from model import atomic_file

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # matplotlib 3.10 does not name them yet

BLACK, GREY = "#000000", "#6b6b6b"
ORANGE, SKY, GREEN, BLUE, VERMILLION = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00"
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"  # even in lightness; blue against, red for

DPI = 150
STYLE: Mapping["RcKeyType", Any] = MappingProxyType(
    {
        "svg.hashsalt": "marrowlens",  # else the names of clip paths are drawn anew on each run
        "svg.fonttype": "path",  # looks alike without the fonts of this machine
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "grid.color": "#dddddd",
        "legend.frameon": False,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
    }
)


@dataclass(frozen=True, slots=True)
class Plate:
    """A figure, its file name without suffix, its caption, and what it shows in words."""

    name: str
    figure: Figure
    caption: str
    alt: str
    photographs: bool = False  # a report shows it as PNG: its SVG would hold the same pixels twice


def rendered(plate: Plate, file_format: str) -> bytes:
    """The figure as "png" or "svg"."""
    out = io.BytesIO()
    undated = {"Date": None} if file_format == "svg" else {}
    with matplotlib.rc_context(dict(STYLE)):
        plate.figure.savefig(out, format=file_format, dpi=DPI, metadata=undated)
    return out.getvalue()


def write(plate: Plate, folder: Path) -> dict[str, bytes]:
    """Write name.png and name.svg; returns both by suffix."""
    both = {suffix: rendered(plate, suffix) for suffix in ("png", "svg")}
    for suffix, data in both.items():
        atomic_file.write_bytes(folder / f"{plate.name}.{suffix}", data)
    return both


def sheet(width: float, height: float, squares: bool = False) -> Figure:
    """An empty figure of this many inches, laid out so that nothing overlaps. Draw in it within `styled`.

    Args:
        squares: whether its axes keep their shape, so that they do not fill what room there is.
    """
    # Words below squares are measured before the axes take their shape, and end a little lower than was reckoned.
    layout = ConstrainedLayoutEngine(compress=True, h_pad=0.1, w_pad=0.06) if squares else ConstrainedLayoutEngine()
    return Figure(figsize=(width, height), layout=layout)


def inches(texts: Iterable[str], points: float = 9) -> float:
    """Room for the longest of these lines of type, before there is a figure to measure it in."""
    return max((len(text) for text in texts), default=0) * 0.6 * points / 72  # DejaVu Sans: 0.6 of its height a letter


def headed(figure: Figure, text: str) -> None:
    """Set small words above everything: which pictures these are and how many, for who meets the figure by itself."""
    characters = int(17 * figure.get_figwidth())  # of 7 points, as many as are surely no wider than the figure
    kept_together = text.replace("n = ", "n\u00a0=\u00a0")
    figure.suptitle("\n".join(textwrap.wrap(kept_together, characters)), x=0.01, ha="left", fontsize=7, color=GREY)


def styled() -> AbstractContextManager[None]:
    """The context in which axes are made: they take type and lines from it when they come to be."""
    return matplotlib.rc_context(dict(STYLE))
