"""The data of one tensor to pictures, and numbers to the data of one tensor: as JSON, or as Triton's binary data.

Knows two datatypes in, BYTES and UINT8, and one out, FP32; lengths, shapes and byte order. Knows no message around a
tensor, no HTTP, and of a picture only how many bytes it has.
"""

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api.uploads.base64_text import decode_base64
from service.errors import InvalidTensor, MalformedBody

Shape = tuple[int, ...]
#: A file's bytes, or pixels: uint8, (S, S, 3) RGB. A view holds the whole body that it was cut from.
SentPicture = bytes | memoryview | NDArray[np.uint8]

_LENGTH = struct.Struct("<I")  # before each element of binary BYTES


def shape_of(found: Any) -> Shape:
    """A tensor's shape as it was sent.

    Raises:
        InvalidTensor: not a list of at most four whole numbers from 0 on.
    """
    if not isinstance(found, list) or len(found) > 4 or not all(type(size) is int and size >= 0 for size in found):
        raise InvalidTensor("a shape must be a list of at most four whole numbers that are not negative")
    return tuple(found)


def pixels_of(data: list[Any] | memoryview, shape: Shape) -> list[SentPicture]:
    """UINT8, flat or nested rows of JSON, or binary, to pictures: (N, S, S, 3) to N times (S, S, 3), without a copy.

    Raises:
        InvalidTensor: not as many numbers as the shape says, or not whole numbers of 0..255.
    """
    octets = data if isinstance(data, memoryview) else _octets(_flat(data, shape))
    if len(octets) != math.prod(shape):
        raise _other_count(len(octets), shape)
    return list(np.frombuffer(octets, np.uint8).reshape(shape))


def files_of(data: list[Any] | memoryview, shape: Shape) -> list[SentPicture]:
    """BYTES [N] or [N, 1], base64 in JSON or binary, to the bytes of N files.

    Raises:
        InvalidTensor: not as many elements as the shape says, not base64, or lengths at odds with the data.
    """
    count, files = math.prod(shape), data
    found: Sequence[SentPicture]
    if isinstance(files, memoryview):
        found = _binary_elements(files, count)
    else:
        found = _from_base64(_flat(files, shape))
    if len(found) != count:
        raise _other_count(len(found), shape)
    return list(found)


def json_numbers(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """FP32 as orjson writes it: flat, row by row, with the shortest digits that give the same float32 back."""
    return np.ascontiguousarray(values).ravel()


def binary_numbers(values: NDArray[np.float32]) -> memoryview:
    """FP32 as Triton's binary data: row by row, little-endian; on most machines the array's own memory."""
    return np.ascontiguousarray(values, dtype="<f4").reshape(-1).view(np.uint8).data


def _flat(data: list[Any], shape: Shape) -> list[Any]:
    """The elements of JSON data, in rows as deep as the shape has dimensions, or in fewer.

    Nothing but lists is taken apart, and nothing that holds more than the shape says: rows are never longer for it.
    """
    most = math.prod(shape)
    for _ in shape[1:]:
        if not data or type(data[0]) is not list:
            break
        if set(map(type, data)) != {list}:
            raise InvalidTensor("the data mixes rows with elements")
        if sum(map(len, data)) > most:
            raise _other_count(sum(map(len, data)), shape)
        data = list(chain.from_iterable(data))
    if len(data) > most:
        raise _other_count(len(data), shape)
    return data


def _octets(data: list[Any]) -> bytes:
    try:
        if set(map(type, data)) <= {int}:  # true is no number here
            return bytes(data)
    except ValueError:
        pass
    raise InvalidTensor("UINT8 data must be whole numbers of 0..255, flat or in rows")


def _other_count(count: int, shape: Shape) -> InvalidTensor:
    return InvalidTensor(f"the data has {count} elements, the shape {list(shape)} has {math.prod(shape)}")


def _from_base64(data: list[Any]) -> list[bytes]:
    found = []
    for index, element in enumerate(data):
        if not isinstance(element, str):
            raise InvalidTensor(f"element {index} of the data is not base64: it is no string")
        try:
            found.append(decode_base64(element))
        except MalformedBody as error:
            raise InvalidTensor(f"element {index} of the data is {error}") from None
    return found


def _binary_elements(data: memoryview, count: int) -> list[memoryview]:
    found: list[memoryview] = []
    at = 0
    while at < len(data):
        if len(found) == count:
            raise InvalidTensor(f"the binary data goes on after its {count} elements")
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, at)[0] if start <= len(data) else start
        if end > len(data):
            raise InvalidTensor(f"the binary data ends within element {len(found)}")
        found.append(data[start:end])
        at = end
    return found
