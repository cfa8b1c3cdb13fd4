"""Cost of a network: parameters and multiply-adds, memory and hours of a training, and measured time by graph node.

Parameters, multiply-adds and memory are counted on torch's meta device, so a training for eight GPUs can be sized on
any machine.
"""

import json
import logging
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import onnx
import onnxruntime
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from model.contract import INPUT
from training.config import Config
from training.distil_config import DistilConfig
from training.fit.module import OVERSIZE, TrainingModule, progressive_size
from training.networks.build import build

#: Operations of a training step per forward pass: the backward pass computes the gradients of inputs and of weights.
#: torch's counter is not used: it counts the gradient of a depthwise convolution as that of a dense one.
PASSES = 3
#: Bytes per parameter: float32 weights, gradient, the two moments of Adam, and the moving average.
BYTES_A_PARAMETER = 4 * 5
#: Gradients of activations, workspaces and fragmentation: 1.25 to 1.4 times what is kept, measured on CPUs. The
#: libraries take 0.9 GB of a process.
PEAK_FACTOR, LIBRARY_BYTES = 1.4, 1e9
_BATCH = 8  # for the memory per picture; BatchNorm cannot normalise a single one


class NetworkCost(NamedTuple):
    """Cost of one picture at the configuration's input size."""

    parameters: int
    multiply_adds: int


def network_cost(config: Config) -> NetworkCost:
    """Parameters and multiply-adds by torch.utils.flop_counter: convolutions, matrix products and attention.

    Raises:
        ValueError: the network cannot be built.
    """
    size = config.model.input_size
    with torch.device("meta"):
        net = build(config.model, len(config.classes)).eval()
        picture = torch.zeros(1, 3, size, size)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        net(picture)
    return NetworkCost(sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2)


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """Expected resources of a training."""

    parameters: int
    multiply_adds: int  # of a forward pass of one picture at the final input size
    kept_bytes: int  # activations of one picture kept for the backward pass, at the final input size
    cache_bytes: int  # of the decoded training pictures
    training_operations: float  # multiplications and additions of the whole run, forward and backward

    def device_bytes(self, pictures: int) -> int:
        """Memory of a device that processes this many pictures at once, without temporary workspace."""
        return self.parameters * BYTES_A_PARAMETER + pictures * self.kept_bytes

    def peak_bytes(self, pictures: int) -> float:
        """The same with temporary memory and the libraries, about."""
        return PEAK_FACTOR * self.device_bytes(pictures) + LIBRARY_BYTES

    def hours(self, devices: int, tera_operations_per_s: float, utilisation: float) -> float:
        """Training time in hours.

        Args:
            tera_operations_per_s: peak of one device, in 10^12 multiplications and additions per second.
            utilisation: share of the peak that the training reaches; an assumption.
        """
        return self.training_operations / (devices * tera_operations_per_s * 1e12 * utilisation) / 3600


def training_budget(config: Config, draws: int) -> TrainingBudget:
    """Resources of the network's training, without teachers, augmentation and decoding.

    Args:
        draws: training pictures per epoch.
    """
    epochs = config.fit.epochs + sum(config.fit.restarts)
    final_size = config.model.input_size
    epochs_at = Counter(progressive_size(epoch, config.fit) or final_size for epoch in range(epochs))
    cost_at = {size: network_cost(_with_size(config, size)) for size in {*epochs_at, final_size}}
    forward = sum(cost_at[size].multiply_adds * count for size, count in epochs_at.items()) * draws
    final = cost_at[final_size]
    cache_bytes = draws * 3 * round(final_size * OVERSIZE) ** 2
    return TrainingBudget(
        final.parameters, final.multiply_adds, _activation_bytes(config), cache_bytes, 2.0 * PASSES * forward
    )


def _with_size(config: Config, size: int) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"input_size": size})})


