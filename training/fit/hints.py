"""Hints: the student's feature maps are drawn towards the teachers', stage by stage (FitNets, arXiv 1412.6550)."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

#: Stride → channels of a network's map of that stride.
Widths = Mapping[int, int]
#: Stride → map (N, C, h, w).
Maps = Mapping[int, Tensor]


class HintProjectors(nn.ModuleList):
    """Trainable 1 x 1 convolutions from the student's channels to the teachers', for each stride that both have."""

    def __init__(self, student: Widths, teachers: Sequence[Widths]) -> None:
        super().__init__(
            nn.ModuleDict({str(s): nn.Conv2d(student[s], teacher[s], 1, bias=False) for s in student if s in teacher})
            for teacher in teachers
        )

    def loss(self, student: Maps, teachers: Sequence[Maps]) -> Tensor:
        """Mean of 1 - cos between projected and teacher's features at each position; over strides and teachers.

        Args:
            student: its maps (N, C, h, w).
            teachers: their maps; where their inputs are larger, brought to the student's h and w.
        """
        losses = [
            _distance(project, student[int(stride)], maps[int(stride)])
            for projectors, maps in zip(cast(Sequence[nn.ModuleDict], self), teachers, strict=True)
            for stride, project in projectors.items()
        ]
        return sum(losses[1:], losses[0]) / len(losses)


def _distance(project: nn.Module, features: Tensor, wanted: Tensor) -> Tensor:
    projected = project(features[: len(wanted)])  # pictures of outlier exposure follow, which no teacher has seen
    wanted = F.interpolate(wanted.float(), projected.shape[-2:], mode="bilinear", antialias=True)
    return (1 - F.cosine_similarity(projected.float(), wanted, dim=1)).mean()
