"""Augmentation of batches: rotation, shift, zoom, flip and stain jitter.

Each picture draws its own numbers from torch's global random state, so a seed reproduces a run.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import AugmentConfig


def warp(images: Tensor, size: int, config: AugmentConfig) -> Tensor:
    """Rotate, shift, zoom and flip in one interpolation: (N, 3, H, W) in 0..1 → (N, 3, size, size)."""
    count = len(images)
    angle = _uniform(count, math.radians(config.rotation_degrees))
    scale = 1.0 + _uniform(count, config.zoom)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if config.flip else torch.ones(count)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    shift_x, shift_y = _uniform(count, 2 * config.shift), _uniform(count, 2 * config.shift)
    matrix = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], dim=1).view(count, 2, 3)
    grid = F.affine_grid(matrix.to(images), [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def jitter_stain(images: Tensor, strength: float) -> Tensor:
    """Scale and shift the optical density of each channel, as amount of dye and lamp colour do (Beer-Lambert).

    Shape (N, 3, H, W) in 0..1, unchanged. After the stain augmentation of Tellez et al. 2018 (doi
    10.1109/TMI.2018.2820199), in RGB densities because the smears are May-Grünwald-Giemsa stained, not H&E.
    """
    if strength == 0:
        return images
    count = len(images)
    channels = 1.0 + _uniform((count, 3, 1, 1), strength).to(images)
    overall = 1.0 + _uniform((count, 1, 1, 1), strength).to(images)
    lamp = _uniform((count, 3, 1, 1), strength / 3).to(images)
    density = -images.clamp_min(1 / 255).log()
    return (-(density * channels * overall + lamp)).exp().clamp(0, 1)


def _uniform(shape: int | tuple[int, ...], limit: float) -> Tensor:
    """Uniform in -limit..limit; drawn on the CPU, so that a seed gives the same numbers on every device."""
    return (torch.rand(shape) * 2 - 1) * limit
