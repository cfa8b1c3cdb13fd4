"""Drawings of cells of the 21 classes with their masks, for tests and examples.

The drawings are not realistic: metrics measured on them say nothing about cells.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.drawn.canvas import Canvas, Point, SignedDistance, polar
from training.drawn.morphology import MORPHOLOGIES, Granules, Morphology, Nucleus


class UnknownClassError(ValueError):
    """A class code that cannot be drawn, with similar codes."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.near = tuple(get_close_matches(code.upper(), MORPHOLOGIES, n=3, cutoff=0.5)) or tuple(MORPHOLOGIES)
        super().__init__(f"no drawing of class {code!r}; did you mean {', '.join(self.near)}?")


class DrawnCell(NamedTuple):
    """A picture, RGB uint8 (S, S, 3), and masks of the cell and its nucleus, bool (S, S)."""

    picture: NDArray[np.uint8]
    cell_mask: NDArray[np.bool_]
    nucleus_mask: NDArray[np.bool_]


def paint(code: str, seed: int, size: int = 250) -> DrawnCell:
    """Draw one cell in the centre of a field of red cells, 25 µm wide.

    An artefact (ART) has no cell: both masks are empty. A smudge cell (KSC) is all nucleus: both masks are equal.

    Args:
        code: one of the 21 class codes
        seed: zero or more; varies cell, slide and light
        size: S in pixels

    Raises:
        UnknownClassError: no such code
    """
    _check_codes([code])
    morphology = MORPHOLOGIES[code]
    canvas = Canvas(np.random.default_rng([*code.encode(), seed]), size)
    _draw_background(canvas)
    cell, nucleus = _draw_debris(canvas, morphology) if morphology.nucleus == "none" else _draw_cell(canvas, morphology)
    blur_um = canvas.uniform(0.7, 1.0) if morphology.out_of_focus else canvas.uniform(0.03, 0.16)
    return DrawnCell(canvas.render(blur_um), cell > 0, nucleus > 0)


def paint_red_cells(seed: int, size: int = 250) -> NDArray[np.uint8]:
    """Draw a field of red cells without a nucleated cell in its middle, RGB uint8 (S, S, 3)."""
    canvas = Canvas(np.random.default_rng(seed), size)
    _draw_background(canvas)
    return canvas.render(canvas.uniform(0.03, 0.16))


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
    """Write drawn cells in the layout of Matek et al. 2021: CLASS/CLASS_00001.jpg.

    Args:
        folder: created if missing
        codes: the classes to draw
        images_per_class: numbers 1 to this are written
        first_seed: the seed of number 1; number n has the seed first_seed + n - 1
        suffix: .jpg, or another format that Pillow writes
        per_subfolder: pictures per subfolder; 1000: CLASS/0001-1000/CLASS_00001.jpg, as for large published classes

    Returns:
        The files, in the order they were drawn.

    Raises:
        UnknownClassError: no such code; nothing is written
    """
    codes = list(codes)
    _check_codes(codes)
    written = []
    for code in codes:
        for number in range(1, images_per_class + 1):
            path = folder / code / _subfolder(number, per_subfolder) / f"{code}_{number:05d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(paint(code, first_seed + number - 1, size).picture)
            picture.save(path, quality=95)  # ignored by formats other than JPEG and WebP
            written.append(path)
    return written


def _subfolder(number: int, per_subfolder: int | None) -> str:
    if per_subfolder is None:
        return ""
    first = (number - 1) // per_subfolder * per_subfolder + 1
    return f"{first:04d}-{first + per_subfolder - 1:04d}"


def _check_codes(codes: Iterable[str]) -> None:
    for code in codes:
        if code not in MORPHOLOGIES:
            raise UnknownClassError(code)


def _draw_background(canvas: Canvas) -> None:
    """Plasma with a brightness gradient, red cells, and sometimes the edge of another nucleated cell."""
    level, slope, angle = canvas.uniform(222, 246), canvas.uniform(0, 0.6), canvas.random_angle()
    light = level + slope * (canvas.x * np.cos(angle) + canvas.y * np.sin(angle))
    canvas.light[:] = light[..., None] - np.array([2.0, 6.0, 0.0])
    tint = canvas.uniform(-14, 14)
    for _ in range(int(canvas.uniform(3, 9))):
        _draw_red_cell(canvas, (206 + tint, 178 + tint, 192 + tint))
    for _ in range(int(canvas.uniform(0, 2.4))):
        at = polar(canvas.uniform(14, 16.5), canvas.random_angle())
        canvas.blend(canvas.coverage(canvas.blob(at, canvas.uniform(4, 6))), (96, 84, 176))
        canvas.blend(canvas.coverage(canvas.blob(at, canvas.uniform(3, 4))), (64, 36, 124))


