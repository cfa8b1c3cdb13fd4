"""The named parts of a network whose effect on the answers is measured by replacing their outputs.

A part is a list of modules. `training.evaluation.lesion` replaces the output of all of them by its mean.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from model.attention import KERNELS, LKAttention, ScaleGate
from model.blocks import MCNNStem
from model.heads import AttentionPooling, CrossScaleAttention

#: All gates of large kernel attention in the network, in the blocks and in the pooling.
MLKA_PART = "MLKA"
#: Those of the blocks and of the pooling alone, in a network that has both.
BLOCKS_PART, POOLING_GATES_PART = "MLKA in the blocks", "MLKA in the pooling"
#: The weighting of the positions by which the last map is pooled. Its mean is close to average pooling.
POOLING_PART = "pooling"
CROSS_SCALE_PART = "cross-scale attention"


def named_parts(net: nn.Module, stages: Mapping[str, nn.Module]) -> dict[str, Sequence[nn.Module]]:
    """The parts that a network has.

    Args:
        stages: name → stage; its gates become a part of that name.

    Returns:
        `MLKA` (every gate), `MLKA in the blocks` and `MLKA in the pooling` (where both have gates), `MLKA 3-5-1` … (the
        gates of a scale, where there are several), the stages, `pooling` (the weighting), `cross-scale attention` (what
        it adds), `stem 3x3` … (the branches of the MCNN stem).
    """
    gates = _gates(net)
    parts: dict[str, Sequence[nn.Module]] = {MLKA_PART: gates}
    poolings = [m for m in net.modules() if isinstance(m, AttentionPooling)]
    if of_pooling := {gate for pooling in poolings for gate in _gates(pooling)}:
        parts[BLOCKS_PART] = [gate for gate in gates if gate not in of_pooling]
        parts[POOLING_GATES_PART] = [gate for gate in gates if gate in of_pooling]
    by_scale = {scale: [g for g in gates if isinstance(g, ScaleGate) and g.scale == scale] for scale in KERNELS}
    if sum(map(bool, by_scale.values())) > 1:
        parts |= {f"{MLKA_PART} {scale}": found for scale, found in by_scale.items()}
    parts |= {name: _gates(stage) for name, stage in stages.items()}
    parts[POOLING_PART] = poolings
    parts[CROSS_SCALE_PART] = [m.answer for m in net.modules() if isinstance(m, CrossScaleAttention)]
    for stem in (m for m in net.modules() if isinstance(m, MCNNStem)):
        parts |= {f"stem {k}x{k}": [branch] for k, branch in zip(stem.KERNELS, stem.branches, strict=True)}
    return {name: modules for name, modules in parts.items() if modules}


def _gates(net: nn.Module) -> list[nn.Module]:
    gates: list[nn.Module] = [m for m in net.modules() if isinstance(m, ScaleGate)]
    return gates + [m.spatial_gating_unit for m in net.modules() if isinstance(m, LKAttention)]
