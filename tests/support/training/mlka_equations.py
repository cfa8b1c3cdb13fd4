"""VAN-MLKA from its equations alone: float64, numpy and scipy, no torch, one picture, this project's tensor names.

The block is that of VAN (arXiv 2202.09741, figure 3(d)) with the attention of MAN (arXiv 2209.14145, eq. 5). The stem,
the cross-scale attention and the pooling are this project's; their equations are in the docstrings below.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from equations import Map, State, batch_norm, depthwise, gelu, layer_norm, lka, pointwise, strided
from numpy.typing import NDArray
from scipy.special import expit, softmax

#: Dilation of the second depthwise convolution of each scale.
DILATIONS = {"3-5-1": 2, "5-7-1": 3, "7-9-1": 4}
HEAD_DIM = 48


class Answer(NamedTuple):
    """Outputs for one picture; shapes as in model/contract.py, without the batch."""

    logits: NDArray[np.float64]
    attention: Map
    evidence: Map


def conv1x1(x: Map, state: State, name: str) -> Map:
    return pointwise(x, state[f"{name}.weight"], state[f"{name}.bias"])


def mlka(x: Map, state: State, name: str, scales: Sequence[str]) -> Map:
    """Groups of channels, one for each scale: LKA_i(x_i) · G_i(x_i), concatenated (MAN, eq. 5)."""
    gated = []
    for at, (group, scale) in enumerate(zip(np.split(x, len(scales)), scales, strict=True)):
        inner = f"{name}.scales.{at}"
        gate = depthwise(group, state[f"{inner}.gate.weight"], state[f"{inner}.gate.bias"])
        gated.append(lka(group, state, f"{inner}.attend.", DILATIONS[scale]) * gate)
    return np.concatenate(gated)


def attention(x: Map, state: State, name: str, scales: Sequence[str]) -> tuple[Map, Map]:
    """P₂(v · MLKA(s)) with (v, s) the halves of GELU(P₁(x)); and MLKA(s)."""
    value, source = np.split(gelu(conv1x1(x, state, f"{name}.proj_1")), 2)
    gate = mlka(source, state, f"{name}.spatial_gating_unit", scales)
    return conv1x1(value * gate, state, f"{name}.proj_2"), gate


def conv_ffn(x: Map, state: State, name: str) -> Map:
    """W₂ GELU(DW₃ₓ₃(W₁ x))."""
    hidden = conv1x1(x, state, f"{name}.fc1")
    hidden = gelu(depthwise(hidden, state[f"{name}.dwconv.weight"], state[f"{name}.dwconv.bias"]))
    return conv1x1(hidden, state, f"{name}.fc2")


def block(x: Map, state: State, name: str, scales: Sequence[str]) -> tuple[Map, Map]:
    """y = x + λ₁ · attention(BN(x)), then y + λ₂ · ConvFFN(BN(y)); and the gate."""
    attended, gate = attention(batch_norm(x, state, f"{name}.norm1"), state, f"{name}.attn", scales)
    x = x + state[f"{name}.layer_scale_1"] * attended
    return x + state[f"{name}.layer_scale_2"] * conv_ffn(
        batch_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp"
    ), gate


def stage(x: Map, state: State, name: str, scales: Sequence[str], depth: int) -> tuple[Map, Map]:
    """Blocks on an embedded map, LayerNorm; and the gate of the last block."""
    for at in range(depth):
        x, gate = block(x, state, f"{name}.blocks.{at}", scales)
    return layer_norm(x, state, f"{name}.norm"), gate


def patch_embed(x: Map, state: State, name: str, stride: int = 2) -> Map:
    """BN(conv(x)), stride 1 for a kernel of 1."""
    weight = state[f"{name}.proj.weight"]
    embedded = strided(x, weight, state[f"{name}.proj.bias"], stride if weight.shape[-1] > 1 else 1)
    return batch_norm(embedded, state, f"{name}.norm")


def mcnn_stem(picture: Map, state: State, name: str) -> Map:
    """Convolutions of 3, 5 and 7 positions and stride 2 in parallel, BN, GELU, then one of 3 positions and stride 2."""
    branches = [state[f"{name}.branches.{at}.weight"] for at in range(3)]
    assert [weight.shape[-1] for weight in branches] == [3, 5, 7]
    beside = np.concatenate([strided(picture, weight, np.zeros(len(weight)), 2) for weight in branches])
    return patch_embed(gelu(batch_norm(beside, state, f"{name}.norm")), state, f"{name}.fuse")


def cell_means(x: Map, side: int) -> Map:
    channels, height, width = x.shape
    return x.reshape(channels, height // side, side, width // side, side).mean(axis=(2, 4))


def repeated(x: Map, times: int) -> Map:
    return x.repeat(times, axis=1).repeat(times, axis=2)


def cross_scale_attention(maps: Sequence[Map], state: State, name: str) -> Map:
    """LN(L(x₃) + up(T(x₄)) + A(softmax(q kᵀ / √48) v) by head).

    q from x₃; k and v from x₁ and x₂, averaged to the grid of x₃, and from x₄ on its own grid.
    """
    first, second, third, fourth = maps
    others = [cell_means(first, 4), cell_means(second, 2), fourth]
    pairs = [conv1x1(x, state, f"{name}.key_value.{at}") for at, x in enumerate(others)]
    query = conv1x1(third, state, f"{name}.query")
    dim, height, width = query.shape
    keys = np.concatenate([pair[:dim].reshape(dim, -1) for pair in pairs], axis=1)  # (dim, tokens)
    values = np.concatenate([pair[dim:].reshape(dim, -1) for pair in pairs], axis=1)
    seen = np.empty((dim, height * width))
    for head in range(0, dim, HEAD_DIM):
        rows = slice(head, head + HEAD_DIM)
        for position, asked in enumerate(query.reshape(dim, -1).T[:, rows]):
            seen[rows, position] = values[rows] @ softmax(asked @ keys[rows] / np.sqrt(HEAD_DIM))
    answered = conv1x1(seen.reshape(dim, height, width), state, f"{name}.answer")
    upsampled = repeated(conv1x1(fourth, state, f"{name}.top_down"), 2)
    return layer_norm(conv1x1(third, state, f"{name}.lateral") + upsampled + answered, state, f"{name}.norm")


def attention_pooling(fine: Map, coarse: Map, state: State, name: str, scales: Sequence[str]) -> Map:
    """Weights of the positions of the fine grid, (scales, 2h, 2w), each map with sum 1.

    σ(S_i(v_i · MLKA(s)_i)) divided by its sum over the positions; (v, s) are the halves of
    GELU(F(fine) + up(C(coarse))).
    """
    value, source = np.split(
        gelu(conv1x1(fine, state, f"{name}.fine") + repeated(conv1x1(coarse, state, f"{name}.coarse"), 2)), 2
    )
    gated = np.split(value * mlka(source, state, f"{name}.mlka", scales), len(scales))
    weight, bias = state[f"{name}.score.weight"][:, :, 0, 0], state[f"{name}.score.bias"]
    scores = [np.tensordot(w, group, 1) + b for w, group, b in zip(weight, gated, bias, strict=True)]
    gates = expit(np.stack(scores))
    return gates / gates.sum(axis=(1, 2), keepdims=True)


def between_0_and_1(maps: Map) -> Map:
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return (maps - low) / (high - low)


def attended(features: Map, weighting: Map, state: State) -> Answer:
    """Logits of the weighted mean Σ_p a_k(p) x_d(p) of each channel d of the k-th group; a_k(p) sums four fine weights.

    The evidence of a position is its term of this sum times the number of positions, so that its mean is the logit
    without bias.
    """
    weight, bias = state["head.weight"], state["head.bias"]
    positions = features[0].size
    shares = 4 * cell_means(weighting, 2)
    grouped = [group * share for group, share in zip(np.split(features, len(shares)), shares, strict=True)]
    terms = np.concatenate(grouped)
    embedding = terms.sum(axis=(1, 2))
    evidence = positions * np.einsum("cd,dhw->chw", weight, terms)
    return Answer(weight @ embedding + bias, between_0_and_1(weighting), evidence)
