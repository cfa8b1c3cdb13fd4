"""What a network costs on paper: its parameters and its multiply-adds for one picture.

Knows shapes alone: the network is built without memory or arithmetic (torch's meta device).
"""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.config import Config
from training.networks.build import build


class Cost(NamedTuple):
    """For one picture at the configuration's input size."""

    parameters: int
    multiply_adds: int


def cost(config: Config) -> Cost:
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
    return Cost(sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2)
