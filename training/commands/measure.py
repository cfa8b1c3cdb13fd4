"""The command `size`: what a training will take, before a device is asked for.

Knows arguments and messages.
"""

import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import onnx
import onnxruntime
import typer

from model.contract import INPUT, OUTPUTS
from training import pipeline
from training.compare.speed import processor
from training.config import Config, DistilConfig, read_config
from training.evaluation.tables import Table
from training.export.cost import graph_scopes, optimised_graph_scopes
from training.run import RunFolder, TrainingStopped
from training.terminal import console, print_table, report_errors

if TYPE_CHECKING:
    from training.data.wait_times import Waits
    from training.fit.train import Execution


def size(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's configuration.")],
    pictures: Annotated[int, typer.Option(min=1, help="Training pictures an epoch.")],
    devices: Annotated[int, typer.Option(min=1, help="GPUs that share every batch.")] = 1,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts in which a device takes its share of a batch.")] = 1,
    tera_operations: Annotated[float, typer.Option(min=0.001, help="A second, at most, of a device.")] = 312,
    utilisation: Annotated[float, typer.Option(min=0.001, max=1, help="Share of them that is reached.")] = 0.05,
) -> None:
    """Size a training on paper: parameters, multiply-adds, memory and hours. Runs nothing."""
    with report_errors():
        table = size_table(config_path, pictures, devices, accumulate, tera_operations, utilisation)
    print_table(table)


def size_table(
    config_path: Path, pictures: int, devices: int, accumulate: int, tera_operations: float, utilisation: float
) -> Table:
    """What `size` shows.

    Raises:
        ConfigError: the configuration cannot be used.
        ValueError: it names no network.
    """
    from training.export.cost import training_budget

    config = read_config(config_path)
    planned, fit = training_budget(config, pictures), config.fit
    at_a_time = fit.batch_size // (devices * accumulate)
    hours = planned.hours(devices, tera_operations, utilisation)
    rows = (
        ("parameters", f"{planned.parameters / 1e6:.2f} M"),
        (f"multiply-adds, one picture of {config.model.input_size} px forward", _large(planned.multiply_adds)),
        (f"kept of one picture for the backward pass ({fit.precision})", f"{planned.kept_bytes / 1e6:.1f} MB"),
        (f"memory of a device, {at_a_time} pictures at a time", f"{planned.device_bytes(at_a_time) / 1e9:.1f} GB"),
        (f"decoded pictures on disk, {pictures}", f"{planned.cache_bytes / 1e9:.1f} GB"),
        (f"operations, {fit.epochs + sum(fit.restarts)} epochs", f"{planned.training_operations:.3g}"),
        (f"hours, {devices} x {tera_operations:g} tera-operations/s at {utilisation:.0%}", f"{hours:.1f}"),
    )
    note = "Counted, not run: the utilisation is an assumption; teachers, augmentation and reading are left out."
    return Table(f"{config.name} {config.version}, {config.model.variant}", ("what", "how much"), rows, note)


def _large(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e8 else f"{count / 1e6:.1f} M"


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
    with report_errors():
        with console.status(f"profiling {path}"):
            found = {size: node_times(path, size, runs) for size in batches}
        for title, key in (("operator", _operator), ("part", _part)):
            print_table(_table(f"{path.name}: 1 thread of {processor()}, least of {runs} runs", title, found, key))


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
        part_of = optimised_graph_scopes(onnx.load(optimised).graph, graph_scopes(model.graph))
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


#: The first steps claim memory and start workers.
LEFT_OUT = 2


def feed(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's configuration.")],
    data: Annotated[Path, typer.Option("--data", help="Folder that the sources' folders lie in.")] = Path("."),
    cache: Annotated[Path | None, typer.Option("--cache", help="Decoded pictures; default: decoded anew.")] = None,
    take: Annotated[int, typer.Option("--steps", min=LEFT_OUT + 1, help="Steps that are taken.")] = 40,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts in which a device takes its share of a batch.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes a device that read pictures ahead.")] = 0,
    cold: Annotated[bool, typer.Option("--cold", help="Read from the disk, as the first epoch may have to.")] = False,
) -> None:
    """Take a few steps of a training and say how much of them waited for pictures. Keeps nothing."""
    with report_errors(), tempfile.TemporaryDirectory() as folder:
        from training.data.wait_times import Waits
        from training.fit.module import OVERSIZE
        from training.fit.train import Execution

        run, config = RunFolder(Path(folder) / "run"), bare(read_config(config_path))
        kept, execution, waits = cache or run.cache, Execution(1, accumulate, workers, steps=take), Waits()
        parts = pipeline.start_run(config, config_path.read_text(encoding="utf-8"), run, data, kept)
        if cold:
            pipeline.decode_block(config, parts, "train", round(config.model.input_size * OVERSIZE), kept)
            forget(kept)
        with suppress(TrainingStopped):  # after so many steps
            pipeline.train(config, parts, run, kept, str(config_path), execution, waits)
        print_table(_waiting_table(config, waits, execution, cold))


def bare(config: Config) -> Config:
    """The same without weights to begin with and without teachers."""
    model = config.model.model_copy(update={"init": ""})
    return config.model_copy(update={"model": model, "distil": DistilConfig()})


def forget(cache: Path) -> None:
    """Have the operating system drop what it holds of decoded pictures in memory."""
    for rows in cache.glob("*/rows.npy"):
        with rows.open("rb") as file:
            os.fsync(file.fileno())  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _waiting_table(config: Config, waits: "Waits", execution: "Execution", cold: bool) -> Table:
    taken = waits.steps(execution.accumulate)[LEFT_OUT:]
    if not len(taken):
        raise ValueError(f"no step is left to measure: the first {LEFT_OUT} and the last ones are not")
    waited_ms, whole_ms = 1e3 * taken.T
    rows = (
        ("step, median", f"{np.median(whole_ms):.0f} ms"),
        ("of it waiting for pictures, median", f"{np.median(waited_ms):.1f} ms"),
        ("of it waiting for pictures, 95 of 100 steps", f"{np.quantile(waited_ms, 0.95):.1f} ms"),
        ("share of the time of all steps", f"{waited_ms.sum() / whole_ms.sum():.2%}"),
        ("share of a step, 95 of 100 steps", f"{np.quantile(waited_ms / whole_ms, 0.95):.2%}"),
    )
    title = f"{config.name}: {len(taken)} steps of {config.fit.batch_size} pictures, {execution.workers} workers"
    note = f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the end; "
    return Table(title, ("what", "how much"), rows, note + ("read from the disk" if cold else "read from memory"))
