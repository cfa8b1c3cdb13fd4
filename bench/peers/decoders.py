"""JPEG decoders of the peers: Pillow, as usual, or this project's. Libraries are imported when selected."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Decoder = Callable[[bytes, int], NDArray[np.uint8]]
PILLOW, OURS = "pillow", "marrowlens"


def decoder(name: str) -> Decoder:
    """A function from JPEG bytes and S to RGB pixels (S, S, 3)."""
    return _ours() if name == OURS else by_pillow


def by_pillow(jpeg: bytes, size: int) -> NDArray[np.uint8]:
    """Decode with Pillow and the filter used in training."""
    with Image.open(BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def _ours() -> Decoder:
    from model.image import decode

    return decode
