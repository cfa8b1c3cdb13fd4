"""Distillation: the loss is 0 for a student equal to its teachers, and moves others towards them."""

import copy
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import pytest
import torch
from graphs import write_artefact
from safetensors.torch import save_file

from model.contract import DataSource, read_manifest
from model.heads import VANOutput
from training.config import Config, ConfigError, read_config
from training.data.mixing import Mixing
from training.fit.distil import Targets, TeacherError, Teachers
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
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[distil]
teachers = [{teachers}]
features = {features}
hints = {hints}
[[data.sources]]
name = "drawn"
folder = "drawn"
licence = "CC0"
attribution = "none"
[card]
intended_use = "tests"
licence = "CC0"
"""


def _config(folder: Path, teachers: str = "", features: float = 0.0, hints: float = 0.0, second: str = "B") -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIG.format(teachers=teachers, features=features, hints=hints, second=second)
    (folder / "config.toml").write_text(text)
    return read_config(folder / "config.toml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished training, which saw pictures of class A in training and of B in the test block only."""
    folder = tmp_path_factory.mktemp("teacher")
    config = _config(folder)
    torch.manual_seed(0)
    save_file(
        {k: v.contiguous() for k, v in build(config.model, 2).state_dict().items()}, folder / "weights.safetensors"
    )
    (folder / "split.csv").write_text("block,source,code,file\ntrain,drawn,A,1.png\ntest,drawn,B,1.png\n")
    (folder / "unreadable.csv").write_text("source,code,file,reason\n")
    return folder


@dataclass(frozen=True)
class Taught:
    teachers: Teachers
    targets: Targets
    answer: VANOutput


@pytest.fixture
def taught(run: Path, tmp_path: Path) -> Taught:
    teachers = Teachers(_config(tmp_path / "student", teachers=f'"{run}"', features=1.0))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    out = teachers.teachers[0].net(2 * images - 1)
    return Taught(teachers, teachers.targets(images, torch.zeros(4, dtype=torch.int64)), out)


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn(taught: Taught) -> None:
    projectors = taught.teachers.projectors(taught.answer.embedding.shape[1], {})
    torch.nn.init.eye_(projectors.embeddings[0].weight)
    assert taught.teachers.loss(taught.answer, {}, taught.targets, projectors).item() == pytest.approx(0, abs=1e-5)


