"""How a server makes pixels of a JPEG: by Pillow, as everybody does, or by this project's own code.

Knows both by name. What only one of them needs is imported when it is asked for.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Decoder = Callable[[bytes, int], NDArray[np.uint8]]
PILLOW, OURS = "pillow", "marrowlens"


def decoder(name: str) -> Decoder:
    """From a JPEG and S to RGB pixels (S, S, 3)."""
    return _ours() if name == OURS else by_pillow


def by_pillow(jpeg: bytes, size: int) -> NDArray[np.uint8]:
    """What one writes first, with the filter that the model learned from."""
    with Image.open(BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def _ours() -> Decoder:
    from model.image import decode

    return decode
