"""A run that was interrupted at any moment ends with the same bits as an uninterrupted one."""

import os
import signal

import pytest
import torch
from pauses import paused
from workspace import Workspace

from training.drawn.painter import write_folder

TEACHER = "[fit]\nepochs = 1\nbatch_size = 16\nwarmup_epochs = 0\nema_decay = 0\nprecision = 'bf16-mixed'"
#: Everything that is random or remembers: mixing, masks, drop path, sampling, averaging, outliers, a teacher, growing
#: pictures.
STUDENT = """
[augment]
background = 0.5
blur = 0.5
jpeg = 0.5
mixup_alpha = 0.3
cutmix_alpha = 0.7
[fit]
epochs = 5
sizes = [[0, 32], [4, 64]]
batch_size = 8
warmup_epochs = 1
localisation = 0.2
ema_decay = 0.9
imbalance = "sampling"
[distil]
teachers = ["TEACHER"]
features = 0.1
hints = 0.1
"""
#: Whatever looks at the calibration loss; a rate that cannot go well for long.
WATCHING = """
[fit]
epochs = 12
batch_size = 16
optimiser = "adam"
lr = 0.02
weight_decay = 0
warmup_epochs = 0
schedule = "plateau"
plateau_factor = 0.5
plateau_patience = 0
early_stopping_patience = 2
keep = "best"
ema_decay = 0.5
imbalance = "logit_adjustment"
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    workspace.write("teacher", TEACHER)
    write_folder(workspace.folder / "others", ("PMO",), 5, size=48)
    exposed = ("[data]", '[data]\noutliers = ["others"]')
    workspace.write("student", STUDENT, ("input_size = 32", "input_size = 64"), exposed)
    workspace.write("watching", WATCHING)
    workspace.fit("teacher", "teacher")
    return workspace


@pytest.fixture(scope="module")
def unbroken(workspace: Workspace) -> bytes:
    workspace.fit("student", "unbroken")
    return workspace.weights("unbroken")


def test_every_epoch_has_its_loss_and_its_accuracy_on_what_it_learns_and_on_what_it_is_watched_on(
    workspace: Workspace, unbroken: bytes
) -> None:
    """Also with mixup, where a picture counts for the class with the larger share."""
    assert unbroken
    for name in ("train_loss", "train_accuracy", "calibration_loss", "calibration_accuracy"):
        values = {int(row["epoch"]): float(row[name]) for row in workspace.rows("unbroken") if row[name]}
        assert set(values) == set(range(5)), name
        assert all(value >= 0 and (value <= 1 or "loss" in name) for value in values.values()), name


@pytest.mark.slow
def test_killed_within_an_epoch_while_a_checkpoint_is_written(workspace: Workspace, unbroken: bytes) -> None:
    fitting = workspace.start("student", "killed", "--checkpoint-every", "1", pause=3)
    checkpoint = workspace.checkpoint("killed")
    with paused(fitting):
        assert checkpoint.with_name(f".{checkpoint.name}.unfinished").exists()
        fitting.kill()
    fitting.join()
    assert fitting.exitcode == -signal.SIGKILL
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2  # complete, though it was being replaced
    workspace.fit("student", "killed")
    assert workspace.weights("killed") == unbroken
    assert workspace.curves("killed") == workspace.curves("unbroken")  # of the whole epoch, also of the interrupted one


@pytest.mark.slow
def test_killed_an_epoch_after_its_last_checkpoint(workspace: Workspace, unbroken: bytes) -> None:
    fitting = workspace.start("student", "killed late", pause=2)
    with paused(fitting):
        fitting.kill()
    fitting.join()
    workspace.fit("student", "killed late")
    assert workspace.weights("killed late") == unbroken


def test_told_to_stop_it_ends_the_step_and_says_how_to_go_on(workspace: Workspace, unbroken: bytes) -> None:
    """Within an epoch at first, then after its last step."""
    checkpoint, stopped_at = workspace.checkpoint("told"), []
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        fitting = workspace.start("student", "told", "--checkpoint-every", "2", pause=1)
        with paused(fitting) as pid:
            os.kill(pid, signum)
        fitting.join()
        assert fitting.exitcode == code
        stopped_at.append(torch.load(checkpoint, weights_only=True)["global_step"])
    assert stopped_at == [3, 4]
    assert workspace.said("told").count("run the same command to resume") == 2
    assert "Traceback" not in workspace.said("told")
    workspace.fit("student", "told")
    assert workspace.weights("told") == unbroken


@pytest.mark.slow
def test_stopped_after_so_many_steps_and_picked_up(workspace: Workspace) -> None:
    """With two accumulation steps."""
    workspace.fit("student", "whole", "--accumulate", "2")
    workspace.fit("student", "part", "--accumulate", "2", "--steps", "3")
    assert "stopped in epoch 0 after step 3" in workspace.said("part")
    workspace.fit("student", "part", "--accumulate", "2", "--steps", "8")
    assert "stopped in epoch 1 after step 8" in workspace.said("part")
    workspace.fit("student", "part", "--accumulate", "2")
    assert workspace.weights("part") == workspace.weights("whole")


@pytest.mark.slow
def test_plateau_early_stop_and_best_epoch_are_as_if_nothing_had_happened(workspace: Workspace) -> None:
    workspace.fit("watching", "watched")
    rows = workspace.rows("watched")
    losses = {int(row["epoch"]): float(row["calibration_loss"]) for row in rows if row["calibration_loss"]}
    rates = [float(row["lr-Adam/pg1"]) for row in rows if row["lr-Adam/pg1"]]
    best = min(losses, key=losses.__getitem__)
    assert len(losses) < 12 and max(losses) == best + 2  # early stopping, two epochs after the best
    assert rates[0] == 0.02 and rates[-1] < 0.02  # reduced at the plateau
    state = torch.load(workspace.checkpoint("watched").with_name("best.ckpt"), weights_only=True)
    assert state["epoch"] == best
    # Names in the file: a checkpoint whose names are unknown would be resumed without its state.
    stopping = "Stopping{'monitor': 'calibration_loss', 'mode': 'min'}"
    assert {"Averaging", "Checkpoints", stopping} <= state["callbacks"].keys()
    assert state["learned"].shape == (1, 3)

    folder, moved = workspace.folder / "runs" / "resumed", workspace.folder / "runs" / "moved"
    for epoch in (
        1,
        best + 1,
        max(losses),
    ):  # two steps an epoch: stopped in the first, after the best, in the last but one
        workspace.fit("watching", "resumed", "--steps", str(2 * epoch))
    folder.rename(moved)
    workspace.fit("watching", "moved")
    assert workspace.weights("moved") == workspace.weights("watched")
    (
        moved / "weights.safetensors"
    ).unlink()  # as if killed before the weights were written: the decision to stop is kept
    workspace.fit("watching", "moved")
    assert workspace.weights("moved") == workspace.weights("watched")