def test_learning_draws_answers_and_embedding_towards_the_teacher(taught: Taught) -> None:
    torch.manual_seed(2)
    logits = torch.randn(4, 2, requires_grad=True)
    embedding = torch.randn(4, 7, requires_grad=True)
    projectors = taught.teachers.projectors(7, {})
    optimiser = torch.optim.Adam([logits, embedding, *projectors.parameters()], lr=0.05)
    losses = []
    for _ in range(60):
        loss = taught.teachers.loss(
            taught.answer._replace(logits=logits, embedding=embedding), {}, taught.targets, projectors
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
    mixed = taught.targets.mixed(Mixing(0.75))
    expected = 0.75 * taught.targets.probabilities[0] + 0.25 * taught.targets.probabilities[3]
    torch.testing.assert_close(mixed.probabilities[0], expected)
    torch.testing.assert_close(mixed.probabilities.sum(dim=1), torch.ones(4))
    assert mixed.embeddings[0].shape == taught.targets.embeddings[0].shape


def test_a_teacher_says_nothing_about_a_class_that_it_has_not_seen(run: Path, tmp_path: Path) -> None:
    teachers = Teachers(_config(tmp_path / "student", teachers=f'"{run}"'))
    images = torch.rand(2, 3, 32, 32)
    targets = teachers.targets(images, torch.tensor([0, 1]))
    assert targets.probabilities[1].tolist() == [0, 1]  # the label
    expected = torch.softmax(teachers.teachers[0](images).logits[0] / teachers.temperature, dim=0)
    torch.testing.assert_close(targets.probabilities[0], expected)


def test_an_artefact_teaches_what_it_answers(tmp_path: Path) -> None:
    path = write_artefact(tmp_path, input_size=32)
    manifest = read_manifest(path.with_suffix(".json"))
    seen = DataSource(
        name="drawn", tissue="bone marrow", licence="CC0", attribution="none", training_images={"BLA": 5, "EOS": 0}
    )
    path.with_suffix(".json").write_text(manifest.model_copy(update={"sources": (seen,)}).model_dump_json())
    config = read_config(Path("training/configs/best.toml"))
    distil = config.distil.model_copy(update={"teachers": (path,), "features": 1.0})
    teachers = Teachers(config.model_copy(update={"distil": distil}))
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(path)
    logits, embedding = session.run(["logits", "embedding"], {"image": pixels.numpy()})
    assert teachers.teachers[0].trained_classes == ("BLA",)
    labels = torch.full((3,), config.codes.index("BLA"))
    targets = teachers.targets(pixels.permute(0, 3, 1, 2).float() / 255, labels)
    torch.testing.assert_close(targets.probabilities, torch.softmax(torch.from_numpy(logits), dim=1))
    torch.testing.assert_close(targets.embeddings[0], torch.from_numpy(embedding))
    assert teachers.projectors(7, {}).embeddings[0].out_features == embedding.shape[1]
    assert copy.deepcopy(teachers) is teachers  # of the module, for its moving average


def test_without_a_weight_for_embeddings_nothing_is_projected(run: Path, tmp_path: Path) -> None:
    teachers = Teachers(_config(tmp_path / "student", teachers=f'"{run}"'))
    assert not list(teachers.projectors(7, {8: 3}).parameters())


def test_a_hint_is_given_at_each_stride_and_a_student_equal_to_its_teacher_needs_none(
    run: Path, tmp_path: Path
) -> None:
    teachers = Teachers(_config(tmp_path / "student", teachers=f'"{run}"', hints=2.0))
    teacher = teachers.teachers[0]
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    answer = teacher(images)
    targets = teachers.targets(images, torch.zeros(4, dtype=torch.int64))
    projectors = teachers.projectors(7, teacher.map_widths)
    assert list(projectors.hints[0]) == ["8", "16", "32"]
    for project in projectors.hints[0].values():
        torch.nn.init.dirac_(project.weight)
    student = VANOutput(answer.logits, *[answer.embedding] * (len(VANOutput._fields) - 1))
    assert teachers.loss(student, answer.maps, targets, projectors).item() == pytest.approx(0, abs=1e-5)
    opposite = {stride: -each for stride, each in answer.maps.items()}
    assert teachers.loss(student, opposite, targets, projectors).item() == pytest.approx(4, abs=1e-5)


def test_a_hint_from_a_teacher_without_maps_is_refused(tmp_path: Path, run: Path) -> None:
    path = write_artefact(tmp_path, input_size=32)
    config = read_config(Path("training/configs/best.toml"))
    distil = config.distil.model_copy(update={"teachers": (path,), "hints": 1.0})
    teachers = Teachers(config.model_copy(update={"distil": distil}))
    with pytest.raises(TeacherError, match=r"distil\.hints: .*\.onnx shows no feature maps at 1/8, 1/16 or 1/32"):
        teachers.projectors(7, {8: 3})
    own = Teachers(_config(tmp_path / "student", teachers=f'"{run}"', hints=1.0))
    with pytest.raises(TeacherError, match="this network shows no feature maps"):
        own.projectors(7, {})


@pytest.mark.parametrize("loss", ["features", "hints"])
def test_a_loss_against_teachers_needs_teachers(tmp_path: Path, loss: str) -> None:
    with pytest.raises(ConfigError, match=r"name them in distil\.teachers"):
        _config(tmp_path, **{loss: 0.5})


def test_a_teacher_of_other_classes_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="must have the same classes in the same order"):
        Teachers(_config(tmp_path / "student", teachers=f'"{run}"', second="C"))
