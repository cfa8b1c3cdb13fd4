"""Known cells: drawn pictures that a test's trust reference is fitted to, and others like them."""

from itertools import cycle, islice

from pictures import encoded
from PIL import Image

from training.drawn.painter import paint, paint_red_cells

CODES = ("NGS", "LYT", "PMO", "EOS", "BLA", "MON")


def known_cells(count: int, first_seed: int = 0) -> list[bytes]:
    """Drawn cells of six classes in turns, as PNG; another first seed draws other cells."""
    codes = islice(cycle(CODES), count)
    return [_png(paint(code, first_seed + at).picture) for at, code in enumerate(codes)]


def red_cells(seed: int) -> bytes:
    """A field of red cells without a nucleated cell, as PNG."""
    return _png(paint_red_cells(seed))


def _png(pixels: object) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")  # type: ignore[arg-type]
