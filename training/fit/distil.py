"""Knowledge distillation: trained networks as teachers, on the view of each picture that the student sees.

Teachers see a picture rotated, zoomed and stained as the student's, but before its background, focus and compression
are changed and before it is mixed with another: what is hard to see is learned from a clear view.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.heads import VANOutput
from training.config import Config
from training.data.mixing import Mixing
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

    def lesson(self, images: Tensor) -> "Lesson":
        """What the teachers answer to pictures (N, 3, S, S) in 0..1."""
        outputs = [teacher(images) for teacher in self.teachers]
        softened = [torch.softmax(output.logits.float() / self.temperature, dim=1) for output in outputs]
        embeddings = [output.embedding for output in outputs] if self.features else []
        return Lesson(torch.stack(softened).mean(dim=0), embeddings)

    def loss(self, student: VANOutput, lesson: "Lesson", projectors: nn.ModuleList) -> Tensor:
        """T² · KL(teachers ‖ student) at temperature T (arXiv 1503.02531, section 2) plus the embedding loss.

        The embedding loss is 1 - cos between the projected embedding and the teacher's, after FitNets (arXiv
        1412.6550).
        """
        t = self.temperature
        answers = F.log_softmax(student.logits.float() / t, dim=1)
        loss = t * t * F.kl_div(answers, lesson.probabilities, reduction="batchmean")
        for project, embedding in zip(projectors, lesson.embeddings, strict=False):
            similarity = F.cosine_similarity(project(student.embedding), embedding, dim=1)
            loss = loss + self.features * (1 - similarity).mean()
        return loss


@dataclass(frozen=True, slots=True)
class Lesson:
    """The teachers' answers to a batch."""

    probabilities: Tensor  # (N, C), the mean of their softened probabilities
    embeddings: list[Tensor]  # (N, D) of each teacher; empty where `distil.features` is 0

    def mixed(self, mixing: Mixing) -> "Lesson":
        """The answers to the mixed pictures: mixed as labels are, since teachers see the pictures unmixed."""
        return Lesson(mixing.labels(self.probabilities), [mixing.labels(embedding) for embedding in self.embeddings])
