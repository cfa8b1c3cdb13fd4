"""VAN once more, from its equations alone: float64, numpy and scipy, no torch, one picture, published tensor names.

Published VAN is compared with it. arXiv 2202.09741: LKA eq. 2 and 3, block figure 3(d), CFF and stages section 3.2.
Written to be read beside the paper, not to be fast. mlka_equations.py has VAN-MLKA.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.signal import correlate2d
from scipy.special import erf

Map = NDArray[np.float64]  # (C, H, W)
State = Mapping[str, NDArray[np.float64]]


def gelu(x: Map) -> Map:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def pointwise(x: Map, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> Map:
    return np.einsum("oc,chw->ohw", weight[:, :, 0, 0], x) + bias[:, None, None]


def depthwise(x: Map, weight: NDArray[np.float64], bias: NDArray[np.float64], dilation: int = 1) -> Map:
    """Each channel with its own kernel, zeros outside; the holes of a dilated kernel are zeros in it."""
    side = dilation * (weight.shape[-1] - 1) + 1
    kernels = np.zeros((len(weight), side, side))
    kernels[:, ::dilation, ::dilation] = weight[:, 0]
    # 'full', then cut: scipy's 'same' has the size of the larger operand's, and a kernel may be larger than a map.
    reach, (height, width) = side // 2, x.shape[1:]
    whole = [correlate2d(channel, kernel, mode="full") for channel, kernel in zip(x, kernels, strict=True)]
    return np.stack(whole)[:, reach : reach + height, reach : reach + width] + bias[:, None, None]


def strided(x: Map, weight: NDArray[np.float64], bias: NDArray[np.float64], stride: int) -> Map:
    side = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("ocij,chwij->ohw", weight, windows) + bias[:, None, None]


def lka(x: Map, state: State, name: str, dilation: int = 3) -> Map:
    """Attention = Conv 1x1 (DW-D-Conv (DW-Conv (F))), eq. 2; the caller multiplies, eq. 3."""
    local = depthwise(x, state[f"{name}conv0.weight"], state[f"{name}conv0.bias"])
    far = depthwise(local, state[f"{name}conv_spatial.weight"], state[f"{name}conv_spatial.bias"], dilation)
    return pointwise(far, state[f"{name}conv1.weight"], state[f"{name}conv1.bias"])


def batch_norm(x: Map, state: State, name: str) -> Map:
    mean, variance, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def layer_norm(x: Map, state: State, name: str) -> Map:
    centred = x - x.mean(axis=0)
    weight, bias = state[f"{name}.weight"][:, None, None], state[f"{name}.bias"][:, None, None]
    return centred / np.sqrt((centred**2).mean(axis=0) + 1e-6) * weight + bias


def block(x: Map, state: State, name: str) -> Map:
    """x + λ₁ · attention(BN(x)), then x + λ₂ · CFF(BN(x)); the attention adds its own input once more."""
    normed = batch_norm(x, state, f"{name}.norm1")
    inner = gelu(pointwise(normed, state[f"{name}.attn.proj_1.weight"], state[f"{name}.attn.proj_1.bias"]))
    attended = inner * lka(inner, state, f"{name}.attn.spatial_gating_unit.")
    attended = pointwise(attended, state[f"{name}.attn.proj_2.weight"], state[f"{name}.attn.proj_2.bias"]) + normed
    x = x + state[f"{name}.layer_scale_1"][:, None, None] * attended
    hidden = pointwise(
        batch_norm(x, state, f"{name}.norm2"), state[f"{name}.mlp.fc1.weight"], state[f"{name}.mlp.fc1.bias"]
    )
    kernel = f"{name}.mlp.dwconv.dwconv"
    hidden = gelu(depthwise(hidden, state[f"{kernel}.weight"], state[f"{kernel}.bias"]))
    return x + state[f"{name}.layer_scale_2"][:, None, None] * pointwise(
        hidden, state[f"{name}.mlp.fc2.weight"], state[f"{name}.mlp.fc2.bias"]
    )


def van(picture: Map, state: State, depths: tuple[int, ...]) -> NDArray[np.float64]:
    """Logits of one picture, (3, S, S), normalised."""
    x = picture
    for stage, depth in enumerate(depths, start=1):
        name = f"patch_embed{stage}"
        x = strided(x, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"], 4 if stage == 1 else 2)
        x = batch_norm(x, state, f"{name}.norm")
        for number in range(depth):
            x = block(x, state, f"block{stage}.{number}")
        x = layer_norm(x, state, f"norm{stage}")
    return state["head.weight"] @ x.mean(axis=(1, 2)) + state["head.bias"]


def published_layout(
    dims: tuple[int, ...], depths: tuple[int, ...], ratios: tuple[int, ...], classes: int, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Random tensors under the names and in the shapes of VAN-Classification's checkpoints."""
    rng = np.random.default_rng(seed)
    state: dict[str, NDArray[np.float64]] = {}

    def conv(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        state[f"{name}.bias"] = rng.normal(0, 0.1, shape[0])

    def norm(name: str, dim: int, *, batch: bool) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = rng.uniform(0.5, 1.5, dim), rng.normal(0, 0.1, dim)
        if batch:
            state[f"{name}.running_mean"] = rng.normal(0, 0.1, dim)
            state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, dim)
            state[f"{name}.num_batches_tracked"] = np.array(7)

    for stage, (dim, depth, ratio) in enumerate(zip(dims, depths, ratios, strict=True), start=1):
        before, side = (3, 7) if stage == 1 else (dims[stage - 2], 3)
        conv(f"patch_embed{stage}.proj", dim, before, side, side)
        norm(f"patch_embed{stage}.norm", dim, batch=True)
        for name in (f"block{stage}.{number}" for number in range(depth)):
            norm(f"{name}.norm1", dim, batch=True)
            norm(f"{name}.norm2", dim, batch=True)
            state[f"{name}.layer_scale_1"], state[f"{name}.layer_scale_2"] = rng.uniform(0.5, 1.5, (2, dim))
            conv(f"{name}.attn.proj_1", dim, dim, 1, 1)
            conv(f"{name}.attn.spatial_gating_unit.conv0", dim, 1, 5, 5)
            conv(f"{name}.attn.spatial_gating_unit.conv_spatial", dim, 1, 7, 7)
            conv(f"{name}.attn.spatial_gating_unit.conv1", dim, dim, 1, 1)
            conv(f"{name}.attn.proj_2", dim, dim, 1, 1)
            conv(f"{name}.mlp.fc1", dim * ratio, dim, 1, 1)
            conv(f"{name}.mlp.dwconv.dwconv", dim * ratio, 1, 3, 3)
            conv(f"{name}.mlp.fc2", dim, dim * ratio, 1, 1)
        norm(f"norm{stage}", dim, batch=False)
    conv("head", classes, dims[-1])
    return state
