"""Field types and base class of the JSON documents about a model: manifest, drift reference, trust reference.

It does not import numpy, so that commands that only read a manifest start quickly.
"""

import base64
import binascii
import math
import struct
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat, StringConstraints
from pydantic_core import PydanticCustomError

Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Row = tuple[FiniteFloat, ...]


class Strict(BaseModel):
    """A document whose unknown keys are refused, and that does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def packed_bytes(text: str) -> bytes:
    """The little-endian float32 numbers of a packed array.

    Raises:
        PydanticCustomError: it is not base64, or not of whole numbers.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b"?"
    if len(content) % 4:
        raise PydanticCustomError("floats", "must be float32, little-endian, in base64")
    return content


def packed_count(text: str) -> int:
    """How many numbers a packed array has."""
    return len(packed_bytes(text)) // 4


def _check_packed(text: str) -> str:
    if not all(math.isfinite(value) for (value,) in struct.iter_unpack("<f", packed_bytes(text))):
        raise PydanticCustomError("floats", "must be finite")
    return text


#: An array of finite numbers as base64 of little-endian float32: a third of the size of decimal numbers.
PackedFloats = Annotated[str, AfterValidator(_check_packed)]
