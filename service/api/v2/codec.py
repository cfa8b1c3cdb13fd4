"""Open Inference Protocol messages: a request body to pictures and options, computed outputs to an answer body.

JSON, and Triton's binary tensor data extension. Pure: no HTTP, no clock, no model. Requested features that do not exist
here (sequences, priorities, shared memory) are rejected, not ignored.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from model.contract import ATTENTION, INPUT, Manifest
from service.api.uploads.json_text import decode_base64, read_json
from service.api.v2.outputs import Shape, output_names, row_shape
from service.errors import BodyTooLarge, InvalidTensor, MalformedBody, TooManyPictures

#: JSON takes up to twenty times its size in memory when it is parsed. Larger tensors are sent as binary data.
MAX_JSON_BYTES = 16 * 1024 * 1024
#: Members of one message, which needs few.
MAX_JSON_MEMBERS = 1000

_REQUEST_PARAMETERS = ("timeout", "binary_data_output")
_INPUT_PARAMETERS = ("binary_data_size", "content_type")
_OUTPUT_PARAMETERS = ("binary_data",)
#: Bytes of one number: in an array, and in JSON with sign, point, exponent and comma (an upper bound).
_NUMBER_BYTES, _JSON_NUMBER_BYTES = 4, 16
#: The length before each element of binary BYTES.
_LENGTH = struct.Struct("<I")

Json = dict[str, Any]
#: The bytes of a picture file, or pixels: uint8, (S, S, 3) RGB. A view keeps the whole body in memory.
TensorPicture = bytes | memoryview | NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The pictures and options of one request. `binary` says for each requested output if it is binary data."""

    pictures: list[TensorPicture]
    binary: dict[str, bool]
    id: str | None = None
    timeout_s: float | None = None

    def answer_bytes(self, manifest: Manifest) -> int:
        """Upper bound of the memory for the numbers of the answer, as arrays and as encoded body."""
        return sum(
            len(self.pictures)
            * math.prod(row_shape(manifest, name))
            * (_NUMBER_BYTES + (0 if binary else _JSON_NUMBER_BYTES))
            for name, binary in self.binary.items()
        )


def optional_parameters(manifest: Manifest) -> dict[str, str]:
    """Parameters that only some models have: the inert parts, separated by commas, and the laboratory's thresholds."""
    found = {"inert": ",".join(manifest.inert), "site_trust_sha256": manifest.site_trust_sha256 or ""}
    return {name: text for name, text in found.items() if text}


def parse_request(body: memoryview, json_bytes: int | None, manifest: Manifest, max_pictures: int) -> InferenceRequest:
    """Parse a request body: `json_bytes` of JSON, then binary data; without `json_bytes` all of it is JSON.

    Raises:
        MalformedBody: not the protocol's JSON, or shorter than its header says.
        InvalidTensor: an input, output or parameter that the model does not have.
        TooManyPictures, BodyTooLarge.
    """
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise MalformedBody(f"the header says {json_bytes} bytes of JSON, but the body has {len(body)} bytes")
    document = _read_json(body[:json_bytes])
    rest = body[len(body) if json_bytes is None else json_bytes :]
    parameters = _parameters(document, "the request", _REQUEST_PARAMETERS)
    inputs = _member(document, "inputs", list, "the request")
    if len(inputs) != 1:
        raise InvalidTensor(f"the request has {len(inputs)} inputs; the model takes one, {INPUT}")
    return InferenceRequest(
        pictures=_pictures(_object(inputs[0], "an input"), rest, manifest, max_pictures),
        binary=_outputs(document, parameters, output_names(manifest)),
        id=_member(document, "id", str, "the request", None),
        timeout_s=_timeout_s(parameters),
    )


def encode_answer(
    request: InferenceRequest, manifest: Manifest, outputs: dict[str, NDArray[np.float32]]
) -> tuple[list[bytes | memoryview], int | None]:
    """The answer body in chunks, and the number of JSON bytes in it if binary data follows."""
    entries: list[Json] = []
    chunks: list[bytes | memoryview] = []
    for name, values in outputs.items():
        entry: Json = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if request.binary[name]:
            # Row by row, little-endian; on most machines the array's own memory.
            chunks.append(np.ascontiguousarray(values, dtype="<f4").reshape(-1).view(np.uint8).data)
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = np.ascontiguousarray(values).ravel()  # orjson writes the shortest digits of a float32
        entries.append(entry)
    document: Json = {
        "model_name": manifest.name,
        "model_version": manifest.version,
        "parameters": {
            "sha256": manifest.sha256,
            "manifest_sha256": manifest.digest,
            "unsupported": ",".join(manifest.unsupported),
            **optional_parameters(manifest),
        },
        "outputs": entries,
    }
    if request.id is not None:
        document["id"] = request.id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return [head, *chunks], len(head) if chunks else None


