"""An inference request's body to pictures and wishes, and computed outputs to the body of the answer. Pure.

Knows the protocol's JSON, Triton's binary tensor extension and the manifest. Knows no HTTP, no deadline's clock and no
model. What a request asks for and would not get is refused, never ignored: sequences, priorities, shared memory.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from model.contract import INPUT, OUTPUTS, Manifest
from service.api.uploads.json_text import read_json
from service.api.v2.tensors import SentPicture, Shape, binary_numbers, files_of, json_numbers, pixels_of, shape_of
from service.errors import BodyTooLarge, InvalidTensor, MalformedBody, TooManyPictures

#: JSON grows up to twenty times in memory when it is parsed; more than this goes as binary data.
MAX_JSON_BYTES = 16 * 1024 * 1024

#: A message has few; the rest is data.
MAX_JSON_MEMBERS = 1000

_REQUEST_PARAMETERS = ("timeout", "binary_data_output")
_INPUT_PARAMETERS = ("binary_data_size", "content_type")
_OUTPUT_PARAMETERS = ("binary_data",)
#: Of one number: in an array, and in JSON with sign, point, exponent and comma; enough to bound an answer beforehand.
_NUMBER_BYTES, _JSON_NUMBER_BYTES = 4, 16

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What one request sends and wants. `binary` says of each wanted output whether it goes as binary data."""

    pictures: list[SentPicture]
    binary: dict[str, bool]
    id: str | None = None
    timeout_s: float | None = None

    def answer_bytes(self, manifest: Manifest) -> int:
        """So many bytes at most will the numbers of the answer take in memory, as arrays and as what is sent."""
        return sum(
            len(self.pictures)
            * math.prod(row_shape(manifest, name))
            * (_NUMBER_BYTES + (0 if binary else _JSON_NUMBER_BYTES))
            for name, binary in self.binary.items()
        )


def row_shape(manifest: Manifest, output: str) -> Shape:
    """The shape of one picture's share of an output."""
    return tuple(int(size) for size in manifest.outputs[output][1:])


def parse(body: memoryview, json_bytes: int | None, manifest: Manifest, max_pictures: int) -> InferenceRequest:
    """A request's body; `json_bytes` of it are JSON and the rest is binary data, or all of it is JSON.

    Raises:
        MalformedBody: not the protocol's JSON, or shorter than its header says.
        InvalidTensor: an input, an output or a parameter that the model does not have.
        TooManyPictures, BodyTooLarge.
    """
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise MalformedBody(f"the body has {len(body)} bytes, of which {json_bytes} cannot be its JSON")
    document = _read_json(body[:json_bytes])
    rest = body[len(body) if json_bytes is None else json_bytes :]
    parameters = _parameters(document, "the request", _REQUEST_PARAMETERS)
    inputs = _member(document, "inputs", list, "the request")
    if len(inputs) != 1:
        raise InvalidTensor(f"the request has {len(inputs)} inputs; the model takes one, {INPUT}")
    return InferenceRequest(
        pictures=_pictures(_object(inputs[0], "an input"), rest, manifest, max_pictures),
        binary=_outputs(document, parameters),
        id=_member(document, "id", str, "the request", None),
        timeout_s=_timeout_s(parameters),
    )


def answer(
    request: InferenceRequest, manifest: Manifest, outputs: dict[str, NDArray[np.float32]]
) -> tuple[list[bytes | memoryview], int | None]:
    """The body of the answer in chunks, and how many bytes of it are JSON when binary data follows."""
    entries: list[Json] = []
    chunks: list[bytes | memoryview] = []
    for name, values in outputs.items():
        entry: Json = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if request.binary[name]:
            chunks.append(binary_numbers(values))
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = json_numbers(values)
        entries.append(entry)
    document: Json = {
        "model_name": manifest.name,
        "model_version": manifest.version,
        "parameters": {
            "sha256": manifest.sha256,
            "manifest_sha256": manifest.digest,
            "unsupported": ",".join(manifest.unsupported),
        },
        "outputs": entries,
    }
    if request.id is not None:
        document["id"] = request.id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return [head, *chunks], len(head) if chunks else None


def _read_json(head: memoryview) -> Json:
    if len(head) > MAX_JSON_BYTES:
        raise BodyTooLarge(MAX_JSON_BYTES, "the JSON (send pictures as binary data)")
    return _object(read_json(bytes(head), max_members=MAX_JSON_MEMBERS), "the request")


