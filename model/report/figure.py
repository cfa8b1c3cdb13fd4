"""A figure of a report: colours, styles and fonts, and writing it as PNG and SVG with the same bytes on every run.

matplotlib draws, without pyplot: no global state and no display. The colours are those of Okabe and Ito, readable for
colour-blind people; markers, lines or text repeat what each colour shows.
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
from model.report.page import DPI

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # not in matplotlib 3.10

BLACK, GREY = "#000000", "#6b6b6b"
ORANGE, SKY, GREEN, BLUE, VERMILLION = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00"
PURPLE, YELLOW = "#cc79a7", "#f0e442"
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"  # perceptually uniform; blue: against, red: for

STYLE: Mapping["RcKeyType", Any] = MappingProxyType(
    {
        "svg.hashsalt": "marrowlens",  # fixed, or the names of clip paths differ on every run
        "svg.fonttype": "path",  # independent of the installed fonts
        "font.family": "DejaVu Sans",  # part of matplotlib
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
class ReportFigure:
    """A figure with its file name (without suffix), caption and alternative text."""

    name: str
    figure: Figure
    caption: str
    alt: str
    photographs: bool = False  # reports embed the PNG: an SVG would contain the same pixels twice


def render_figure(drawn: ReportFigure, file_format: str) -> bytes:
    """The figure as "png" or "svg"."""
    out = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else {}
    with style():
        drawn.figure.savefig(out, format=file_format, dpi=DPI, metadata=metadata)
    return out.getvalue()


def save(drawn: ReportFigure, folder: Path) -> dict[str, bytes]:
    """Write NAME.png and NAME.svg; returns their content by suffix."""
    files = {suffix: render_figure(drawn, suffix) for suffix in ("png", "svg")}
    for suffix, data in files.items():
        atomic_file.write_bytes(folder / f"{drawn.name}.{suffix}", data)
    return files


def new_figure(width: float, height: float, fixed_aspect: bool = False) -> Figure:
    """An empty figure of this size in inches, with automatic layout. Draw in it within `style()`.

    Args:
        fixed_aspect: the axes keep their shape (images) and do not fill the figure.
    """
    # Text below images is measured before the axes shrink to their shape, so it needs padding.
    layout = (
        ConstrainedLayoutEngine(compress=True, h_pad=0.1, w_pad=0.06) if fixed_aspect else ConstrainedLayoutEngine()
    )
    return Figure(figsize=(width, height), layout=layout)


def style() -> AbstractContextManager[None]:
    """The context to create axes in: they copy fonts and lines from it when they are made."""
    return matplotlib.rc_context(dict(STYLE))


def text_width(texts: Iterable[str], points: float = 9) -> float:
    """Width in inches of the longest text, estimated before there is a figure to measure it in."""
    return max((len(text) for text in texts), default=0) * 0.6 * points / 72  # DejaVu Sans: 0.6 em a character


def add_heading(figure: Figure, text: str) -> None:
    """Write which pictures a figure shows, and how many, in small type above it."""
    characters = int(17 * figure.get_figwidth())  # of 7 points: never wider than the figure
    unbroken = text.replace("n = ", "n\u00a0=\u00a0")
    figure.suptitle("\n".join(textwrap.wrap(unbroken, characters)), x=0.01, ha="left", fontsize=7, color=GREY)
