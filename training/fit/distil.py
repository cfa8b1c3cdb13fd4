"""Knowledge distillation: trained networks as teachers, on the same augmented pictures that the student sees."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.heads import VANOutput
from training.config import Config
from training.evaluation.evaluate import load_network
from training.run import RunFolder


class TeacherError(ValueError):
    """A run that cannot be a teacher: the folder and the reason."""


class Teacher:
    """One trained, frozen network."""

    def __init__(self, folder: Path, codes: Sequence[str]) -> None:
        run = RunFolder(folder)
        config = run.config()
        if config.codes != tuple(codes):
            raise TeacherError(f"{folder}: a teacher must have the same classes in the same order as this run")
        self.input_size = config.model.input_size
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (config.model.mean, config.model.std))
        self.net = load_network(config, run.weights_file()).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> VANOutput:
        """The teacher's output for pictures (N, 3, S, S) in 0..1; resizes and normalises them as it was trained."""
        if images.shape[-1] != self.input_size:
            images = F.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        self.net.to(images.device)
        planes = (images - self.mean.to(images)) / self.std.to(images)
        return self.net(planes.contiguous(memory_format=torch.channels_last))


class Teachers:
    """An ensemble of teachers: the mean of their softened probabilities.

    Raises:
        TeacherError: a teacher has other classes.
        RunError: a teacher's training has not ended.
    """

    def __init__(self, config: Config) -> None:
        self.temperature, self.weight = config.distil.temperature, config.distil.weight
        self.features = config.distil.features
        self.teachers = [Teacher(folder, config.codes) for folder in config.distil.teachers]

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def input_size(self) -> int:
        """The largest input size of a teacher; 0 where there are none."""
        return max((teacher.input_size for teacher in self.teachers), default=0)

    def projectors(self, dim: int) -> nn.ModuleList:
        """One trainable linear map per teacher, from the student's embedding (N, dim) to the teacher's.

        Empty where `distil.features` is 0.
        """
        teachers = self.teachers if self.features else []
        return nn.ModuleList(nn.Linear(dim, teacher.net.head.in_features, bias=False) for teacher in teachers)

    def loss(self, student: VANOutput, images: Tensor, projectors: nn.ModuleList) -> Tensor:
        """T² · KL(teachers ‖ student) at temperature T (arXiv 1503.02531, section 2) plus the embedding loss.

        The embedding loss is 1 - cos between the projected embedding and the teacher's, after FitNets (arXiv
        1412.6550).

        Args:
            student: the student's output.
            images: its input before normalisation, (N, 3, S, S) in 0..1.
        """
        t = self.temperature
        outputs = [teacher(images) for teacher in self.teachers]
        target = torch.stack([torch.softmax(output.logits / t, dim=1) for output in outputs]).mean(dim=0)
        loss = t * t * F.kl_div(F.log_softmax(student.logits / t, dim=1), target, reduction="batchmean")
        for project, output in zip(projectors, outputs, strict=False):
            similarity = F.cosine_similarity(project(student.embedding), output.embedding, dim=1)
            loss = loss + self.features * (1 - similarity).mean()
        return loss
