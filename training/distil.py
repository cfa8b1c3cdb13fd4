"""Trained networks as teachers: their answers to the very pictures that the student sees, augmented alike.

Knows run folders and networks. Knows nothing of the student or of the labels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import Config
from training.evaluate import load_network
from training.run import Run


class TeacherError(ValueError):
    """A run that cannot teach: which, and why."""


class Teacher:
    """One trained network, frozen; (N, 3, S, S) in 0..1 → logits (N, C)."""

    def __init__(self, folder: Path, codes: Sequence[str]) -> None:
        run = Run(folder)
        config = run.config()
        if config.codes != tuple(codes):
            raise TeacherError(f"{folder}: learned other classes, or in another order, than this run")
        self.input_size = config.model.input_size
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (config.model.mean, config.model.std))
        self.net = load_network(config, run.trained_weights()).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.input_size:
            images = F.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        self.net.to(images.device)
        planes = (images - self.mean.to(images)) / self.std.to(images)
        return self.net(planes.contiguous(memory_format=torch.channels_last)).logits


class Teachers:
    """Several teachers as one: the mean of their softened probabilities.

    Raises:
        TeacherError: one of them learned another class list.
        RunError: one of them has not ended its training.
    """

    def __init__(self, config: Config) -> None:
        self.temperature, self.weight = config.distil.temperature, config.distil.weight
        self.teachers = [Teacher(folder, config.codes) for folder in config.distil.teachers]

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def input_size(self) -> int:
        """The largest picture that one of them wants; 0 where there are none."""
        return max((teacher.input_size for teacher in self.teachers), default=0)

    def loss(self, logits: Tensor, images: Tensor) -> Tensor:
        """T² · KL(teachers ‖ student), both softened by T (arXiv 1503.02531, section 2).

        Args:
            logits: the student's, (N, C).
            images: what it saw, (N, 3, S, S) in 0..1.
        """
        t = self.temperature
        wanted = torch.stack([torch.softmax(teacher(images) / t, dim=1) for teacher in self.teachers]).mean(dim=0)
        return t * t * F.kl_div(F.log_softmax(logits / t, dim=1), wanted, reduction="batchmean")
