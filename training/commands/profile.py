"""The command `profile`: where the time of an exported model goes, by kind of operator and by part of the network.

Knows onnxruntime's profiler. Which node belongs to which part stands in training/export/graph_scopes.py.
"""

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import typer

from model.contract import INPUT, OUTPUTS
from training.compare.speed import processor
from training.evaluation.tables import Table
from training.export.graph_scopes import places, places_after
from training.terminal import console, show, told_plainly

#: The part of a node that onnxruntime has put in without a name.
INSERTED = "inserted"
_KERNEL = "_kernel_time"


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node of the optimised graph, and the least time that a run took for it."""

    operator: str
    part: str
    microseconds: float


def profile(
    path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An artefact.")],
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; may be repeated; default: 1 and 16.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="The least time of so many is taken, node by node.")] = 100,
) -> None:
    """Say where an exported model's time goes in onnxruntime on one thread: by operator, by part of the network."""
    batches = batch or [1, 16]
    with told_plainly():
        with console.status(f"profiling {path}"):
            found = {size: node_times(path, size, runs) for size in batches}
        for title, key in (("operator", _operator), ("part", _part)):
            show(_table(f"{path.name}: 1 thread of {processor()}, least of {runs} runs", title, found, key))


def node_times(path: Path, batch: int, runs: int) -> list[NodeTime]:
    """Run a model on drawn noise and give each node's least time.

    Raises:
        ValueError: onnxruntime cannot run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        try:
            model = _named(onnx.load(path))
            events = _events(model.SerializeToString(), batch, runs, optimised)
        except Exception as error:  # neither onnx's errors nor onnxruntime's have a class in common
            raise ValueError(f"{path}: onnxruntime cannot run it: {error}") from error
        part_of = places_after(onnx.load(optimised).graph, places(model.graph))
    return [NodeTime(operator, part_of.get(name, INSERTED), least) for (name, operator), least in events.items()]


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with every node named: onnxruntime reports the others under names that its own graph does not hold."""
    for at, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}:{at}"
    return model


def _events(model: bytes, batch: int, runs: int, optimised: Path) -> dict[tuple[str, str], float]:
    """(node, operator) → its least time in microseconds; leaves the graph that onnxruntime made in a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors; that an optimised graph is for this machine alone, is a warning
    options.enable_profiling = True
    options.profile_file_prefix = str(optimised.with_name("profile"))
    options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[1]
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    for _ in range(runs):
        session.run(list(OUTPUTS), {INPUT: images})
    found: dict[tuple[str, str], float] = {}
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            key = event["name"].removesuffix(_KERNEL), event["args"]["op_name"]
            found[key] = min(event["dur"], found.get(key, float("inf")))
    return found


def _operator(node: NodeTime) -> str:
    return node.operator


def _part(node: NodeTime) -> str:
    return node.part


def _table(title: str, heading: str, found: dict[int, list[NodeTime]], key: Callable[[NodeTime], str]) -> Table:
    """Rows by falling time at the first batch size; nodes, then a picture's microseconds and share by batch size."""
    sums = {batch: _sums(nodes, key) for batch, nodes in found.items()}
    first = next(iter(found))
    nodes = Counter(key(node) for node in found[first])
    rows = [
        (name, str(nodes[name]), *(cell for batch in found for cell in _cells(sums[batch], name, batch)))
        for name in sorted(sums[first], key=lambda name: -sums[first][name])
    ]
    total = [cell for batch in found for cell in (f"{sum(sums[batch].values()) / batch:.0f}", "100.0")]
    columns = (cell for batch in found for cell in (f"µs a picture, batch {batch}", "%"))
    return Table(title, (heading, "nodes", *columns), (*rows, ("all", str(nodes.total()), *total)), "")


def _sums(nodes: Iterable[NodeTime], key: Callable[[NodeTime], str]) -> dict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for node in nodes:
        sums[key(node)] += node.microseconds
    return sums


def _cells(sums: dict[str, float], name: str, batch: int) -> tuple[str, str]:
    spent = sums.get(name, 0.0)
    return f"{spent / batch:.0f}", f"{100 * spent / sum(sums.values()):.1f}"
