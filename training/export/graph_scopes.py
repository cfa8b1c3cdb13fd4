"""Which part of the network each node of an ONNX graph belongs to, told from the tensors that it computes with.

Knows ONNX graphs and how an artefact names its tensors. Knows no runtime and no network.
"""

import re
from collections.abc import Container, Iterable, Mapping

from onnx import GraphProto, NodeProto

#: Before any tensor of the network is met: from uint8 pictures to normalised planes.
FRONT = "front"
#: After the last of them: probabilities, and maps added up and scaled.
ANSWER = "answer"
_PART = re.compile(r"net\.((?:trunk\.blocks|stages)\.\d+|trunk\.[a-z_]+|[a-z_]+)")


def places(graph: GraphProto) -> dict[str, str]:
    """Value → the part of the network whose work it is: `trunk.blocks.3`, `stages.0`, `mlka`, `fusion`, `head`.

    A node belongs where its tensors do, whether it takes them as they are or computed from others. One without any
    belongs to what it takes first, as BatchNorms do, which runtimes fold into the convolution before; or to the answer
    where no tensor is met any more.
    """
    fixed = {initial.name: _part(initial.name) for initial in graph.initializer}
    moving = {value.name: FRONT for value in graph.input if value.name not in fixed}
    own: dict[str, str] = {}
    for node in graph.node:
        parts = [part for name in node.input if (part := fixed.get(name))]
        if not any(name in moving for name in node.input):
            fixed |= dict.fromkeys(node.output, next(iter(parts), ""))
            continue
        before = next(moving[name] for name in node.input if name in moving)
        if parts and node.op_type != "BatchNormalization":
            own |= dict.fromkeys(node.output, parts[0])
            before = parts[0]
        moving |= dict.fromkeys(node.output, before)
    feeding = _feeding(graph.node, own)
    return {value: part if value in own or value in feeding else ANSWER for value, part in moving.items()}


def _part(name: str) -> str:
    found = _PART.match(name)
    return found.group(1) if found else ""


def _feeding(nodes: Iterable[NodeProto], own: Container[str]) -> set[str]:
    """The values that something with tensors of its own is computed from."""
    feeding: set[str] = set()
    for node in reversed(list(nodes)):
        if any(output in feeding or output in own for output in node.output):
            feeding |= set(node.input)
    return feeding


def places_after(optimised: GraphProto, known: Mapping[str, str]) -> dict[str, str]:
    """Node → part, in the graph that a runtime has made of another; known: value → part, there.

    Runtimes keep the name of a value that several fused nodes end in. What they put in between, reordering, belongs to
    what it takes, or, after the picture itself, to what takes it.
    """
    found: dict[str, str] = {}
    part_of = dict(known)
    for node in optimised.node:
        named = [part_of[name] for name in (_original(node.name), *node.output) if name in part_of]
        taken = [part_of[name] for name in node.input if name in part_of]
        part = next(iter((*named, *taken)), FRONT)
        found[node.name] = part
        for output in node.output:
            part_of.setdefault(output, part)
    return found


def _original(name: str) -> str:
    """The value that a node of onnxruntime's blocked layout was named for."""
    return name.removesuffix("_nchwc").removesuffix("_bn").removesuffix("_mul")
