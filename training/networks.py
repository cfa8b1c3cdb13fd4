"""Name → network: the variants of `model/van.py`, and what they are compared with, behind one interface.

Knows names and constructors. Knows no weights and no pictures.
"""

import difflib
from typing import Protocol

from torch import Tensor, nn

from model.van import VAN, VARIANTS, VANOutput
from training.comparison import COMPARISONS, Pooled
from training.config import ModelConfig


class Classifier(Protocol):
    """What training, evaluation and export ask of a network: VAN, and any trunk under a pooled linear head."""

    head: nn.Linear
    attention_scales: tuple[str, ...]

    def __call__(self, x: Tensor) -> VANOutput: ...


#: Every network that a configuration may name as `model.variant`.
NETWORKS = (*VARIANTS, *COMPARISONS)


def check_name(name: str) -> None:
    """Return when a network has this name.

    Raises:
        ValueError: none has; names the nearest.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=3, cutoff=0.4) or list(NETWORKS)
        raise ValueError(f"unknown variant {name!r}; did you mean {', '.join(near)}?")


def build(config: ModelConfig, num_classes: int) -> VAN | Pooled:
    """The network that a configuration names, with random weights.

    Raises:
        ValueError: no network has this name, or its numbers do not fit together.
    """
    check_name(config.variant)
    if config.variant in COMPARISONS:
        return Pooled(COMPARISONS[config.variant], num_classes, config.drop_path)
    return VAN(config.variant, num_classes, config.drop_path)
