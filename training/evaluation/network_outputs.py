"""A trained network and its outputs: logits, embeddings and maps of pictures."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file

from training.config import Config
from training.evaluation.calibration import Logits
from training.networks.build import Network, build

#: Pictures of one forward pass.
BATCH_SIZE = 64


def load_network(config: Config, weights: Path) -> Network:
    """The trained network, in eval mode."""
    net = build(config.model, len(config.classes))
    net.load_state_dict(load_file(weights))
    return net.eval()


class Outputs(NamedTuple):
    """Outputs of a network for N pictures."""

    logits: Logits  # (N, C)
    embeddings: NDArray[np.float32]  # (N, D)


@torch.inference_mode()
def outputs(net: Network, config: Config, images: NDArray[np.uint8], *, description: str = "scoring") -> Outputs:
    """Logits and embeddings of uint8 pictures (N, S, S, 3), in batches.

    Args:
        description: title of the progress bar.
    """
    starts = track(range(0, len(images), BATCH_SIZE), description=description, transient=True)
    batches = [net(_normalised(config, images[start : start + BATCH_SIZE])) for start in starts]
    if not batches:
        return Outputs(np.empty((0, len(config.classes)), np.float32), np.empty((0, 0), np.float32))
    columns = zip(*((out.logits.numpy(), out.embedding.numpy()) for out in batches), strict=True)
    return Outputs(*(np.concatenate(rows) for rows in columns))


def score(net: Network, config: Config, images: NDArray[np.uint8], *, description: str = "scoring") -> Logits:
    """Logits (N, C) of uint8 pictures (N, S, S, 3), in batches.

    Args:
        description: title of the progress bar.
    """
    return outputs(net, config, images, description=description).logits


@torch.inference_mode()
def maps(net: Network, config: Config, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    """Attention (N, scales, h, w) and evidence (N, C, h, w) of uint8 pictures (N, S, S, 3), in one batch."""
    out = net(_normalised(config, images))
    return out.attention.numpy(), out.evidence.numpy()


def _normalised(config: Config, images: NDArray[np.uint8]) -> torch.Tensor:
    mean = torch.tensor(config.model.mean).view(3, 1, 1)
    std = torch.tensor(config.model.std).view(3, 1, 1)
    planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return (planes - mean) / std
