"""Augmentation of batches: rotation, shift, zoom, flip, stain, background, focus and JPEG compression.

Each picture draws its own numbers from torch's global random state, so a seed reproduces a run.
"""

import math

import numpy as np
import simplejpeg
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


def transfer_stain(images: Tensor, share: float) -> Tensor:
    """Give a share of the pictures colours between their own and those of another picture of the batch.

    Mean and standard deviation of each channel's optical density are matched (Reinhard et al. 2001, doi
    10.1109/38.946629, in densities instead of Lab). Against learning a class by the colours of its laboratory.
    Shape (N, 3, H, W) in 0..1, unchanged.
    """
    chosen = _chosen(len(images), share)
    density = -images.clamp_min(1 / 255).log()
    spread, mean = torch.std_mean(density, dim=(2, 3), keepdim=True, correction=0)
    others = torch.randperm(len(images))[chosen]
    amount = torch.rand(len(chosen), 1, 1, 1).to(images)
    ratio = (spread[others] / spread[chosen].clamp_min(1e-3)).clamp(0.5, 2) ** amount
    moved = (density[chosen] - mean[chosen]) * ratio + torch.lerp(mean[chosen], mean[others], amount)
    transferred = images.clone()
    transferred[chosen] = (-moved).exp().clamp(0, 1)
    return transferred


def exchange_backgrounds(images: Tensor, masks: Tensor, share: float) -> Tensor:
    """Put the cells of a share of the pictures on another picture of the batch, shifted by half of its side.

    Against learning the background, which tells laboratories and slides apart (arXiv 2006.09994).

    Args:
        images: (N, 3, H, W) in 0..1.
        masks: (N, 1, H, W) in 0..1, soft at the edge.
    """
    chosen = _chosen(len(images), share)
    height, width = images.shape[2:]
    others = images.flip(0).roll((height // 2, width // 2), dims=(2, 3))[chosen]
    exchanged = images.clone()
    exchanged[chosen] = torch.lerp(others, images[chosen], masks[chosen])
    return exchanged


def defocus(images: Tensor, share: float, most_sigma: float) -> Tensor:
    """Blur a share of the pictures (N, 3, H, W) with a Gaussian of up to `most_sigma` pixels."""
    chosen = _chosen(len(images), share)
    if not len(chosen):
        return images
    reach = math.ceil(3 * most_sigma)
    sigma = (torch.rand(len(chosen), 1) * most_sigma).clamp_min(0.1)
    kernels = torch.softmax(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square(), dim=1).to(images)
    kernels = kernels.repeat_interleave(3, dim=0)[:, None]  # (3 N, 1, taps)
    planes = F.pad(images[chosen], (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernels[:, :, :, None], groups=len(kernels))
    planes = F.conv2d(planes, kernels[:, :, None], groups=len(kernels))
    blurred = images.clone()
    blurred[chosen] = planes.unflatten(1, (len(chosen), 3))[0]
    return blurred


def compress(images: Tensor, share: float, worst_quality: int) -> Tensor:
    """Encode a share of the pictures (N, 3, H, W) in 0..1 as JPEG of a quality between `worst_quality` and 95."""
    chosen = _chosen(len(images), share)
    compressed = images.clone()
    qualities = torch.randint(worst_quality, 96, (len(chosen),)).tolist()
    for at, quality in zip(chosen.tolist(), qualities, strict=True):
        pixels = (images[at] * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
        decoded = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(pixels, quality, colorsubsampling="420"))
        compressed[at] = torch.from_numpy(decoded.astype(np.float32) / 255).permute(2, 0, 1).to(images)
    return compressed


def _chosen(count: int, share: float) -> Tensor:
    """Random indices of a share of the pictures."""
    return torch.nonzero(torch.rand(count) < share)[:, 0]


def _uniform(shape: int | tuple[int, ...], limit: float) -> Tensor:
    """Uniform in -limit..limit; drawn on the CPU, so that a seed gives the same numbers on every device."""
    return (torch.rand(shape) * 2 - 1) * limit
