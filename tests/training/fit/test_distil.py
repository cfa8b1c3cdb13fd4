"""Distillation: the loss is 0 for a student equal to its teachers, and moves others towards them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.heads import VANOutput
from training.config import Config, read_config
from training.data.mixing import Mixing
from training.fit.distil import Lesson, TeacherError, Teachers
from training.networks.build import build

CONFIG = """
name = "teacher"
version = "0.0.1"
classes = [
    {{code = "A", name = "a", lineage = "other", countable = "always"}},
    {{code = "{second}", name = "b", lineage = "other", countable = "always"}},
]
[model]
variant = "micro"
input_size = 32
[distil]
teachers = [{teachers}]
features = {features}
[[data.sources]]
name = "drawn"
folder = "drawn"
licence = "CC0"
attribution = "none"
[card]
intended_use = "tests"
licence = "CC0"
"""


def _config(folder: Path, teachers: str = "", features: float = 0.0, second: str = "B") -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(CONFIG.format(teachers=teachers, features=features, second=second))
    return read_config(folder / "config.toml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished training."""
    folder = tmp_path_factory.mktemp("teacher")
    config = _config(folder)
    torch.manual_seed(0)
    save_file(
        {k: v.contiguous() for k, v in build(config.model, 2).state_dict().items()}, folder / "weights.safetensors"
    )
    return folder


@dataclass(frozen=True)
class Taught:
    teachers: Teachers
    lesson: Lesson
    answer: VANOutput


@pytest.fixture
def taught(run: Path, tmp_path: Path) -> Taught:
    teachers = Teachers(_config(tmp_path / "student", teachers=f'"{run}"', features=1.0))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return Taught(teachers, teachers.lesson(images), teachers.teachers[0](images))


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn(taught: Taught) -> None:
    projectors = taught.teachers.projectors(taught.answer.embedding.shape[1])
    torch.nn.init.eye_(projectors[0].weight)
    assert taught.teachers.loss(taught.answer, taught.lesson, projectors).item() == pytest.approx(0, abs=1e-5)


def test_learning_draws_answers_and_embedding_towards_the_teacher(taught: Taught) -> None:
    torch.manual_seed(2)
    logits = torch.randn(4, 2, requires_grad=True)
    embedding = torch.randn(4, 7, requires_grad=True)
    projectors = taught.teachers.projectors(7)
    optimiser = torch.optim.Adam([logits, embedding, *projectors.parameters()], lr=0.05)
    losses = []
    for _ in range(60):
        loss = taught.teachers.loss(
            taught.answer._replace(logits=logits, embedding=embedding), taught.lesson, projectors
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    found, wanted = (
        torch.softmax(each / taught.teachers.temperature, dim=1) for each in (logits, taught.answer.logits)
    )
    assert torch.allclose(found, wanted, atol=0.05)


def test_a_mixed_batch_is_taught_the_mixture_of_the_answers(taught: Taught) -> None:
    mixed = taught.lesson.mixed(Mixing(0.75))
    expected = 0.75 * taught.lesson.probabilities[0] + 0.25 * taught.lesson.probabilities[3]
    torch.testing.assert_close(mixed.probabilities[0], expected)
    torch.testing.assert_close(mixed.probabilities.sum(dim=1), torch.ones(4))
    assert mixed.embeddings[0].shape == taught.lesson.embeddings[0].shape


def test_without_a_weight_for_embeddings_nothing_is_projected(run: Path, tmp_path: Path) -> None:
    teachers = Teachers(_config(tmp_path / "student", teachers=f'"{run}"'))
    assert len(teachers.projectors(7)) == 0


def test_a_teacher_of_other_classes_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="must have the same classes in the same order"):
        Teachers(_config(tmp_path / "student", teachers=f'"{run}"', second="C"))
