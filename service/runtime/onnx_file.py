"""Whether an ONNX file is self-contained: all data are in its own bytes, which hash and signature cover.

Knows protobuf's wire format and the few fields of onnx.proto (ONNX 1.19, IR version 13) by which a file can name
another one. The onnx package reads them too, and would add 40 MB to every service. What is not ONNX is refused.
"""

from collections.abc import Iterator
from typing import Final, Literal

Message = Literal["model", "function", "graph", "training", "node", "attribute", "tensor", "sparse"]

#: Fields that hold further messages in which a tensor may be.
_INSIDE: Final[dict[Message, dict[int, Message]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_NODE_OP_TYPE, _MODEL_IR_VERSION = 4, 1
#: A compiled engine in place of a graph, which the provider reads from a file that the node names.
_ENGINE = b"EPContext"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class NotOnnx(ValueError):
    """The bytes are not those of an ONNX file."""


def check_self_contained(graph: bytes) -> None:
    """Return when the file names no other one.

    Raises:
        NotOnnx: it cannot be read as ONNX.
        ValueError: a tensor or an operator in it is to be read from elsewhere.
    """
    waiting: list[tuple[Message, memoryview]] = [("model", memoryview(graph))]
    if not any(number == _MODEL_IR_VERSION for number, _, _ in _fields(waiting[0][1])):
        raise NotOnnx("it has no version of ONNX")
    while waiting:
        kind, message = waiting.pop()
        if kind == "tensor":
            _check_tensor(message)
            continue
        inside = _INSIDE[kind]
        for number, value, content in _fields(message):
            if kind == "node" and number == _NODE_OP_TYPE and bytes(content or b"") == _ENGINE:
                raise ValueError("holds a compiled engine (EPContext), which can lie in another file; export the graph")
            if number in inside:
                if content is None:
                    raise NotOnnx(f"field {number} is {value}, and no message")
                waiting.append((inside[number], content))


def _check_tensor(message: memoryview) -> None:
    name, elsewhere = "", False
    for number, value, content in _fields(message):
        if number == _TENSOR_NAME and content is not None:
            name = bytes(content[:100]).decode("utf-8", "replace")
        elsewhere |= number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
    if elsewhere:
        raise ValueError(
            f"has the tensor {name!r} in another file (ONNX external data), which neither hash nor signature covers; "
            "save the model with its data inside"
        )


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | None]]:
    """Number, value and content of each field; a number's content is None."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if tag >> 32 or not number:
            raise NotOnnx(f"no field has the tag {tag}")
        value, content = 0, None
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _BYTES:
            size, at = _varint(message, at)
            content, at = message[at : at + size], at + size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise NotOnnx(f"no field is of wire type {wire}")
        if at > end:
            raise NotOnnx("it ends in the middle of a field")
        yield number, value, content


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise NotOnnx("it ends in the middle of a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise NotOnnx("a number has more than 64 bits")
