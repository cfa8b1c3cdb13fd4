"""Conversion of an exported graph to fp16, and its checks.

These stay in fp32: the preprocessing, every softmax, the scores of the attention pooling, and everything between the
last convolution of the trunk and an output, so that evidence still sums to the logits. Input and outputs keep their
types.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from model.contract import CLASSES, INPUT
from training.drawn.painter import paint

#: Largest difference to the fp32 graph, relative to the largest value of the output or to 1. fp16 has 11 significant
#: bits: 5e-4 at each step. Scaling attention maps to 0..1 also scales their rounding errors.
RELATIVE_TOLERANCE = 2e-2
ATTENTION_TOLERANCE = 5e-2
MAX_ACTIVATION = float(np.finfo(np.float16).max) / 4
CELLS_PER_CLASS = 3
#: Operators with weights. Nodes between the first and the last of them are converted.
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

#: Names of the weights of `model.heads.AttentionPooling` begin with this.
_POOLING = "net.pooling."

Outputs = dict[str, NDArray[np.float32]]


class Fp16Error(Exception):
    """The fp16 graph differs too much from the fp32 graph: which output, and by how much."""


def fp16_graph(model: ModelProto, size: int) -> bytes:
    """The graph in fp16, checked by `check_range` and `check_parity`.

    Args:
        size: input size S in pixels.

    Raises:
        Fp16Error: a check fails.
    """
    converted = to_fp16(model).SerializeToString()
    check_range(model, size)
    check_parity(converted, model.SerializeToString(), size)
    return converted


def to_fp16(model: ModelProto) -> ModelProto:
    """A copy of the graph in fp16."""
    source = _with_unique_names(model)
    del source.graph.value_info[:]  # the converter would treat weights listed here as fp16, even those kept in fp32
    converted = convert_float_to_float16(
        source,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"],
        node_block_list=sorted(_fp32_nodes(source)),
    )
    converted = _without_round_trips(converted)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def check_parity(fp16: bytes, fp32: bytes, size: int) -> None:
    """Compare the fp16 graph with the fp32 graph on drawn cells, three of each class of Matek et al.

    Raises:
        Fp16Error: an output differs by more than 2 % of its largest value, attention by more than 5 %; or a cell gets
            another class although its two highest logits differ by more than 2 % of the largest in fp32.
    """
    images = drawn_cells(size)
    actual, expected = _run(fp16, images), _run(fp32, images)
    for name in expected:
        tolerance = ATTENTION_TOLERANCE if name == "attention" else RELATIVE_TOLERANCE
        allowed = tolerance * max(1.0, float(np.abs(expected[name]).max()))
        difference = float(np.abs(actual[name] - expected[name]).max())
        if not difference <= allowed:  # also true for NaN
            raise Fp16Error(f"{name} in fp16: off by {difference:.2e}, allowed {allowed:.0e}")
    other = actual["logits"].argmax(1) != expected["logits"].argmax(1)
    changed = int(np.sum(_has_margin(expected["logits"]) & other))
    if changed:
        raise Fp16Error(f"{changed} of {len(images)} drawn cells get another class in fp16")


def check_range(model: ModelProto, size: int) -> None:
    """Check that activations of the drawn cells stay within the range of fp16, with a factor of 4 to spare.

    Measured in the fp32 graph: the CPU provider of onnxruntime computes an fp16 graph in fp32, so an overflow on a GPU
    would not show there.

    Raises:
        Fp16Error: an activation exceeds a quarter of the largest fp16 value.
    """
    probe = _with_unique_names(onnx.shape_inference.infer_shapes(model))
    fp32_nodes = _fp32_nodes(probe)
    converted = {name for node in probe.graph.node if node.name not in fp32_nodes for name in node.output}
    floats = [value for value in probe.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    probe.graph.output.extend(value for value in floats if value.name in converted)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for image in drawn_cells(size):
        for name, array in zip(names, session.run(names, {INPUT: image[None]}), strict=True):
            largest = float(np.abs(array).max())
            if not largest <= MAX_ACTIVATION:
                raise Fp16Error(f"{name} reaches {largest:.2e}; at most {MAX_ACTIVATION:.0f} is safe in fp16")


@cache
def drawn_cells(size: int) -> NDArray[np.uint8]:
    """Drawn cells, (63, S, S, 3); cached, since drawing takes seconds."""
    return np.stack([paint(entry.code, seed, size).picture for entry in CLASSES for seed in range(CELLS_PER_CLASS)])


def _has_margin(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the two highest logits of a picture differ by more than the tolerance, (N,)."""
    ordered = np.sort(logits, axis=1)
    return (ordered[:, -1] - ordered[:, -2]) > RELATIVE_TOLERANCE * max(1.0, float(np.abs(logits).max()))


