"""Provenance: manifest and card name the pretrained weights, their licence, and the test pictures they have seen."""

from pathlib import Path

import commands
import onnx
import pytest
from workspace import Workspace

from model.contract import Manifest, read_manifest
from training.fit.pretrained import less_restrictive

FIT = "[fit]\nepochs = 1\nbatch_size = 8\nwarmup_epochs = 0\nema_decay = 0\n"
FIRST = (
    ('name = "drawn"\nversion', 'name = "first"\nversion'),
    ('use = "tests"\nlicence = "CC0"', 'use = "x"\nlicence = "CC BY 4.0"'),
)
OTHER_SPLIT = '[data.split]\nkind = "random"\nseed = 5\n'


class Transfer:
    """`first`, exported, and `second`, initialised from its artefact and exported after that was deleted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workspace = folder, Workspace(folder)
        self.workspace.write("first", FIT, *FIRST)
        self.workspace.write("second", FIT)
        self.artefact = folder / "weights" / "first" / "first.onnx"
        self.workspace.fit("first", "first")
        self.exported("first")
        self.workspace.fit("second", "second", "--init", str(self.artefact))
        self.sha256 = read_manifest(self.artefact.with_suffix(".json")).sha256
        hidden = self.artefact.rename(self.artefact.with_suffix(".away"))
        self.exported("second")
        hidden.rename(self.artefact)

    def exported(self, name: str) -> None:
        for command in (
            ("evaluate", "--data", self.folder, "--quick"),
            ("export", "--allow-inert", "--out", self.folder / "weights" / name),
        ):
            log = self.folder / f"{name}.log"
            assert commands.run(command[0], self.folder / "runs" / name, *command[1:], log=log) == 0, log.read_text()

    def manifest(self) -> Manifest:
        return read_manifest(self.folder / "weights" / "second" / "drawn.json")

    def card(self) -> str:
        return (self.folder / "weights" / "second" / "MODEL_CARD.md").read_text()


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Transfer:
    return Transfer(tmp_path_factory.mktemp("transfer"))


@pytest.mark.slow
def test_manifest_and_card_name_what_it_began_with(transfer: Transfer) -> None:
    named = f"Initialised from first 0.0.1 (sha256 {transfer.sha256}); licence: CC BY 4.0."
    assert transfer.manifest().attribution == ("drawn by training/drawn/painter.py", named)
    assert named in transfer.card() and named in transfer.workspace.said("second")


@pytest.mark.slow
def test_a_laxer_licence_is_complained_of(transfer: Transfer) -> None:
    said = "card.licence 'CC0' is less restrictive than the pretrained weights' (CC BY 4.0)"
    assert transfer.workspace.said("second").count(said) == 2  # at the training and at the export


@pytest.mark.slow
def test_the_same_split_leaks_nothing_and_the_limits_of_that_are_said(transfer: Transfer) -> None:
    (limit,) = [limit for limit in transfer.manifest().limits if limit.startswith("Initialised from")]
    assert limit.startswith("Initialised from first 0.0.1, which was trained on none of the 6 test pictures (compared")
    assert limit in transfer.card()


@pytest.mark.slow
def test_another_split_leaks_and_says_how_much(transfer: Transfer) -> None:
    transfer.workspace.write("leaks", FIT + OTHER_SPLIT)
    run = transfer.folder / "runs" / "first"
    transfer.workspace.fit("leaks", "leaks", "--init", str(run), "--steps", "1")
    rows = [(run.parent / name / "split.csv").read_text().splitlines() for name in ("first", "leaks")]
    learned, tested = (
        {row.rpartition(",")[2] for row in of if row.startswith(blocks)}
        for of, blocks in zip(rows, (("train", "calibration"), "test"), strict=True)
    )
    assert len(learned & tested) > 0
    assert f"trained on {len(learned & tested)} of the {len(tested)} test pictures" in transfer.workspace.said("leaks")


@pytest.mark.slow
def test_a_card_tells_no_path_of_the_machine_and_no_teacher_that_there_was_not(transfer: Transfer) -> None:
    card = transfer.card()
    assert str(transfer.folder) not in card
    assert "Requires the initial weights first.onnx.\n" in card
    assert "marrowlens-train fit second.toml --init first.onnx --data DATA" in card
    assert "This excludes the training of the required weights." in card and "teacher" not in card


@pytest.mark.slow
def test_the_card_of_another_model_is_not_overwritten(transfer: Transfer) -> None:
    log, out = transfer.folder / "again.log", transfer.folder / "weights" / "first"
    before = (out / "MODEL_CARD.md").read_bytes()
    assert commands.run("export", transfer.folder / "runs" / "second", "--out", out, log=log) == 2
    assert "is the card of first 0.0.1; choose another folder for drawn with --out" in log.read_text()
    assert (out / "MODEL_CARD.md").read_bytes() == before and not (out / "drawn.onnx").exists()


BUNDLED = Path("model/weights/marrowlens-lite.onnx")


def _advice() -> str:
    """What is said of the bundled model's weights where a network of another variant is to begin with them."""
    variant, tensors = read_manifest(BUNDLED.with_suffix(".json")).variant, onnx.load(BUNDLED).graph.initializer
    count = sum(tensor.name.startswith("net.") for tensor in tensors)
    wrong = f"none of its {count} tensors matches 'resnet18', and it was trained with another mean and std"
    return f"""{wrong}; set under [model]:
    variant = "{variant}"
    mean = [0.5, 0.5, 0.5]
    std = [0.5, 0.5, 0.5]
    input_size = 128
"""


def test_what_does_not_fit_is_said_at_once_before_a_picture_is_read_and_leaves_the_folder_free(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    other = (('folder = "drawn"', 'folder = "not there"'), ('variant = "micro"', 'variant = "resnet18"'))
    workspace.write("misfit", FIT, *other)
    arguments = workspace.arguments("misfit", "misfit")
    assert commands.run(*arguments, "--init", str(BUNDLED), log=tmp_path / "misfit.log") == 2
    assert _advice() in workspace.said("misfit") and "not there" not in workspace.said("misfit")
    workspace.write("misfit", FIT.replace("batch_size = 8", "batch_size = 64"))
    assert commands.run(*workspace.arguments("misfit", "misfit"), log=tmp_path / "misfit.log") == 2
    assert "are fewer than fit.batch_size 64" in workspace.said("misfit")
    workspace.write("misfit", FIT)  # not trained yet: another configuration may use the folder
    workspace.fit("misfit", "misfit", "--steps", "1")


@pytest.mark.parametrize(
    ("licence", "ttransfer", "is_laxer"),
    [
        ("CC0", "CC BY 4.0", True),
        ("Apache-2.0", "CC-BY-4.0", True),
        ("CC BY 4.0", "CC BY-NC 4.0", True),
        ("CC BY 4.0", "CC BY 4.0; initialised from ImageNet weights (Apache-2.0)", False),
        ("CC BY-SA 4.0", "CC BY 4.0", False),
        ("CC0", "", True),  # unknown
        ("not to be passed on", "CC BY 4.0", False),
        ("Ours, see LICENCE", "Ours, see LICENCE", False),
    ],
)
def test_which_of_two_licences_asks_more(licence: str, ttransfer: str, is_laxer: bool) -> None:
    assert less_restrictive(licence, ttransfer) is is_laxer
