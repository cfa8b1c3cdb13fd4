"""Draws a cell of any of the 21 classes from a seed, with its masks, for tests and examples.

Knows how a cell is put together: cytoplasm, nucleus, granules. Makes no claim of realism: a model trained on drawings
has learned drawings, and no figure measured on them says anything about cells. Needs no torch.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.drawn.canvas import Canvas, Depth, Point, polar
from training.drawn.morphology import LOOKS, Granules, Look, Nucleus


class UnknownClass(ValueError):
    """A class code that cannot be drawn, with the codes that come near it."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.near = tuple(get_close_matches(code.upper(), LOOKS, n=3, cutoff=0.5)) or tuple(LOOKS)
        super().__init__(f"no class {code!r} to draw; near it: {', '.join(self.near)}")


class Painting(NamedTuple):
    """A drawn cell: RGB uint8 (S, S, 3), and where the cell and its nucleus are, bool (S, S)."""

    picture: NDArray[np.uint8]
    cell_mask: NDArray[np.bool_]
    nucleus_mask: NDArray[np.bool_]


def paint(code: str, seed: int, size: int = 250) -> Painting:
    """Draw one cell in the middle of a field of red cells, 25 µm wide.

    An artefact (ART) has no cell, so both masks are empty; a smudge (KSC) is all nucleus, so both are the same.

    Args:
        code: one of the 21 class codes
        seed: zero or more; another seed is another cell, slide and light
        size: S, in pixels

    Raises:
        UnknownClass: no such code
    """
    _check_codes([code])
    look = LOOKS[code]
    canvas = Canvas(np.random.default_rng([*code.encode(), seed]), size)
    _draw_background(canvas)
    cell, nucleus = _draw_debris(canvas, look) if look.nucleus == "none" else _draw_cell(canvas, look)
    blur_um = canvas.between(0.7, 1.0) if look.out_of_focus else canvas.between(0.03, 0.16)
    return Painting(canvas.photograph(blur_um), cell > 0, nucleus > 0)


def write_folder(
    folder: Path,
    codes: Iterable[str],
    images_per_class: int,
    *,
    size: int = 250,
    first_seed: int = 0,
    suffix: str = ".jpg",
    per_subfolder: int | None = None,
) -> list[Path]:
    """Write drawn cells in the layout of the published data set: CLASS/CLASS_00001.jpg.

    Args:
        folder: made where it is missing
        codes: the classes to draw
        images_per_class: numbers 1 to this are written
        first_seed: the seed of number 1; number n has the seed first_seed + n - 1
        suffix: .jpg, or another that Pillow writes
        per_subfolder: as the large published classes, CLASS/0001-1000/CLASS_00001.jpg for 1000

    Returns:
        The files, in the order they were drawn.

    Raises:
        UnknownClass: no such code; nothing has been written then
    """
    codes = list(codes)
    _check_codes(codes)
    written = []
    for code in codes:
        for number in range(1, images_per_class + 1):
            path = folder / code / _subfolder(number, per_subfolder) / f"{code}_{number:05d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(paint(code, first_seed + number - 1, size).picture)
            picture.save(path, quality=95)  # of JPEG and WebP; the others have none
            written.append(path)
    return written


def _subfolder(number: int, per_subfolder: int | None) -> str:
    if per_subfolder is None:
        return ""
    first = (number - 1) // per_subfolder * per_subfolder + 1
    return f"{first:04d}-{first + per_subfolder - 1:04d}"


def _check_codes(codes: Iterable[str]) -> None:
    for code in codes:
        if code not in LOOKS:
            raise UnknownClass(code)


def _draw_background(canvas: Canvas) -> None:
    """Plasma with a light gradient, red cells, and now and then the edge of a neighbour."""
    level, slope, way = canvas.between(222, 246), canvas.between(0, 0.6), canvas.direction()
    light = level + slope * (canvas.x * np.cos(way) + canvas.y * np.sin(way))
    canvas.light[:] = light[..., None] - np.array([2.0, 6.0, 0.0])
    tint = canvas.between(-14, 14)
    for _ in range(int(canvas.between(3, 9))):
        _draw_red_cell(canvas, (206 + tint, 178 + tint, 192 + tint))
    for _ in range(int(canvas.between(0, 2.4))):
        at = polar(canvas.between(14, 16.5), canvas.direction())
        canvas.lay(canvas.soft(canvas.blob(at, canvas.between(4, 6))), (96, 84, 176))
        canvas.lay(canvas.soft(canvas.blob(at, canvas.between(3, 4))), (64, 36, 124))


