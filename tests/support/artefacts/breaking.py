"""Artefacts with a model that fails on white pictures only: it hangs, throws or allocates 256 TiB.

They pass every check at start, because its pictures are grey and noise. So they act like a device that fails later.
"""

from pathlib import Path

import numpy as np
import onnx
from graphs import edit_graph, write_artefact
from onnx import NodeProto, TensorProto, helper, numpy_helper

from model.contract import INPUT

node = helper.make_node


def _endless() -> list[NodeProto]:
    """A loop of 2^62 rounds."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["value", "one"], ["more"])],
        "rounds",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    return [
        node("Where", ["white", "endless", "none"], ["rounds"]),
        node("Loop", ["rounds", "", "zero"], ["broken"], body=body),
    ]


def _throwing() -> list[NodeProto]:
    """An index that is out of range."""
    return [node("Where", ["white", "endless", "none"], ["at"]), node("Gather", ["single", "at"], ["broken"])]


def _greedy() -> list[NodeProto]:
    """A tensor of 2^46 numbers."""
    return [
        node("Where", ["white", "huge", "few"], ["count"]),
        node("Reshape", ["count", "as_shape"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["room"]),
        node("ReduceMax", ["room"], ["broken"], keepdims=0),
    ]


WAYS = {"hangs": _endless, "throws": _throwing, "runs out of memory": _greedy}
_CONSTANTS: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
    "all_but_batch": np.array([1, 2, 3], np.int64),
    "brightest": np.array(255, np.int64),
    "endless": np.array(2**62, np.int64),
    "none": np.array(0, np.int64),
    "huge": np.array(2**46, np.int64),
    "few": np.array(1, np.int64),
    "as_shape": np.array([1], np.int64),
    "zero": np.array(0, np.float32),
    "single": np.array([0], np.float32),
}


def breaking_artefact(folder: Path, way: str) -> Path:
    """An artefact that keeps the contract until it is shown a white picture."""
    artefact = write_artefact(folder)
    model = onnx.load(artefact)
    nodes = list(model.graph.node)
    (last,) = (found for found in nodes if list(found.output) == ["logits"])
    last.output[0] = "sound_logits"
    added = [
        node("Cast", [INPUT], ["whole"], to=TensorProto.INT64),
        node("ReduceMin", ["whole", "all_but_batch"], ["darkest"], keepdims=0),  # (N,)
        node("ReduceMax", ["darkest"], ["brightest_of_them"], keepdims=0),
        node("Equal", ["brightest_of_them", "brightest"], ["white"]),
        *WAYS[way](),
        node("Mul", ["broken", "zero"], ["nothing"]),
        node("Add", ["sound_logits", "nothing"], ["logits"]),
    ]
    at = nodes.index(last) + 1
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *added, *nodes[at:]])
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items())
    onnx.checker.check_model(model)
    edit_graph(artefact, model)
    return artefact
