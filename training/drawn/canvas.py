"""A canvas in micrometres: shapes as signed distance fields, soft edges, texture, blur and camera noise.

Random numbers are uniform only (PCG64, a stream that numpy keeps stable) and arithmetic is in double precision: the
same seed gives the same picture on every machine.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

FIELD_UM = 25.0  # side of the canvas; a nucleated cell fills about half of it

Point = tuple[float, float]  # µm right and down from the centre
#: (S, S): distance in µm to the edge of a shape, positive inside. Union: maximum; intersection: minimum.
SignedDistance = NDArray[np.float64]


def polar(distance: float, angle: float, origin: Point = (0.0, 0.0)) -> Point:
    """The point at a distance (µm) and angle (radians) from the origin."""
    return origin[0] + distance * np.cos(angle), origin[1] + distance * np.sin(angle)


class Canvas:
    """RGB light 0..255, (S, S, 3), and the coordinates of its pixels in µm."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.pixel_um = FIELD_UM / size
        line = (np.arange(size) + 0.5) * self.pixel_um - FIELD_UM / 2
        self.x = np.broadcast_to(line, (size, size))
        self.y = np.broadcast_to(line[:, None], (size, size))
        self.light = np.full((size, size, 3), 255.0)

    def uniform(self, low: float, high: float) -> float:
        """A random number between low and high."""
        return low + (high - low) * self.rng.random()

    def random_angle(self) -> float:
        """A random angle in radians."""
        return self.uniform(0, 2 * np.pi)

    def blob(
        self, at: Point, radius: float, wobble: float = 0.04, aspect: float = 1.0, hairs: int = 0
    ) -> SignedDistance:
        """A wavy ellipse.

        Args:
            wobble: relative amplitude of the waves.
            aspect: length by width.
            hairs: hair-like projections on the rim.
        """
        turn, phases = self.random_angle(), [self.random_angle() for _ in range(5)]
        sizes = [wobble * self.uniform(-1, 1) / waves for waves in range(1, 5)]
        near = self._around(at, 1.6 * radius * np.sqrt(aspect))
        right, down = self.x[near] - at[0], self.y[near] - at[1]
        across = (right * np.cos(turn) + down * np.sin(turn)) / np.sqrt(aspect)
        along = (down * np.cos(turn) - right * np.sin(turn)) * np.sqrt(aspect)
        angle = np.arctan2(along, across)
        rim = np.ones_like(angle)
        for waves, (size, phase) in enumerate(zip(sizes, phases, strict=False), start=2):
            rim += size * np.cos(waves * angle + phase)
        if hairs:
            sway = 1.5 * np.sin(3 * angle + phases[4])
            rim += 0.30 * np.abs(np.sin((hairs * angle + sway) / 2)) ** 6 * (0.7 + 0.3 * np.cos(2 * angle)) - 0.06
        depth = np.full((self.size, self.size), -FIELD_UM)
        depth[near] = rim * radius - np.hypot(across, along)
        return depth

    def disc(self, at: Point, radius: float) -> SignedDistance:
        """A disc."""
        return radius - np.hypot(self.x - at[0], self.y - at[1])

    def stroke(self, start: Point, end: Point, half_width: float) -> SignedDistance:
        """A straight line with round ends."""
        run, rise = end[0] - start[0], end[1] - start[1]
        along = ((self.x - start[0]) * run + (self.y - start[1]) * rise) / (run * run + rise * rise)
        along = np.clip(along, 0, 1)
        return half_width - np.hypot(self.x - start[0] - along * run, self.y - start[1] - along * rise)

    def texture(self, grain_um: float) -> NDArray[np.float64]:
        """Smooth noise, (S, S), -1..1, with this grain size."""
        lattice = self.rng.random((int(FIELD_UM / grain_um) + 2,) * 2) * 2 - 1
        smooth = Image.fromarray(lattice.astype(np.float32)).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(smooth, np.float64)

    def coverage(self, shape: SignedDistance, width_um: float = 0.0) -> NDArray[np.float64]:
        """Coverage of each pixel by a shape, 0..1, with an edge of this width (at least one pixel)."""
        return np.clip(shape / max(width_um, self.pixel_um) + 0.5, 0, 1)

    def blend(
        self,
        cover: NDArray[np.float64],
        colour: tuple[float, float, float],
        shade: NDArray[np.float64] | float = 1.0,
    ) -> None:
        """Blend a colour into the picture, with a local brightness factor (shade, about 1)."""
        rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
        if rows.size:
            near = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            paint = np.asarray(colour, np.float64) * np.broadcast_to(shade, cover.shape)[near][..., None]
            self.light[near] += (paint - self.light[near]) * cover[near][..., None]

    def dot(self, at: Point, radius: float, colour: tuple[float, float, float], opacity: float) -> None:
        """Blend a small disc into the picture; only pixels around it are computed."""
        near = self._around(at, radius + self.pixel_um)
        cover = self.coverage(radius - np.hypot(self.x[near] - at[0], self.y[near] - at[1])) * opacity
        self.light[near] += (np.asarray(colour, np.float64) - self.light[near]) * cover[..., None]

    def random_point(self, shape: SignedDistance, at: Point, radius: float) -> Point | None:
        """A random point within the radius and inside a shape; None after 20 failed attempts."""
        for _ in range(20):
            point = polar(radius * np.sqrt(self.rng.random()), self.random_angle(), at)
            column, row = (int((um + FIELD_UM / 2) // self.pixel_um) for um in point)
            if 0 <= column < self.size and 0 <= row < self.size and shape[row, column] > 0:
                return point
        return None

    def render(self, blur_um: float) -> NDArray[np.uint8]:
        """The picture, RGB uint8 (S, S, 3), with exposure, white balance, blur and camera noise."""
        balance = np.array([self.uniform(0.95, 1.03), self.uniform(0.95, 1.02), self.uniform(0.96, 1.05)])
        exposed = Image.fromarray(_to_bytes(self.light * balance * self.uniform(0.80, 1.03)))
        blurred = np.asarray(exposed.filter(ImageFilter.GaussianBlur(blur_um / self.pixel_um)), np.float64)
        noise = self.rng.random(blurred.shape) + self.rng.random(blurred.shape) - 1
        return _to_bytes(blurred + noise * self.uniform(2, 8))

    def _around(self, at: Point, reach_um: float) -> tuple[slice, slice]:
        """Slices of the square around a point."""
        first = [int((um - reach_um + FIELD_UM / 2) // self.pixel_um) for um in at]
        last = [int((um + reach_um + FIELD_UM / 2) // self.pixel_um) + 1 for um in at]
        columns, rows = (slice(max(low, 0), max(high, 0)) for low, high in zip(first, last, strict=True))
        return rows, columns


def _to_bytes(light: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(np.clip(light, 0, 255)).astype(np.uint8)