def _draw_red_cell(canvas: Canvas, colour: tuple[float, float, float]) -> None:
    at = polar(canvas.uniform(5.5, 14), canvas.random_angle())
    disc = canvas.blob(at, canvas.uniform(3.4, 4.0), aspect=canvas.uniform(1, 1.25))
    central_pallor = np.clip(1.3 - disc / 2.2, 0.45, 1)  # biconcave
    canvas.blend(canvas.coverage(disc) * central_pallor * 0.85, colour)


def _draw_cell(canvas: Canvas, morphology: Morphology) -> tuple[SignedDistance, SignedDistance]:
    """Draw cytoplasm, nucleus and their contents from bottom to top; returns the shapes of cell and nucleus."""
    radius = morphology.radius * canvas.uniform(0.92, 1.08)
    at = (canvas.uniform(-0.8, 0.8), canvas.uniform(-0.8, 0.8))
    angle = canvas.random_angle()  # from the centre of the cell to the nucleus
    middle = polar(radius * (1 - morphology.nucleus_ratio) * morphology.eccentricity, angle, at)
    nucleus = _NUCLEI[morphology.nucleus](canvas, middle, radius * morphology.nucleus_ratio, angle)
    if morphology.nucleus == "smudged":
        cell = nucleus
    else:
        cell = canvas.blob(at, radius, 0.08, canvas.uniform(1, morphology.aspect), morphology.hairs)
        nucleus = np.minimum(nucleus, cell - 0.25)
        _draw_cytoplasm(canvas, morphology, cell, nucleus, polar(-0.32 * radius, angle, at))
    _draw_nucleus(canvas, morphology, nucleus, middle, radius * morphology.nucleus_ratio)
    for granules in morphology.granules:
        _draw_granules(canvas, granules, cell, nucleus, at, radius)
    for _ in range(morphology.auer_rods):
        _draw_rod(canvas, np.minimum(cell - 0.3, 0.6 - nucleus), polar(-0.5 * radius, angle, at))
    return cell, nucleus


def _draw_cytoplasm(
    canvas: Canvas, morphology: Morphology, cell: SignedDistance, nucleus: SignedDistance, zone: Point
) -> None:
    shade = 1 + 0.07 * canvas.texture(1.2) - 0.12 * np.exp(-np.maximum(cell, 0) / 0.6)  # denser at the rim
    canvas.blend(canvas.coverage(cell) * 0.94, morphology.cytoplasm, shade)
    if morphology.golgi_zone:  # unstained, beside the nucleus
        pale = canvas.coverage(canvas.blob(zone, 0.34 * morphology.radius), 2.0) * canvas.coverage(cell - 0.5, 1.0)
        canvas.blend(0.65 * pale, (214, 206, 232))
    for _ in range(morphology.vacuoles):
        at = canvas.random_point(np.minimum(cell - 0.7, -nucleus - 0.3), zone, morphology.radius)
        if at:
            canvas.dot(at, canvas.uniform(0.35, 0.8), (234, 232, 244), 0.75)


def _draw_nucleus(
    canvas: Canvas, morphology: Morphology, nucleus: SignedDistance, middle: Point, radius: float
) -> None:
    smudged = morphology.nucleus == "smudged"
    blocks = np.tanh(3 * canvas.texture(0.8 + 0.6 * morphology.clumps)) * morphology.clumps
    shade = 1 + 0.26 * blocks + 0.12 * canvas.texture(0.4) - 0.10 * np.exp(-np.maximum(nucleus, 0) / 0.35)
    canvas.blend(
        canvas.coverage(nucleus, 2.4 if smudged else 0.0) * (0.7 if smudged else 0.96), morphology.chromatin, shade
    )
    for _ in range(morphology.nucleoli):
        at = polar(radius * canvas.uniform(0.1, 0.6), canvas.random_angle(), middle)
        canvas.blend(canvas.coverage(canvas.disc(at, canvas.uniform(0.7, 1.1)), 0.5) * 0.6, (158, 124, 210))


def _draw_granules(
    canvas: Canvas, granules: Granules, cell: SignedDistance, nucleus: SignedDistance, at: Point, radius: float
) -> None:
    room = cell - granules.radius
    if not granules.over_nucleus:
        room = np.minimum(room, -nucleus - 0.1)
    for _ in range(granules.count):
        where = canvas.random_point(room, at, 1.1 * radius)
        if where:
            grain = granules.radius * canvas.uniform(0.7, 1.2)
            canvas.dot(where, grain, granules.colour, canvas.uniform(0.55, 0.9))


def _draw_rod(canvas: Canvas, room: SignedDistance, bundle: Point) -> None:
    start = polar(canvas.uniform(0, 1.8), canvas.random_angle(), bundle)
    end = polar(canvas.uniform(2.0, 3.6), canvas.uniform(0.2, 1.2), start)
    canvas.blend(canvas.coverage(np.minimum(canvas.stroke(start, end, 0.15), room)) * 0.9, (132, 20, 92))


