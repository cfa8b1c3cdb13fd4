"""Known cells: drawn pictures that a test's trust reference is fitted to, and others like them."""

from functools import cache
from itertools import cycle, islice

from pictures import encoded
from PIL import Image

from training.drawn.painter import paint, paint_red_cells

CODES = ("NGS", "LYT", "PMO", "EOS", "BLA", "MON")


def known_cells(count: int, first_seed: int = 0) -> list[bytes]:
    """Drawn cells of six classes in turns, as PNG; another first seed draws other cells."""
    codes = islice(cycle(CODES), count)
    return [_known_cell(code, first_seed + at) for at, code in enumerate(codes)]


@cache
def _known_cell(code: str, seed: int) -> bytes:
    return _png(paint(code, seed).picture)


def red_cells(seed: int) -> bytes:
    """A field of red cells without a nucleated cell, as PNG."""
    return _png(paint_red_cells(seed))


def _png(pixels: object) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")  # type: ignore[arg-type]