def _activation_bytes(config: Config) -> int:
    """Bytes that autograd keeps of one picture, each storage once, without weights.

    With bf16-mixed everything counts as bfloat16, although autocast keeps some norms in float32.
    """
    dtype = torch.bfloat16 if config.fit.precision == "bf16-mixed" else torch.float32
    size = config.model.input_size
    with torch.device("meta"):
        net = build(config.model, len(config.classes)).to(dtype).train()
        pictures = torch.zeros(_BATCH, 3, size, size, dtype=dtype)
    weights = {tensor.untyped_storage()._cdata for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        net(pictures)
    return sum(storage.nbytes() for storage in kept.values()) // _BATCH


# Measured training speed

#: Timed steps; one untimed step comes first, for memory allocation and kernel selection.
STEPS = 3


class _StepClock(Callback):
    """Records the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def training_speed(config: Config) -> float:
    """Training pictures per second on this machine, on noise: augmentation, forward, backward and optimiser.

    Measured at the final input size and without teachers, whose runs may not exist yet.

    Raises:
        ValueError: the network cannot be built.
    """
    size, batch = round(config.model.input_size * OVERSIZE), config.fit.batch_size
    count = batch * (STEPS + 1)
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(0, len(config.classes), count))
    plain = config.model_copy(update={"fit": config.fit.model_copy(update={"sizes": ()}), "distil": DistilConfig()})
    module, clock = TrainingModule(plain, STEPS + 1, np.ones(len(config.classes))), _StepClock()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        precision=config.fit.precision,
        max_epochs=1,
        gradient_clip_val=config.fit.clip_norm or None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[clock],
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on trainings does not apply
            trainer.fit(module, DataLoader(TensorDataset(images, labels), batch))
    except SystemExit as exit:  # Lightning's reaction to Ctrl-C
        raise KeyboardInterrupt from exit
    return STEPS * batch / (clock.ends[-1] - clock.ends[0])


# Measured time of an exported graph, by node

#: Scope before the network: from uint8 pictures to normalised planes.
INPUT_SCOPE = "preprocessing"
#: Scope after the network: probabilities, and sums and scaling of the maps.
OUTPUT_SCOPE = "postprocessing"
#: Scope of nodes that onnxruntime inserts without a name.
INSERTED_SCOPE = "inserted"
_SCOPE = re.compile(r"net\.((?:trunk\.blocks|stages)\.\d+|trunk\.[a-z_]+|[a-z_]+)")
_KERNEL = "_kernel_time"


@dataclass(frozen=True, slots=True)
class NodeTime:
    """A node of the optimised graph and its shortest time over all runs."""

    operator: str
    scope: str
    microseconds: float


def node_times(path: Path, batch: int, runs: int) -> list[NodeTime]:
    """Shortest time of each node over `runs` runs on noise, by onnxruntime's profiler on one CPU thread.

    Raises:
        ValueError: onnxruntime cannot run the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        try:
            model = onnx.load(path)
            for at, node in enumerate(model.graph.node):
                node.name = node.name or f"{node.op_type}:{at}"  # onnxruntime reports unnamed nodes by other names
            times = _profile(model.SerializeToString(), batch, runs, optimised)
        except Exception as error:  # errors of onnx and onnxruntime share no class
            raise ValueError(f"{path}: onnxruntime cannot run it: {error}") from error
        scopes = optimised_graph_scopes(onnx.load(optimised).graph, graph_scopes(model.graph))
    return [NodeTime(operator, scopes.get(name, INSERTED_SCOPE), least) for (name, operator), least in times.items()]


def _profile(model: bytes, batch: int, runs: int, optimised: Path) -> dict[tuple[str, str], float]:
    """(node, operator) → its shortest time in microseconds; writes the optimised graph to a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors; there is a warning that the optimised graph fits this machine only
    options.enable_profiling = True
    options.profile_file_prefix = str(optimised.with_name("profile"))
    options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[1]
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    for _ in range(runs):
        session.run(None, {INPUT: images})  # all outputs
    times: dict[tuple[str, str], float] = {}
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            key = event["name"].removesuffix(_KERNEL), event["args"]["op_name"]
            times[key] = min(event["dur"], times.get(key, float("inf")))
    return times


def graph_scopes(graph: onnx.GraphProto) -> dict[str, str]:
    """Value → module of the network that computes it: `trunk.blocks.3`, `stages.0`, `mlka`, `fusion`, `head`.

    A node belongs to the module of its weights, used directly or computed from others. A node without weights belongs
    to the module of its first input, and so does a BatchNorm, which runtimes fuse into the preceding convolution. After
    the last weights comes OUTPUT_SCOPE.
    """
    constant = {initial.name: _scope(initial.name) for initial in graph.initializer}
    variable = {value.name: INPUT_SCOPE for value in graph.input if value.name not in constant}
    weighted: dict[str, str] = {}
    for node in graph.node:
        scopes = [scope for name in node.input if (scope := constant.get(name))]
        if not any(name in variable for name in node.input):
            constant |= dict.fromkeys(node.output, next(iter(scopes), ""))
            continue
        scope = next(variable[name] for name in node.input if name in variable)
        if scopes and node.op_type != "BatchNormalization":
            weighted |= dict.fromkeys(node.output, scopes[0])
            scope = scopes[0]
        variable |= dict.fromkeys(node.output, scope)
    inner = _inputs_of_weighted(graph.node, weighted)
    return {value: scope if value in weighted or value in inner else OUTPUT_SCOPE for value, scope in variable.items()}


def _scope(name: str) -> str:
    found = _SCOPE.match(name)
    return found.group(1) if found else ""


def _inputs_of_weighted(nodes: Iterable[onnx.NodeProto], weighted: Container[str]) -> set[str]:
    """The values that any node with weights depends on."""
    inner: set[str] = set()
    for node in reversed(list(nodes)):
        if any(output in inner or output in weighted for output in node.output):
            inner |= set(node.input)
    return inner


def optimised_graph_scopes(optimised: onnx.GraphProto, known: Mapping[str, str]) -> dict[str, str]:
    """Node → module, in a graph that a runtime optimised.

    Runtimes keep the name of the value that fused nodes end in. An inserted node (reordering) belongs to the module of
    its input; a reordering of the picture itself to INPUT_SCOPE.

    Args:
        known: value → module in the original graph.
    """
    found: dict[str, str] = {}
    scope_of = dict(known)
    for node in optimised.node:
        named = [scope_of[name] for name in (_original_name(node.name), *node.output) if name in scope_of]
        inputs = [scope_of[name] for name in node.input if name in scope_of]
        found[node.name] = next(iter((*named, *inputs)), INPUT_SCOPE)
        for output in node.output:
            scope_of.setdefault(output, found[node.name])
    return found


def _original_name(name: str) -> str:
    """The original name of a node that onnxruntime rewrote for its blocked layout."""
    return name.removesuffix("_nchwc").removesuffix("_bn").removesuffix("_mul")
