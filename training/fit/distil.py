"""Trained networks as teachers: their answers to the very pictures that the student sees, augmented alike.

Knows run folders and networks. Knows nothing of the student or of the labels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.van import VANOutput
from training.config import Config
from training.evaluation.evaluate import load_network
from training.run import RunFolder


class TeacherError(ValueError):
    """A run that cannot teach: which, and why."""


class Teacher:
    """One trained network, frozen; (N, 3, S, S) in 0..1 → what it says of them."""

    def __init__(self, folder: Path, codes: Sequence[str]) -> None:
        run = RunFolder(folder)
        config = run.config()
        if config.codes != tuple(codes):
            raise TeacherError(f"{folder}: learned other classes, or in another order, than this run")
        self.input_size = config.model.input_size
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (config.model.mean, config.model.std))
        self.net = load_network(config, run.trained_weights()).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> VANOutput:
        if images.shape[-1] != self.input_size:
            images = F.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        self.net.to(images.device)
        planes = (images - self.mean.to(images)) / self.std.to(images)
        return self.net(planes.contiguous(memory_format=torch.channels_last))


class Teachers:
    """Several teachers as one: the mean of their softened probabilities.

    Raises:
        TeacherError: one of them learned another class list.
        RunError: one of them has not ended its training.
    """

    def __init__(self, config: Config) -> None:
        self.temperature, self.weight = config.distil.temperature, config.distil.weight
        self.features = config.distil.features
        self.teachers = [Teacher(folder, config.codes) for folder in config.distil.teachers]

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def input_size(self) -> int:
        """The largest picture that one of them wants; 0 where there are none."""
        return max((teacher.input_size for teacher in self.teachers), default=0)

    def projectors(self, dim: int) -> nn.ModuleList:
        """One linear map a teacher, from a student's embedding (N, dim) to the teacher's; they train with the student.

        Empty where `distil.features` is 0.
        """
        wanted = self.teachers if self.features else []
        return nn.ModuleList(nn.Linear(dim, teacher.net.head.in_features, bias=False) for teacher in wanted)

    def loss(self, student: VANOutput, images: Tensor, projectors: nn.ModuleList) -> Tensor:
        """T² · KL(teachers ‖ student), both softened by T (arXiv 1503.02531, section 2), and the embeddings' angle.

        The second is 1 - cos between the projected embedding and the teacher's, after FitNets (arXiv 1412.6550): a
        handful of logits says little of what a teacher has seen.

        Args:
            student: what the student says.
            images: what it saw, (N, 3, S, S) in 0..1.
        """
        t = self.temperature
        answers = [teacher(images) for teacher in self.teachers]
        wanted = torch.stack([torch.softmax(answer.logits / t, dim=1) for answer in answers]).mean(dim=0)
        loss = t * t * F.kl_div(F.log_softmax(student.logits / t, dim=1), wanted, reduction="batchmean")
        for project, answer in zip(projectors, answers, strict=False):
            likeness = F.cosine_similarity(project(student.embedding), answer.embedding, dim=1)
            loss = loss + self.features * (1 - likeness).mean()
        return loss