# The message


def _read_json(head: memoryview) -> Json:
    if len(head) > MAX_JSON_BYTES:
        raise BodyTooLarge(MAX_JSON_BYTES, "the JSON (send pictures as binary data)")
    return _object(read_json(bytes(head), max_members=MAX_JSON_MEMBERS), "the request")


def _pictures(tensor: Json, rest: memoryview, manifest: Manifest, max_pictures: int) -> list[TensorPicture]:
    if _member(tensor, "name", str, "an input") != INPUT:
        raise InvalidTensor(f"unknown input name; the model takes {INPUT}")
    datatype = _member(tensor, "datatype", str, "the input")
    shape = parse_shape(tensor.get("shape"))
    size = manifest.preprocessing.input_size
    if datatype == "UINT8" and shape[1:] != (size, size, 3):
        raise InvalidTensor(f"UINT8 of the shape {list(shape)}; the model takes [N, {size}, {size}, 3]")
    if datatype == "BYTES" and (not shape or shape[1:] not in ((), (1,))):
        raise InvalidTensor(f"BYTES of the shape {list(shape)}; send one picture per element, [N]")
    if datatype not in ("UINT8", "BYTES"):
        raise InvalidTensor("the datatype must be BYTES (encoded pictures) or UINT8 (decoded pictures)")
    if not shape[0]:
        raise InvalidTensor("the tensor holds no picture; send at least one")
    if shape[0] > max_pictures:
        raise TooManyPictures(max_pictures)
    data = _data(tensor, rest, datatype)
    return decode_uint8(data, shape) if datatype == "UINT8" else decode_files(data, shape)


def _data(tensor: Json, rest: memoryview, datatype: str) -> list[Any] | memoryview:
    """The tensor's data: from the JSON, or all bytes that follow it."""
    parameters = _parameters(tensor, "the input", _INPUT_PARAMETERS)
    binary_bytes = _member(parameters, "binary_data_size", int, "the input's parameters", None)
    if binary_bytes is not None:
        if tensor.get("data") is not None:
            raise InvalidTensor("the input has both binary_data_size and data; send only one of them")
        if binary_bytes != len(rest):
            raise InvalidTensor(
                f"binary_data_size is {binary_bytes}, but {len(rest)} bytes follow the JSON; check both it and "
                "Inference-Header-Content-Length"
            )
        return rest
    if len(rest):
        raise InvalidTensor(f"{len(rest)} bytes follow the JSON, but the input has no binary_data_size")
    if datatype == "BYTES" and parameters.get("content_type") != "base64":
        raise InvalidTensor(
            'BYTES in JSON must be base64; add the parameter "content_type": "base64", or send binary data'
        )
    data: list[Any] = _member(tensor, "data", list, "the input")
    return data


def _outputs(document: Json, parameters: Json, names: Sequence[str]) -> dict[str, bool]:
    """The requested outputs in order, and if each is binary data. Without a request: all outputs."""
    binary_by_default = _member(parameters, "binary_data_output", bool, "the request's parameters", False)
    requested: dict[str, bool] = {}
    for entry in _member(document, "outputs", list, "the request", []):
        output = _object(entry, "an output")
        name = _member(output, "name", str, "an output")
        if name == ATTENTION and name not in names:
            raise InvalidTensor("this model has no attention maps; request evidence")
        if name not in names or name in requested:
            raise InvalidTensor(f"an output is unknown or requested twice; the outputs are {', '.join(names)}")
        own = _parameters(output, "an output", _OUTPUT_PARAMETERS)
        requested[name] = _member(own, "binary_data", bool, "an output's parameters", binary_by_default)
    return requested or dict.fromkeys(names, binary_by_default)


def _timeout_s(parameters: Json) -> float | None:
    timeout_us = _member(parameters, "timeout", int, "the request's parameters", 0)
    if timeout_us < 0:
        raise InvalidTensor(f"timeout {timeout_us} is negative; send microseconds, or 0 for none")
    return timeout_us / 1e6 or None


