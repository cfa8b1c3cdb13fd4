"""What a network costs on paper: its parameters and its multiply-adds for one picture.

Knows shapes alone: the network is built without memory or arithmetic (torch's meta device).
"""

import logging
import re
import time
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from onnx import GraphProto, NodeProto
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from training.config import Config, DistilConfig
from training.fit.module import OVERSIZE, TrainingModule, progressive_size
from training.networks.build import build


class NetworkCost(NamedTuple):
    """For one picture at the configuration's input size."""

    parameters: int
    multiply_adds: int


def network_cost(config: Config) -> NetworkCost:
    """Counted by torch.utils.flop_counter: convolutions, matrix products and attention, not norms and activations.

    Raises:
        ValueError: the configuration names no network, or numbers that do not fit together.
    """
    size = config.model.input_size
    with torch.device("meta"):
        net = build(config.model, len(config.classes)).eval()
        picture = torch.zeros(1, 3, size, size)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        net(picture)
    # The counter takes a multiplication and an addition for two operations.
    return NetworkCost(sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2)


#: The backward pass computes a gradient for its input and one for its weights where the forward pass computes one
#: thing. Not counted, because torch's counter takes the weights of a depthwise convolution's gradient for dense ones.
PASSES = 3
#: Bytes a parameter: float32 weights, gradient, the two moments of Adam, and the average.
BYTES_A_PARAMETER = 4 * 5
_BATCH = 8  # of which a picture's share is taken; one alone would leave BatchNorm nothing to normalise


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """A run on paper."""

    parameters: int
    multiply_adds: int  # one picture forward, at the last input size
    kept_bytes: int  # of one picture between the forward and the backward pass, at the last input size
    cache_bytes: int  # of the decoded training pictures
    training_operations: float  # multiplications and additions of the whole run, forward and backward

    def device_bytes(self, pictures: int) -> int:
        """What a device holds with so many pictures at a time, besides passing workspace."""
        return self.parameters * BYTES_A_PARAMETER + pictures * self.kept_bytes

    def hours(self, devices: int, tera_operations_per_s: float, utilisation: float) -> float:
        """Of training alone.

        Args:
            tera_operations_per_s: the most that one device computes, in 10^12 multiplications and additions a second.
            utilisation: share of it that this training reaches; an assumption until it has run there.
        """
        return self.training_operations / (devices * tera_operations_per_s * 1e12 * utilisation) / 3600


def training_budget(config: Config, draws: int) -> TrainingBudget:
    """Size a run: the network alone, without teachers, augmentation and the reading of pictures.

    Args:
        draws: training pictures an epoch.
    """
    epochs = config.fit.epochs + sum(config.fit.restarts)
    sizes = Counter(progressive_size(epoch, config.fit) or config.model.input_size for epoch in range(epochs))
    at = {size: network_cost(_of_size(config, size)) for size in {*sizes, config.model.input_size}}
    forward = sum(at[size].multiply_adds * times for size, times in sizes.items()) * draws
    last = at[config.model.input_size]
    cache_bytes = draws * 3 * round(config.model.input_size * OVERSIZE) ** 2
    return TrainingBudget(last.parameters, last.multiply_adds, _kept_bytes(config), cache_bytes, 2.0 * PASSES * forward)


def _of_size(config: Config, size: int) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"input_size": size})})


def _kept_bytes(config: Config) -> int:
    """Bytes that autograd keeps of one picture, each storage once, weights not counted.

    With bf16-mixed the network is taken to compute in bfloat16 throughout, where autocast keeps some norms in float32.
    """
    dtype = torch.bfloat16 if config.fit.precision == "bf16-mixed" else torch.float32
    size = config.model.input_size
    with torch.device("meta"):
        net = build(config.model, len(config.classes)).to(dtype).train()
        pictures = torch.zeros(_BATCH, 3, size, size, dtype=dtype)
    own = {tensor.untyped_storage()._cdata for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        net(pictures)
    return sum(storage.nbytes() for storage in kept.values()) // _BATCH


#: Before any tensor of the network is met: from uint8 pictures to normalised planes.
INPUT_SCOPE = "front"
#: After the last of them: probabilities, and maps added up and scaled.
OUTPUT_SCOPE = "answer"
_PART = re.compile(r"net\.((?:trunk\.blocks|stages)\.\d+|trunk\.[a-z_]+|[a-z_]+)")


def graph_scopes(graph: GraphProto) -> dict[str, str]:
    """Value → the part of the network whose work it is: `trunk.blocks.3`, `stages.0`, `mlka`, `fusion`, `head`.

    A node belongs where its tensors do, whether it takes them as they are or computed from others. One without any
    belongs to what it takes first, as BatchNorms do, which runtimes fold into the convolution before; or to the answer
    where no tensor is met any more.
    """
    fixed = {initial.name: _part(initial.name) for initial in graph.initializer}
    moving = {value.name: INPUT_SCOPE for value in graph.input if value.name not in fixed}
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
    return {value: part if value in own or value in feeding else OUTPUT_SCOPE for value, part in moving.items()}


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


def optimised_graph_scopes(optimised: GraphProto, known: Mapping[str, str]) -> dict[str, str]:
    """Node → part, in the graph that a runtime has made of another; known: value → part, there.

    Runtimes keep the name of a value that several fused nodes end in. What they put in between, reordering, belongs to
    what it takes, or, after the picture itself, to what takes it.
    """
    found: dict[str, str] = {}
    part_of = dict(known)
    for node in optimised.node:
        named = [part_of[name] for name in (_original(node.name), *node.output) if name in part_of]
        taken = [part_of[name] for name in node.input if name in part_of]
        part = next(iter((*named, *taken)), INPUT_SCOPE)
        found[node.name] = part
        for output in node.output:
            part_of.setdefault(output, part)
    return found


def _original(name: str) -> str:
    """The value that a node of onnxruntime's blocked layout was named for."""
    return name.removesuffix("_nchwc").removesuffix("_bn").removesuffix("_mul")


#: Timed steps; one more comes before them, in which memory is claimed and kernels are chosen.
STEPS = 3


class _Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def training_speed(config: Config) -> float:
    """Training pictures a second: augmentation, forward, backward and optimiser, at the last input size.

    Teachers are left out: their runs may be part of the same plan, and not there yet.

    Raises:
        ValueError: the network cannot be built.
    """
    size, batch = round(config.model.input_size * OVERSIZE), config.fit.batch_size
    count = batch * (STEPS + 1)
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(0, len(config.classes), count))
    plain = config.model_copy(update={"fit": config.fit.model_copy(update={"sizes": ()}), "distil": DistilConfig()})
    fitting, clock = TrainingModule(plain, STEPS + 1, np.ones(len(config.classes))), _Clock()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Lightning would say of a training, of which this is none
            _trainer(config, clock).fit(fitting, DataLoader(TensorDataset(images, labels), batch))
    except SystemExit as exit:  # what Lightning makes of a Ctrl-C
        raise KeyboardInterrupt from exit
    return STEPS * batch / (clock.ends[-1] - clock.ends[0])


def _trainer(config: Config, clock: _Clock) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return L.Trainer(
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