def _run(graph: bytes, images: NDArray[np.uint8]) -> Outputs:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: images}), strict=True))


Producers = dict[str, NodeProto]  # value → the node that computes it


def _fp32_nodes(model: ModelProto) -> set[str]:
    """Names of the nodes that stay in fp32: before the first weights, and between the last weights and an output."""
    producers = {name: node for node in model.graph.node for name in node.output}
    names = {node.name for node in model.graph.node if not _after_weights(node, producers)}
    for output in model.graph.output:
        tail = _tail(output.name, producers, through_head=output.name in ("logits", "evidence"))
        names |= {node.name for node in tail}
    return names | {node.name for node in _pooling_scores(model, producers)}


def _pooling_scores(model: ModelProto, producers: Producers) -> Iterator[NodeProto]:
    """Nodes from the pooling's first weights to its scores: a gate turns a difference of 0.1 into one of 10 %."""
    own = {node.name for node in model.graph.node if any(name.startswith(_POOLING) for name in node.input)}
    for score in (node for node in model.graph.node if f"{_POOLING}score.weight" in node.input):
        for node in (score, *_ancestors(score, producers)):
            if node.name in own or any(a.name in own for a in _ancestors(node, producers)):
                yield node


def _after_weights(node: NodeProto, producers: Producers) -> bool:
    return node.op_type in _WEIGHTED or any(a.op_type in _WEIGHTED for a in _ancestors(node, producers))


def _ancestors(node: NodeProto, producers: Producers) -> Iterator[NodeProto]:
    visited: set[str] = set()
    pending = list(node.input)
    while pending:
        name = pending.pop()
        if name in producers and name not in visited:
            visited.add(name)
            yield producers[name]
            pending.extend(producers[name].input)


def _tail(output: str, producers: Producers, *, through_head: bool) -> Iterator[NodeProto]:
    """Nodes between the last weights and an output; `through_head`: also the head, whose weights are the last."""
    visited: set[tuple[str, bool]] = set()
    pending = [(output, through_head)]
    while pending:
        name, pass_weights = pending.pop()
        if name not in producers or (name, pass_weights) in visited:
            continue
        visited.add((name, pass_weights))
        node = producers[name]
        if node.op_type in _WEIGHTED and not pass_weights:
            continue
        yield node
        pending.extend((source, pass_weights and node.op_type not in _WEIGHTED) for source in node.input)


def _without_round_trips(model: ModelProto) -> ModelProto:
    """Remove casts to fp16 and back, which the converter inserts between fp32 nodes and before every output."""
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        before = producers.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if before is not None and _casts_to(before, TensorProto.FLOAT16):
            node.CopyFrom(helper.make_node("Identity", [before.input[0]], list(node.output), name=node.name))
    tidied = ir.from_proto(model)
    passes.IdentityEliminationPass()(tidied)
    passes.RemoveUnusedNodesPass()(tidied)
    tidied.graph.sort()
    result = ir.to_proto(tidied)
    del result.graph.value_info[:]  # outdated types; inferred when the graph is loaded
    return result


def _with_unique_names(model: ModelProto) -> ModelProto:
    """A copy with unique node names, by which nodes are kept in fp32."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for index, node in enumerate(copy.graph.node):
        node.name = f"{index}_{node.name}"
    return copy


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(
        attribute.name == "to" and attribute.i == kind for attribute in node.attribute
    )
