"""An exported graph in half precision: fp16 inside, fp32 where rounding would show.

Knows ONNX graphs and the contract's names. Knows no torch and no network. In fp32 stay the preprocessing, every
softmax and all that leads to an output after the trunk's last convolution, so that evidence still adds up to the
logits. Input and outputs keep their types: whoever serves the fp32 graph serves this one.
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

from model.contract import CLASSES, INPUT, OUTPUTS
from training.drawn.painter import paint

#: Largest difference from the fp32 graph, relative to the output's largest value or to 1. fp16 keeps 11 bits, 5e-4 at
#: each step. Attention maps are stretched to 0..1, and their rounding with them.
RELATIVE_TOLERANCE = 2e-2
STRETCHED_TOLERANCE = 5e-2
LARGEST_INSIDE = float(np.finfo(np.float16).max) / 4
PROBES_PER_CLASS = 3
#: What multiplies by weights: between these lies what fp16 is for.
_HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

Outputs = dict[str, NDArray[np.float32]]


class HalfError(Exception):
    """The graph in fp16 does not do what the graph in fp32 does: which output, and by how much."""


def in_half(model: ModelProto, size: int) -> bytes:
    """The graph in fp16, once it has passed `check_half` and `check_range`.

    Args:
        size: S of the input, in pixels.

    Raises:
        HalfError: see there.
    """
    half = halved(model).SerializeToString()
    check_range(model, size)
    check_half(half, model.SerializeToString(), size)
    return half


def halved(model: ModelProto) -> ModelProto:
    """The same graph in fp16. The given one is left as it is."""
    source = _named(model)
    # Types of weights that stand here too are taken for halved ones, whether their node is or not.
    del source.graph.value_info[:]
    half = convert_float_to_float16(
        source,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"],
        node_block_list=sorted(_kept(source)),
    )
    half = _without_round_trips(half)
    onnx.checker.check_model(half, full_check=True)
    return half


def check_half(half: bytes, full: bytes, size: int) -> None:
    """Hold the fp16 graph against the fp32 graph on drawn cells, three of each class of Matek et al.

    Raises:
        HalfError: an output differs by more than 2 % of its largest value, attention by more than 5 %; or a cell whose
            two likeliest classes lie further apart than that 2 % in fp32 gets another class.
    """
    images = probe_cells(size)
    found, expected = _computed(half, images), _computed(full, images)
    for name in OUTPUTS:
        tolerance = STRETCHED_TOLERANCE if name == "attention" else RELATIVE_TOLERANCE
        allowed = tolerance * max(1.0, float(np.abs(expected[name]).max()))
        gap = float(np.abs(found[name] - expected[name]).max())
        if not gap <= allowed:  # also catches NaN
            raise HalfError(f"{name} in fp16: off by {gap:.2e}, allowed {allowed:.0e}")
    lost = int(np.sum(_decided(expected["logits"]) & (found["logits"].argmax(1) != expected["logits"].argmax(1))))
    if lost:
        raise HalfError(f"{lost} of {len(images)} drawn cells get another class in fp16")


def check_range(model: ModelProto, size: int) -> None:
    """Hold what is computed between the weights against the range of fp16, on the drawn cells, with room to spare.

    onnxruntime's CPU provider computes an fp16 graph in fp32 between its fp16 weights, so what overflows on a GPU does
    not overflow there.

    Raises:
        HalfError: a value inside the network comes within a factor of 4 of the largest that fp16 holds.
    """
    watched = _named(onnx.shape_inference.infer_shapes(model))
    kept = _kept(watched)
    inside = {name for node in watched.graph.node if node.name not in kept for name in node.output}
    floats = [value for value in watched.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    watched.graph.output.extend(value for value in floats if value.name in inside)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for image in probe_cells(size):
        for name, array in zip(names, session.run(names, {INPUT: image[None]}), strict=True):
            largest = float(np.abs(array).max())
            if not largest <= LARGEST_INSIDE:
                raise HalfError(f"{name} reaches {largest:.2e}; in fp16 no more than {LARGEST_INSIDE:.0f} is safe")


@cache
def probe_cells(size: int) -> NDArray[np.uint8]:
    """Drawn cells, (63, S, S, 3); drawn once, for they take seconds."""
    return np.stack([paint(entry.code, seed, size).picture for entry in CLASSES for seed in range(PROBES_PER_CLASS)])


def _decided(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    ordered = np.sort(logits, axis=1)
    return (ordered[:, -1] - ordered[:, -2]) > RELATIVE_TOLERANCE * max(1.0, float(np.abs(logits).max()))


def _computed(graph: bytes, images: NDArray[np.uint8]) -> Outputs:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {INPUT: images}), strict=True))


def _kept(model: ModelProto) -> set[str]:
    """Names of the nodes that stay in fp32: before the first weights, and from the last ones to an output."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    kept = {node.name for node in model.graph.node if not _has_weights_before(node, made_by)}
    for name in OUTPUTS:
        kept |= {node.name for node in _back_from(name, made_by, through_head=name in ("logits", "evidence"))}
    return kept


def _has_weights_before(node: NodeProto, made_by: dict[str, NodeProto]) -> bool:
    return node.op_type in _HEAVY or any(found.op_type in _HEAVY for found in _ancestors(node, made_by))


def _ancestors(node: NodeProto, made_by: dict[str, NodeProto]) -> Iterator[NodeProto]:
    seen: set[str] = set()
    waiting = list(node.input)
    while waiting:
        name = waiting.pop()
        if name in made_by and name not in seen:
            seen.add(name)
            yield made_by[name]
            waiting.extend(made_by[name].input)


def _back_from(output: str, made_by: dict[str, NodeProto], *, through_head: bool) -> Iterator[NodeProto]:
    """Nodes on the way to an output, back to the first that has weights; with the head, which has them, to the next."""
    seen: set[tuple[str, bool]] = set()
    waiting = [(output, through_head)]
    while waiting:
        name, may_pass = waiting.pop()
        if name not in made_by or (name, may_pass) in seen:
            continue
        seen.add((name, may_pass))
        node = made_by[name]
        if node.op_type in _HEAVY and not may_pass:
            continue
        yield node
        waiting.extend((source, may_pass and node.op_type not in _HEAVY) for source in node.input)


def _without_round_trips(model: ModelProto) -> ModelProto:
    """The converter goes through fp16 between two nodes that both stay in fp32, and before every output."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        before = made_by.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if before is not None and _casts_to(before, TensorProto.FLOAT16):
            node.CopyFrom(helper.make_node("Identity", [before.input[0]], list(node.output), name=node.name))
    tidied = ir.from_proto(model)
    passes.IdentityEliminationPass()(tidied)
    passes.RemoveUnusedNodesPass()(tidied)
    tidied.graph.sort()
    result = ir.to_proto(tidied)
    del result.graph.value_info[:]  # types of before; whoever loads the graph works them out
    return result


def _named(model: ModelProto) -> ModelProto:
    """A copy whose nodes differ in name, for that is what tells which are kept."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for index, node in enumerate(copy.graph.node):
        node.name = f"{index}_{node.name}"
    return copy


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(
        attribute.name == "to" and attribute.i == kind for attribute in node.attribute
    )
