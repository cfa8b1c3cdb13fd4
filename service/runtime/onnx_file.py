"""Check that an ONNX file is self-contained: hash and signature must cover all data, so none may be in another file.

Parses protobuf's wire format and the fields of onnx.proto (ONNX 1.19, IR version 13) that can name another file. The
onnx package could do it, and would add 40 MB to every service.
"""

from collections.abc import Iterator
from typing import Final, Literal

Message = Literal["model", "function", "graph", "training", "node", "attribute", "tensor", "sparse"]

#: Fields with messages that can contain a tensor.
_NESTED: Final[dict[Message, dict[int, Message]]] = {
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
#: Operator of a compiled engine, which the provider reads from the file that the node names.
_ENGINE = b"EPContext"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class NotOnnx(ValueError):
    """The bytes are not an ONNX file."""


def check_self_contained(graph: bytes) -> None:
    """Check that the graph refers to no other file.

    Raises:
        NotOnnx: it cannot be parsed as ONNX.
        ValueError: a tensor or an operator is stored in another file.
    """
    pending: list[tuple[Message, memoryview]] = [("model", memoryview(graph))]
    if not any(number == _MODEL_IR_VERSION for number, _, _ in _fields(pending[0][1])):
        raise NotOnnx("it has no ONNX IR version")
    while pending:
        kind, message = pending.pop()
        if kind == "tensor":
            _check_tensor(message)
            continue
        nested = _NESTED[kind]
        for number, value, content in _fields(message):
            if kind == "node" and number == _NODE_OP_TYPE and bytes(content or b"") == _ENGINE:
                raise ValueError(
                    "contains a compiled engine (EPContext), which can be in another file; export the graph without it"
                )
            if number in nested:
                if content is None:
                    raise NotOnnx(f"field {number} is the number {value} instead of a message")
                pending.append((nested[number], content))


def _check_tensor(message: memoryview) -> None:
    name, elsewhere = "", False
    for number, value, content in _fields(message):
        if number == _TENSOR_NAME and content is not None:
            name = bytes(content[:100]).decode("utf-8", "replace")
        elsewhere |= number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
    if elsewhere:
        raise ValueError(
            f"stores the tensor {name!r} in another file (ONNX external data), which hash and signature do not cover; "
            "save the model in one file"
        )


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | None]]:
    """Number, value and content of each field; content is None for a numeric field."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if tag >> 32 or not number:
            raise NotOnnx(f"invalid field tag {tag}")
        value, content = 0, None
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _BYTES:
            size, at = _varint(message, at)
            content, at = message[at : at + size], at + size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise NotOnnx(f"invalid wire type {wire}")
        if at > end:
            raise NotOnnx("it ends within a field")
        yield number, value, content


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise NotOnnx("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise NotOnnx("a number has more than 64 bits")
