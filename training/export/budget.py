"""What a training will take: memory a picture and a device, operations, hours.

Knows shapes and counts: the network is built without memory or arithmetic (torch's meta device), so that a training
for eight GPUs can be sized on any machine. Measures no speed.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from training.config import Config
from training.export.cost import cost
from training.fit.module import OVERSIZE, size_in
from training.networks.build import build

#: The backward pass computes a gradient for its input and one for its weights where the forward pass computes one
#: thing. Not counted, because torch's counter takes the weights of a depthwise convolution's gradient for dense ones.
PASSES = 3
#: Bytes a parameter: float32 weights, gradient, the two moments of Adam, and the average.
BYTES_A_PARAMETER = 4 * 5
_BATCH = 8  # of which a picture's share is taken; one alone would leave BatchNorm nothing to normalise


@dataclass(frozen=True, slots=True)
class Budget:
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


def budget(config: Config, draws: int) -> Budget:
    """Size a run: the network alone, without teachers, augmentation and the reading of pictures.

    Args:
        draws: training pictures an epoch.
    """
    epochs = config.fit.epochs + sum(config.fit.restarts)
    sizes = Counter(size_in(epoch, config.fit) or config.model.input_size for epoch in range(epochs))
    at = {size: cost(_of_size(config, size)) for size in {*sizes, config.model.input_size}}
    forward = sum(at[size].multiply_adds * times for size, times in sizes.items()) * draws
    last = at[config.model.input_size]
    cache_bytes = draws * 3 * round(config.model.input_size * OVERSIZE) ** 2
    return Budget(last.parameters, last.multiply_adds, _kept_bytes(config), cache_bytes, 2.0 * PASSES * forward)


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