def _parameters(owner: Json, owner_name: str, known: tuple[str, ...]) -> Json:
    parameters: Json = _member(owner, "parameters", dict, owner_name, {})
    if not parameters.keys() <= set(known):
        raise InvalidTensor(f"{owner_name} has an unsupported parameter; supported are {', '.join(known)}")
    return parameters


def _object(found: Any, what: str) -> Json:
    if not isinstance(found, dict):
        raise MalformedBody(f"{what} must be a JSON object")
    return found


_REQUIRED: Any = object()


def _member(owner: Json, name: str, kind: type, owner_name: str, default: Any = _REQUIRED) -> Any:
    """A member of the given type. null counts as absent, and a bool is not an int."""
    found = owner.get(name)
    if found is None and default is _REQUIRED:
        raise MalformedBody(f"{owner_name} has no {name}; add it")
    if found is None:
        return default
    if type(found) is not kind:
        raise MalformedBody(f"{name} of {owner_name} must be {_JSON_NAMES[kind]}")
    return found


_JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    list: "an array",
    dict: "an object",
}


# The tensors


def parse_shape(found: Any) -> Shape:
    """A tensor's shape.

    Raises:
        InvalidTensor: not a list of at most four integers from 0.
    """
    if not isinstance(found, list) or len(found) > 4 or not all(type(size) is int and size >= 0 for size in found):
        raise InvalidTensor("a shape must be a list of at most four integers that are not negative")
    return tuple(found)


def decode_uint8(data: list[Any] | memoryview, shape: Shape) -> list[TensorPicture]:
    """UINT8 data (JSON, flat or in rows; or binary) of shape (N, S, S, 3) to N pictures (S, S, 3), without a copy.

    Raises:
        InvalidTensor: the number of elements differs from the shape, or an element is not an integer of 0..255.
    """
    octets = data if isinstance(data, memoryview) else _octets(_flat(data, shape))
    if len(octets) != math.prod(shape):
        raise _wrong_count(len(octets), shape)
    return list(np.frombuffer(octets, np.uint8).reshape(shape))


def decode_files(data: list[Any] | memoryview, shape: Shape) -> list[TensorPicture]:
    """BYTES data (base64 in JSON, or binary) of shape [N] or [N, 1] to the bytes of N files.

    Raises:
        InvalidTensor: the number of elements differs from the shape, or an element is not base64 or is cut off.
    """
    count = math.prod(shape)
    found: Sequence[TensorPicture]
    found = _binary_elements(data, count) if isinstance(data, memoryview) else _decode_base64(_flat(data, shape))
    if len(found) != count:
        raise _wrong_count(len(found), shape)
    return list(found)


def _flat(data: list[Any], shape: Shape) -> list[Any]:
    """The elements of JSON data, flat or in rows as deep as the shape. Never flattens more than the shape holds."""
    most = math.prod(shape)
    for _ in shape[1:]:
        if not data or type(data[0]) is not list:
            break
        if set(map(type, data)) != {list}:
            raise InvalidTensor("the data mixes rows with single elements; send it flat, or in rows throughout")
        if sum(map(len, data)) > most:
            raise _wrong_count(sum(map(len, data)), shape)
        data = list(chain.from_iterable(data))
    if len(data) > most:
        raise _wrong_count(len(data), shape)
    return data


def _octets(data: list[Any]) -> bytes:
    try:
        if set(map(type, data)) <= {int}:  # excludes true and false
            return bytes(data)
    except ValueError:
        pass
    raise InvalidTensor("UINT8 data must be integers of 0..255, flat or in rows")


def _wrong_count(count: int, shape: Shape) -> InvalidTensor:
    return InvalidTensor(f"the data has {count} elements, but the shape {list(shape)} has {math.prod(shape)}")


def _decode_base64(data: list[Any]) -> list[bytes]:
    found = []
    for index, element in enumerate(data):
        if not isinstance(element, str):
            raise InvalidTensor(f"element {index} of the data is not base64: it is not a string")
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
            raise InvalidTensor(f"there is more binary data after its {count} elements")
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, at)[0] if start <= len(data) else start
        if end > len(data):
            raise InvalidTensor(f"the binary data ends within element {len(found)}")
        found.append(data[start:end])
        at = end
    return found
