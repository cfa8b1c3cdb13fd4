"""Arrays of float32 as text, for the JSON documents about a model."""

import base64

import numpy as np
from numpy.typing import NDArray

from model.fields import packed_bytes


def pack_floats(values: NDArray[np.float32]) -> str:
    """Base64 of little-endian float32, row by row."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def unpack_floats(text: str) -> NDArray[np.float32]:
    """The numbers of a text that `pack_floats` made, as a flat array.

    Raises:
        PydanticCustomError: it is not such a text.
    """
    return np.frombuffer(packed_bytes(text), "<f4").astype(np.float32)