def _pictures(tensor: Json, rest: memoryview, manifest: Manifest, max_pictures: int) -> list[SentPicture]:
    if _member(tensor, "name", str, "an input") != INPUT:
        raise InvalidTensor(f"the model has no input of that name; it takes {INPUT}")
    datatype = _member(tensor, "datatype", str, "the input")
    shape = shape_of(tensor.get("shape"))
    size = manifest.preprocessing.input_size
    if datatype == "UINT8" and shape[1:] != (size, size, 3):
        raise InvalidTensor(f"UINT8 of the shape {list(shape)}; the model takes [N, {size}, {size}, 3]")
    if datatype == "BYTES" and (not shape or shape[1:] not in ((), (1,))):
        raise InvalidTensor(f"BYTES of the shape {list(shape)}; one picture an element, [N], is what is taken")
    if datatype not in ("UINT8", "BYTES"):
        raise InvalidTensor("the datatype must be BYTES (encoded pictures) or UINT8 (decoded ones)")
    if not shape[0]:
        raise InvalidTensor("there is no picture in the tensor")
    if shape[0] > max_pictures:
        raise TooManyPictures(max_pictures)
    data = _data(tensor, rest, datatype)
    return pixels_of(data, shape) if datatype == "UINT8" else files_of(data, shape)


def _data(tensor: Json, rest: memoryview, datatype: str) -> list[Any] | memoryview:
    """The tensor's own data: the JSON's, or what follows it, all of which must be the one tensor's."""
    parameters = _parameters(tensor, "the input", _INPUT_PARAMETERS)
    binary_bytes = _member(parameters, "binary_data_size", int, "the input's parameters", None)
    if binary_bytes is not None:
        if binary_bytes != len(rest) or tensor.get("data") is not None:
            raise InvalidTensor(
                f"binary_data_size is {binary_bytes} and {len(rest)} bytes follow the JSON; they must be the same, "
                "and there must be no data beside them (is Inference-Header-Content-Length right?)"
            )
        return rest
    if len(rest):
        raise InvalidTensor(f"{len(rest)} bytes follow the JSON, and the input has no binary_data_size")
    if datatype == "BYTES" and parameters.get("content_type") != "base64":
        raise InvalidTensor(
            'pictures are no text: send BYTES as binary data, or as base64 with the parameter "content_type": "base64"'
        )
    data: list[Any] = _member(tensor, "data", list, "the input")
    return data


def _outputs(document: Json, parameters: Json) -> dict[str, bool]:
    """The outputs that are wanted, in the order asked for, and whether each goes as binary data; all when none is."""
    binary_by_default = _member(parameters, "binary_data_output", bool, "the request's parameters", False)
    wanted: dict[str, bool] = {}
    for entry in _member(document, "outputs", list, "the request", []):
        output = _object(entry, "an output")
        name = _member(output, "name", str, "an output")
        if name not in OUTPUTS or name in wanted:
            raise InvalidTensor(f"an output is unknown or asked for twice; there are {', '.join(OUTPUTS)}")
        own = _parameters(output, "an output", _OUTPUT_PARAMETERS)
        wanted[name] = _member(own, "binary_data", bool, "an output's parameters", binary_by_default)
    return wanted or dict.fromkeys(OUTPUTS, binary_by_default)


def _timeout_s(parameters: Json) -> float | None:
    timeout_us = _member(parameters, "timeout", int, "the request's parameters", 0)
    if timeout_us < 0:
        raise InvalidTensor("the timeout must be a number of microseconds from 0 (none) on")
    return timeout_us / 1e6 or None


def _parameters(owner: Json, whose: str, known: tuple[str, ...]) -> Json:
    parameters: Json = _member(owner, "parameters", dict, whose, {})
    if not parameters.keys() <= set(known):
        raise InvalidTensor(f"{whose} has a parameter that is not honoured here; known are {', '.join(known)}")
    return parameters


def _object(found: Any, what: str) -> Json:
    if not isinstance(found, dict):
        raise MalformedBody(f"{what} must be a JSON object")
    return found


_REQUIRED: Any = object()


def _member(owner: Json, name: str, kind: type, whose: str, default: Any = _REQUIRED) -> Any:
    found = owner.get(name)  # null is as good as absent
    if found is None and default is _REQUIRED:
        raise MalformedBody(f"{whose} lacks {name}")
    if found is None:
        return default
    if type(found) is not kind:  # a bool is no int here
        raise MalformedBody(f"{name} of {whose} must be {_JSON_NAMES[kind]}")
    return found


_JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
}