def _draw_red_cell(canvas: Canvas, colour: tuple[float, float, float]) -> None:
    at = polar(canvas.between(5.5, 14), canvas.direction())
    disc = canvas.blob(at, canvas.between(3.4, 4.0), aspect=canvas.between(1, 1.25))
    paler_in_the_middle = np.clip(1.3 - disc / 2.2, 0.45, 1)  # biconcave
    canvas.lay(canvas.soft(disc) * paler_in_the_middle * 0.85, colour)


def _draw_cell(canvas: Canvas, look: Look) -> tuple[Depth, Depth]:
    """Cytoplasm, nucleus and everything in them, in the order of their height; returns the cell and the nucleus."""
    radius = look.radius * canvas.between(0.92, 1.08)
    at = (canvas.between(-0.8, 0.8), canvas.between(-0.8, 0.8))
    way = canvas.direction()  # from the middle of the cell towards the nucleus
    middle = polar(radius * (1 - look.share) * look.off_centre, way, at)
    nucleus = _NUCLEI[look.nucleus](canvas, middle, radius * look.share, way)
    if look.nucleus == "smudged":
        cell = nucleus
    else:
        cell = canvas.blob(at, radius, 0.08, canvas.between(1, look.aspect), look.hairs)
        nucleus = np.minimum(nucleus, cell - 0.25)
        _draw_cytoplasm(canvas, look, cell, nucleus, polar(-0.32 * radius, way, at))
    _draw_nucleus(canvas, look, nucleus, middle, radius * look.share)
    for granules in look.granules:
        _draw_granules(canvas, granules, cell, nucleus, at, radius)
    for _ in range(look.auer_rods):
        _draw_rod(canvas, np.minimum(cell - 0.3, 0.6 - nucleus), polar(-0.5 * radius, way, at))
    return cell, nucleus


def _draw_cytoplasm(canvas: Canvas, look: Look, cell: Depth, nucleus: Depth, court: Point) -> None:
    shade = 1 + 0.07 * canvas.texture(1.2) - 0.12 * np.exp(-np.maximum(cell, 0) / 0.6)  # denser at the rim
    canvas.lay(canvas.soft(cell) * 0.94, look.cytoplasm, shade)
    if look.pale_court:  # the Golgi zone beside the nucleus takes no stain
        pale = canvas.soft(canvas.blob(court, 0.34 * look.radius), 2.0) * canvas.soft(cell - 0.5, 1.0)
        canvas.lay(0.65 * pale, (214, 206, 232))
    for _ in range(look.vacuoles):
        at = canvas.somewhere(np.minimum(cell - 0.7, -nucleus - 0.3), court, look.radius)
        if at:
            canvas.dab(at, canvas.between(0.35, 0.8), (234, 232, 244), 0.75)


def _draw_nucleus(canvas: Canvas, look: Look, nucleus: Depth, middle: Point, radius: float) -> None:
    smudged = look.nucleus == "smudged"
    blocks = np.tanh(3 * canvas.texture(0.8 + 0.6 * look.clumps)) * look.clumps
    shade = 1 + 0.26 * blocks + 0.12 * canvas.texture(0.4) - 0.10 * np.exp(-np.maximum(nucleus, 0) / 0.35)
    canvas.lay(canvas.soft(nucleus, 2.4 if smudged else 0.0) * (0.7 if smudged else 0.96), look.chromatin, shade)
    for _ in range(look.nucleoli):
        at = polar(radius * canvas.between(0.1, 0.6), canvas.direction(), middle)
        canvas.lay(canvas.soft(canvas.disc(at, canvas.between(0.7, 1.1)), 0.5) * 0.6, (158, 124, 210))


def _draw_granules(canvas: Canvas, granules: Granules, cell: Depth, nucleus: Depth, at: Point, radius: float) -> None:
    room = cell - granules.radius
    if not granules.over_nucleus:
        room = np.minimum(room, -nucleus - 0.1)
    for _ in range(granules.count):
        where = canvas.somewhere(room, at, 1.1 * radius)
        if where:
            grain = granules.radius * canvas.between(0.7, 1.2)
            canvas.dab(where, grain, granules.colour, canvas.between(0.55, 0.9))


def _draw_rod(canvas: Canvas, room: Depth, bundle: Point) -> None:
    start = polar(canvas.between(0, 1.8), canvas.direction(), bundle)
    end = polar(canvas.between(2.0, 3.6), canvas.between(0.2, 1.2), start)
    canvas.lay(canvas.soft(np.minimum(canvas.stroke(start, end, 0.15), room)) * 0.9, (132, 20, 92))