def _draw_debris(canvas: Canvas, morphology: Morphology) -> tuple[SignedDistance, SignedDistance]:
    """Draw smeared stain and precipitate instead of a cell; returns empty shapes."""
    for _ in range(int(canvas.uniform(2, 5))):
        at = polar(canvas.uniform(0, 4), canvas.random_angle())
        smear = canvas.blob(at, canvas.uniform(1.5, 4), 0.5, canvas.uniform(1.2, 2.5))
        canvas.blend(
            canvas.coverage(smear, 1.2) * canvas.uniform(0.4, 0.8), morphology.chromatin, 1 + 0.25 * canvas.texture(0.8)
        )
    for _ in range(int(canvas.uniform(20, 70))):
        at = polar(canvas.uniform(0, 8), canvas.random_angle())
        canvas.dot(at, canvas.uniform(0.1, 0.4), (66, 20, 84), 0.85)
    empty = np.full_like(canvas.light[..., 0], -1.0)
    return empty, empty


def _round(canvas: Canvas, at: Point, radius: float, angle: float) -> SignedDistance:
    del angle
    return canvas.blob(at, radius, 0.05, canvas.uniform(1, 1.12))


def _kidney(canvas: Canvas, at: Point, radius: float, angle: float) -> SignedDistance:
    bean = canvas.blob(at, radius, 0.03, 1.1)
    notch = canvas.blob(polar(-0.95 * radius, angle, at), 0.62 * radius, 0.03)
    return np.minimum(bean, -notch)


def _folded(canvas: Canvas, at: Point, radius: float, angle: float) -> SignedDistance:
    """Thick overlapping folds around a notch."""
    count = 2 + int(canvas.uniform(0.5, 2.5))
    turns = [angle + (n - (count - 1) / 2) * 1.7 for n in range(count)]
    folds = [canvas.blob(polar(0.45 * radius, turn, at), radius * canvas.uniform(0.56, 0.68)) for turn in turns]
    return np.maximum.reduce(folds)


def _dumbbell(canvas: Canvas, at: Point, radius: float, angle: float) -> SignedDistance:
    """Two broadly joined halves."""
    halves = [polar(sign * 0.55 * radius, angle + 1.57, at) for sign in (-1, 1)]
    return np.maximum.reduce([canvas.blob(half, radius * canvas.uniform(0.60, 0.70), 0.1) for half in halves])


def _band(canvas: Canvas, at: Point, radius: float, angle: float) -> SignedDistance:
    """A curved rod of constant width: most of a ring."""
    distance = np.hypot(canvas.x - at[0], canvas.y - at[1])
    relative = np.arctan2(canvas.y - at[1], canvas.x - at[0]) - angle
    off_axis = np.abs(np.arctan2(np.sin(relative), np.cos(relative)))  # 0 in the middle of the rod, pi opposite
    reach, half_width, ring = canvas.uniform(1.9, 2.4), 0.27 * radius, 0.82 * radius
    ends = [canvas.disc(polar(ring, angle + sign * reach, at), half_width * 1.1) for sign in (-1, 1)]
    rod = np.where(off_axis < reach, half_width - np.abs(distance - ring), -radius)
    return np.maximum(rod, np.maximum(*ends))


def _lobes(canvas: Canvas, at: Point, radius: float, angle: float, count: int, size: float) -> SignedDistance:
    """Lobes along an arc, each joined to the next by a thread."""
    step = canvas.uniform(1.2, 1.5) if count > 2 else canvas.uniform(1.9, 2.6)
    places = [
        polar(radius * canvas.uniform(0.72, 0.88), angle + step * (n - (count - 1) / 2), at) for n in range(count)
    ]
    nucleus = np.full_like(canvas.light[..., 0], -radius)
    for place in places:
        lobe = canvas.blob(place, radius * size * canvas.uniform(0.9, 1.15), 0.06, canvas.uniform(1, 1.4))
        nucleus = np.maximum(nucleus, lobe)
    for first, second in zip(places, places[1:], strict=False):
        nucleus = np.maximum(nucleus, canvas.stroke(first, second, 0.22))
    return nucleus


def _bilobed(canvas: Canvas, at: Point, radius: float, angle: float) -> SignedDistance:
    return _lobes(canvas, at, radius, angle, 2, 0.58)


def _segmented(canvas: Canvas, at: Point, radius: float, angle: float) -> SignedDistance:
    return _lobes(canvas, at, radius, angle, int(canvas.uniform(3, 5.99)), 0.42)


def _smudged(canvas: Canvas, at: Point, radius: float, angle: float) -> SignedDistance:
    del angle
    return canvas.blob(at, radius, 0.3, canvas.uniform(1.1, 1.5)) + 1.2 * canvas.texture(2.0)


_NUCLEI: dict[Nucleus, Callable[[Canvas, Point, float, float], SignedDistance]] = {
    "round": _round,
    "kidney": _kidney,
    "folded": _folded,
    "dumbbell": _dumbbell,
    "band": _band,
    "bilobed": _bilobed,
    "segmented": _segmented,
    "smudged": _smudged,
}
