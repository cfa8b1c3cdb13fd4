"""Field types and base class of the JSON documents about a model: manifest, drift reference, trust reference."""

import base64
import binascii
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FiniteFloat,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Row = tuple[FiniteFloat, ...]


class Strict(BaseModel):
    """A document whose unknown keys are refused, and that does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def unpack_floats(text: str) -> NDArray[np.float32]:
    """The numbers of a text that `pack_floats` made, as a flat array.

    Raises:
        PydanticCustomError: it is not such a text.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except (binascii.Error, ValueError) as error:
        raise PydanticCustomError("floats", "must be float32, little-endian, in base64") from error


def pack_floats(values: NDArray[np.float32]) -> str:
    """Base64 of little-endian float32: a third of the size of decimal numbers."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _array(given: object) -> NDArray[np.float32]:
    return given if isinstance(given, np.ndarray) else unpack_floats(str(given))


def _check_packed(text: str) -> str:
    if not np.isfinite(unpack_floats(text)).all():
        raise PydanticCustomError("floats", "must be finite")
    return text


#: A flat array, in JSON pack_floats.
Floats = Annotated[NDArray[np.float32], PlainValidator(_array), PlainSerializer(pack_floats, return_type=str)]
#: A pack_floats array of finite numbers that stays text, so that documents can be compared.
PackedFloats = Annotated[str, AfterValidator(_check_packed)]