def _draw_debris(canvas: Canvas, look: Look) -> tuple[Depth, Depth]:
    """Smeared stain and precipitate instead of a cell."""
    for _ in range(int(canvas.between(2, 5))):
        at = polar(canvas.between(0, 4), canvas.direction())
        smear = canvas.blob(at, canvas.between(1.5, 4), 0.5, canvas.between(1.2, 2.5))
        canvas.lay(canvas.soft(smear, 1.2) * canvas.between(0.4, 0.8), look.chromatin, 1 + 0.25 * canvas.texture(0.8))
    for _ in range(int(canvas.between(20, 70))):
        at = polar(canvas.between(0, 8), canvas.direction())
        canvas.dab(at, canvas.between(0.1, 0.4), (66, 20, 84), 0.85)
    nowhere = np.full_like(canvas.light[..., 0], -1.0)
    return nowhere, nowhere


def _round(canvas: Canvas, at: Point, radius: float, way: float) -> Depth:
    del way
    return canvas.blob(at, radius, 0.05, canvas.between(1, 1.12))


def _kidney(canvas: Canvas, at: Point, radius: float, way: float) -> Depth:
    bean = canvas.blob(at, radius, 0.03, 1.1)
    notch = canvas.blob(polar(-0.95 * radius, way, at), 0.62 * radius, 0.03)
    return np.minimum(bean, -notch)


def _folded(canvas: Canvas, at: Point, radius: float, way: float) -> Depth:
    """Thick folds that lie over one another around a notch."""
    count = 2 + int(canvas.between(0.5, 2.5))
    turns = [way + (n - (count - 1) / 2) * 1.7 for n in range(count)]
    folds = [canvas.blob(polar(0.45 * radius, turn, at), radius * canvas.between(0.56, 0.68)) for turn in turns]
    return np.maximum.reduce(folds)


def _dumbbell(canvas: Canvas, at: Point, radius: float, way: float) -> Depth:
    """Two halves that touch broadly."""
    halves = [polar(sign * 0.55 * radius, way + 1.57, at) for sign in (-1, 1)]
    return np.maximum.reduce([canvas.blob(half, radius * canvas.between(0.60, 0.70), 0.1) for half in halves])


def _band(canvas: Canvas, at: Point, radius: float, way: float) -> Depth:
    """A curved rod of even width: most of a ring."""
    distance = np.hypot(canvas.x - at[0], canvas.y - at[1])
    angle = np.arctan2(canvas.y - at[1], canvas.x - at[0]) - way
    off_axis = np.abs(np.arctan2(np.sin(angle), np.cos(angle)))  # 0 in the middle of the rod, pi opposite
    reach, half_width, ring = canvas.between(1.9, 2.4), 0.27 * radius, 0.82 * radius
    ends = [canvas.disc(polar(ring, way + sign * reach, at), half_width * 1.1) for sign in (-1, 1)]
    rod = np.where(off_axis < reach, half_width - np.abs(distance - ring), -radius)
    return np.maximum(rod, np.maximum(*ends))


def _lobes(canvas: Canvas, at: Point, radius: float, way: float, count: int, size: float) -> Depth:
    """Lobes on a part of a ring, each joined to the next by a thread."""
    step = canvas.between(1.2, 1.5) if count > 2 else canvas.between(1.9, 2.6)
    places = [polar(radius * canvas.between(0.72, 0.88), way + step * (n - (count - 1) / 2), at) for n in range(count)]
    nucleus = np.full_like(canvas.light[..., 0], -radius)
    for place in places:
        lobe = canvas.blob(place, radius * size * canvas.between(0.9, 1.15), 0.06, canvas.between(1, 1.4))
        nucleus = np.maximum(nucleus, lobe)
    for first, second in zip(places, places[1:], strict=False):
        nucleus = np.maximum(nucleus, canvas.stroke(first, second, 0.22))
    return nucleus


def _bilobed(canvas: Canvas, at: Point, radius: float, way: float) -> Depth:
    return _lobes(canvas, at, radius, way, 2, 0.58)


def _segmented(canvas: Canvas, at: Point, radius: float, way: float) -> Depth:
    return _lobes(canvas, at, radius, way, int(canvas.between(3, 5.99)), 0.42)


def _smudged(canvas: Canvas, at: Point, radius: float, way: float) -> Depth:
    del way
    return canvas.blob(at, radius, 0.3, canvas.between(1.1, 1.5)) + 1.2 * canvas.texture(2.0)


_NUCLEI: dict[Nucleus, Callable[[Canvas, Point, float, float], Depth]] = {
    "round": _round,
    "kidney": _kidney,
    "folded": _folded,
    "dumbbell": _dumbbell,
    "band": _band,
    "bilobed": _bilobed,
    "segmented": _segmented,
    "smudged": _smudged,
}
