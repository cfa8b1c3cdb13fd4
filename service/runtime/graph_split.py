"""Split an ONNX graph into a trunk, which may be computed in bf16, and a head, which stays in fp32.

Needs the onnx package, which the extra `openvino` installs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import onnx
from onnx import ModelProto, NodeProto
from onnx.shape_inference import infer_shapes
from onnx.utils import Extractor

from model.contract import INPUT

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


class SplitGraph(NamedTuple):
    """Two graphs: images to `values`, and `values` to the outputs of the whole graph."""

    trunk: bytes
    head: bytes
    values: tuple[str, ...]


def split_graph(graph: bytes) -> SplitGraph:
    """Split before the last layers with weights on the way to an output.

    The head is these layers, all that follows them, and what lies between them and the layers with weights before:
    normalisation, pooling, class evidence, logits, softmax. Evidence and logits are then computed from the same
    features with the same precision. Depthwise convolutions do not count as layers with weights, because the mean
    over positions is exported as one.

    Raises:
        ValueError: the trunk would be empty.
    """
    model = infer_shapes(onnx.load_from_string(graph))
    values = tuple(_values(model))
    if not values:
        raise ValueError("the graph has no layers before its last ones, so none would be in bf16")
    parts = Extractor(model)
    trunk = parts.extract_model([INPUT], list(values))
    head = parts.extract_model(list(values), [output.name for output in model.graph.output])
    return SplitGraph(trunk.SerializeToString(), head.SerializeToString(), values)


def _values(model: ModelProto) -> Iterator[str]:
    """Names of the values that the head reads from the trunk, in the order in which they are computed."""
    ahead = _layers_ahead(model)
    of_head = [node for node in model.graph.node if all(ahead[name] <= 1 for name in node.output)]
    read = {name for node in of_head for name in node.input} - {name for node in of_head for name in node.output}
    from_image = {INPUT}
    for node in model.graph.node:
        if from_image.intersection(node.input):
            from_image.update(node.output)
            yield from read.intersection(node.output)


def _layers_ahead(model: ModelProto) -> dict[str, int]:
    """For each value the most layers with weights on a path from an input of its node to an output of the graph."""
    depthwise = _depthwise_weights(model)
    after: dict[str, int] = {}
    ahead: dict[str, int] = {}
    for node in reversed(model.graph.node):  # sorted: a value is computed before it is read
        count = max(after.get(name, 0) for name in node.output) + _is_layer(node, depthwise)
        ahead.update(dict.fromkeys(node.output, count))
        after.update({name: max(count, after.get(name, 0)) for name in node.input})
    return ahead


def _is_layer(node: NodeProto, depthwise: set[str]) -> bool:
    return node.op_type in _WEIGHTED and not depthwise.intersection(node.input)


def _depthwise_weights(model: ModelProto) -> set[str]:
    """Names of the convolutions' weights (C, 1, h, w), of one input channel each."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in model.graph.value_info:
        shapes.setdefault(value.name, [side.dim_value for side in value.type.tensor_type.shape.dim])
    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    return {name for name in weights if len(shapes.get(name, [])) == 4 and shapes[name][1] == 1}
