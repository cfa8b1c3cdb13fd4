"""Drawn cells and what may happen to their pictures on the way from a slide to a service."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from training.drawn.painter import paint

Shift = Callable[[Image.Image], Image.Image]
#: Classes that the painter draws unlike each other.
CODES = ("EOS", "LYT", "NGS", "BLA", "PMO", "MON")


def drawn(count: int, first: int, codes: tuple[str, ...] = CODES, size: int = 96) -> list[Image.Image]:
    """Cells of the classes in turn; another `first` is other cells."""
    return [Image.fromarray(paint(codes[number % len(codes)], first + number, size).picture) for number in range(count)]


def encoded(picture: Image.Image, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG" if options else "PNG", **options)
    return file.getvalue()


def same(picture: Image.Image) -> Image.Image:
    return picture


def stained(turns: float) -> Shift:
    """Another stain: every hue turned by a part of the circle."""

    def shift(picture: Image.Image) -> Image.Image:
        hsv = np.array(picture.convert("HSV"))
        hsv[..., 0] = (hsv[..., 0].astype(int) + round(256 * turns)) % 256
        return Image.fromarray(hsv, "HSV").convert("RGB")

    return shift


def darker(by: float) -> Shift:
    """Another lamp or exposure."""
    return lambda picture: Image.fromarray((np.asarray(picture) * by).astype(np.uint8))


def blurred(radius: float) -> Shift:
    """Out of focus; the radius is in pixels."""
    return lambda picture: picture.filter(ImageFilter.GaussianBlur(radius))


def compressed(quality: int) -> Shift:
    """JPEG on the way."""
    return lambda picture: Image.open(io.BytesIO(encoded(picture, quality=quality))).convert("RGB")
