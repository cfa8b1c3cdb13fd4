"""Knowledge distillation: trained networks as teachers, on the view of each picture that the student sees.

Teachers see a picture rotated, zoomed and stained as the student's, but before its background, focus and compression
are changed and before it is mixed with another: the target comes from the undisturbed picture.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol, Self

import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.contract import INPUT, read_manifest
from model.heads import VANOutput
from training.config import Config
from training.data.mixing import Mixing
from training.evaluation.network_outputs import load_network
from training.fit.hints import HintProjectors, Maps, Widths
from training.networks.build import Network
from training.networks.feature_maps import captured_maps, map_sources
from training.run import RunFolder


class TeacherError(ValueError):
    """A run or an artefact that cannot be a teacher: its path and the reason."""


class Answer(NamedTuple):
    """What a teacher answers to a batch."""

    logits: Tensor  # (N, C)
    embedding: Tensor  # (N, D)
    maps: Maps


class Teacher(Protocol):
    """A trained classifier that answers without gradients."""

    input_size: int
    embedding_dim: int
    map_widths: Widths  # of the maps in its answers; empty for a teacher that shows none
    trained_classes: tuple[str, ...]  # codes of the classes that it has seen training pictures of

    def __call__(self, images: Tensor) -> Answer:
        """Its answer to pictures (N, 3, S, S) in 0..1; resizes and normalises them as it was trained."""
        ...


class RunTeacher:
    """The network of a run folder, in PyTorch."""

    def __init__(self, folder: Path, codes: Sequence[str]) -> None:
        run = RunFolder(folder)
        config = run.config()
        _check_classes(folder, config.codes, codes)
        self.input_size = config.model.input_size
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (config.model.mean, config.model.std))
        self.net = load_network(config, run.weights_file()).to(memory_format=torch.channels_last)
        self.embedding_dim = self.net.head.in_features
        self.map_widths = map_widths(self.net)
        self.trained_classes = tuple(sum(run.training_images().values(), Counter[str]()))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Answer:
        self.net.to(images.device)
        planes = (_resized(images, self.input_size) - self.mean.to(images)) / self.std.to(images)
        with captured_maps(self.net) as maps:
            out = self.net(planes.contiguous(memory_format=torch.channels_last))
        return Answer(out.logits, out.embedding, maps)


class ArtefactTeacher:
    """An exported model (.onnx with its manifest beside it), in onnxruntime on the CPU.

    Also of a network that this version cannot build any more.
    """

    map_widths: Widths = MappingProxyType({})

    def __init__(self, path: Path, codes: Sequence[str]) -> None:
        manifest = read_manifest(path.with_suffix(".json"))
        _check_classes(path, manifest.codes, codes)
        self.input_size = manifest.preprocessing.input_size
        self.embedding_dim = int(manifest.outputs["embedding"][-1])
        self.trained_classes = tuple(
            {c for source in manifest.sources for c, count in source.training_images.items() if count}
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Answer:
        pixels = (_resized(images, self.input_size) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        arrays = self.session.run(["logits", "embedding"], {INPUT: pixels.cpu().numpy()})
        logits, embedding = (torch.from_numpy(array).to(images.device) for array in arrays)
        return Answer(logits, embedding, {})


def load_teacher(path: Path, codes: Sequence[str]) -> Teacher:
    """The teacher in a run folder or an artefact (.onnx).

    Raises:
        TeacherError: it has other classes.
        RunError, ArtefactError: the run's training has not ended; the artefact has no valid manifest.
    """
    return ArtefactTeacher(path, codes) if path.suffix == ".onnx" else RunTeacher(path, codes)


def map_widths(net: Network) -> Widths:
    """Stride → channels of the maps that the network names."""
    return {stride: source.channels for stride, source in map_sources(net).items()}


def _check_classes(path: Path, theirs: Sequence[str], codes: Sequence[str]) -> None:
    if tuple(theirs) != tuple(codes):
        raise TeacherError(f"{path}: a teacher must have the same classes in the same order as this run")


def _check_maps(path: Path, theirs: Widths, own: Widths) -> None:
    if not set(theirs) & set(own):
        without_maps = path if own else "this network"
        raise TeacherError(
            f"distil.hints: {without_maps} shows no feature maps at 1/8, 1/16 or 1/32; "
            "a hint needs a run folder as teacher, and VAN, VAN-MLKA or a trunk of timm on both sides"
        )


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


class Teachers:
    """An ensemble of teachers: the mean of their softened probabilities.

    A teacher says nothing about a picture of a class that it has not seen in training: it would give it another
    name. The label takes its place.

    Raises:
        TeacherError, RunError, ArtefactError: see `load_teacher`.
    """

    def __init__(self, config: Config) -> None:
        self.temperature, self.weight = config.distil.temperature, config.distil.weight
        self.features, self.hints = config.distil.features, config.distil.hints
        self.paths = config.distil.teachers
        self.teachers = [load_teacher(path, config.codes) for path in self.paths]
        self.trained_classes = [
            torch.tensor([code in t.trained_classes for code in config.codes]) for t in self.teachers
        ]

    def __len__(self) -> int:
        return len(self.teachers)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself: teachers are frozen, and an onnxruntime session cannot be copied."""
        return self

    @property
    def input_size(self) -> int:
        """The largest input size of a teacher; 0 where there are none."""
        return max((teacher.input_size for teacher in self.teachers), default=0)

    def projectors(self, dim: int, maps: Widths) -> "Projectors":
        """Trainable projections of a student.

        Args:
            dim: of its embedding.
            maps: widths of its maps.

        Raises:
            TeacherError: `distil.hints` is set, and a teacher and the student have no map of one stride.
        """
        if self.hints:
            for path, teacher in zip(self.paths, self.teachers, strict=True):
                _check_maps(path, teacher.map_widths, maps)
        return Projectors(
            nn.ModuleList(nn.Linear(dim, t.embedding_dim, bias=False) for t in self.teachers if self.features),
            HintProjectors(maps, [t.map_widths for t in self.teachers if self.hints]),
        )

    def targets(self, images: Tensor, labels: Tensor) -> "Targets":
        """What the teachers answer.

        Args:
            images: (N, 3, S, S) in 0..1.
            labels: class indices (N,).
        """
        answers = [teacher(images) for teacher in self.teachers]
        named = F.one_hot(labels, len(self.trained_classes[0])).to(images)
        softened = [
            torch.where(trained.to(labels.device)[labels, None], self._softened(answer), named)
            for trained, answer in zip(self.trained_classes, answers, strict=True)
        ]
        return Targets(
            torch.stack(softened).mean(dim=0),
            [answer.embedding for answer in answers if self.features],
            [answer.maps for answer in answers if self.hints],
        )

    def _softened(self, answer: Answer) -> Tensor:
        return torch.softmax(answer.logits.float() / self.temperature, dim=1)

    def loss(self, student: VANOutput, maps: Maps, targets: "Targets", projectors: "Projectors") -> Tensor:
        """T² · KL(teachers ‖ student) at temperature T (arXiv 1503.02531, section 2), the embedding and the hint loss.

        The embedding loss is the sum over the teachers of 1 - cos between the projected embedding and theirs, after
        FitNets (arXiv 1412.6550). The hint loss: `HintProjectors.loss`.

        Args:
            student: its answer.
            maps: its maps.
        """
        t = self.temperature
        answers = F.log_softmax(student.logits.float() / t, dim=1)
        loss = t * t * F.kl_div(answers, targets.probabilities, reduction="batchmean")
        for project, embedding in zip(projectors.embeddings, targets.embeddings, strict=False):
            similarity = F.cosine_similarity(project(student.embedding), embedding, dim=1)
            loss = loss + self.features * (1 - similarity).mean()
        return loss + self.hints * projectors.hints.loss(maps, targets.maps) if self.hints else loss


class Projectors(nn.Module):
    """What a student's embedding and maps are multiplied with before they are compared with those of its teachers.

    Args:
        embeddings: one for each teacher; none where `distil.features` is 0.
        hints: none where `distil.hints` is 0.
    """

    def __init__(self, embeddings: nn.ModuleList, hints: HintProjectors) -> None:
        super().__init__()
        self.embeddings, self.hints = embeddings, hints


@dataclass(frozen=True, slots=True)
class Targets:
    """The teachers' answers to a batch."""

    probabilities: Tensor  # (N, C), the mean of their softened probabilities
    embeddings: list[Tensor]  # (N, D) of each teacher; empty where `distil.features` is 0
    maps: list[Maps]  # of each teacher; empty where `distil.hints` is 0

    def mixed(self, mixing: Mixing) -> "Targets":
        """The answers to the mixed pictures, mixed as labels and pictures are: teachers see the pictures unmixed."""
        return Targets(
            mixing.labels(self.probabilities),
            [mixing.labels(embedding) for embedding in self.embeddings],
            [{stride: mixing.maps(each) for stride, each in maps.items()} for maps in self.maps],
        )
