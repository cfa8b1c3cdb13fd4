"""Keys on the command line, a finished run that is extended, all folds by one command, and loggers."""

import csv

import commands
import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from workspace import Workspace

from training.run import RunFolder

SHORT = """
[fit]
epochs = 2
batch_size = 16
warmup_epochs = 0
lr = 3e-3
ema_decay = 0.5
"""
FOLDS = '[data.split]\nkind = "kfold"\nk = 2\ncalibration = 0.2\n'


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    workspace.write("short", SHORT)
    workspace.fit("short", "short")
    return workspace


def _refusal(workspace: Workspace, name: str, run: str, *options: str) -> str:
    log = workspace.folder / "refusal.log"
    log.unlink(missing_ok=True)
    assert commands.run(*workspace.arguments(name, run, *options), log=log) == 2, log.read_text()
    said = log.read_text()
    assert "Traceback" not in said
    return said


def test_keys_on_the_command_line_are_kept_in_the_configuration_of_the_run(workspace: Workspace) -> None:
    keys = ("fit.epochs=1", "name=other", "fit.freeze=['stages.0']", "data.sources.0.tissue=bone marrow")
    workspace.fit("short", "keys", *(part for key in keys for part in ("--set", key)))
    config = RunFolder(workspace.folder / "runs" / "keys").config()
    assert (config.fit.epochs, config.name, config.fit.freeze) == (1, "other", ("stages.0",))
    assert "--set fit.epochs=1" in RunFolder(workspace.folder / "runs" / "keys").fit().config
    text = (workspace.folder / "runs" / "keys" / "config.toml").read_text()
    assert "lr = 3e-3" in text and "seed = 3" in text  # the rest is as it was written


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("fit.epochs", "expected KEY=VALUE"),
        ("fit.epoch=3", "unknown key 'fit.epoch'; did you mean 'epochs'?"),
        ("fit.epochs=many", "epochs = 'many' is text; write a number without quotes"),
        ("data.sources.7.weight=2", "there is no data.sources.7"),
    ],
)
def test_a_key_that_is_off_is_named(workspace: Workspace, key: str, says: str) -> None:
    assert says in _refusal(workspace, "short", "off", "--set", key)
    assert not (workspace.folder / "runs" / "off").exists()


def test_another_configuration_in_the_folder_names_the_keys_that_differ(workspace: Workspace) -> None:
    said = _refusal(workspace, "short", "short", "--set", "fit.epochs=5", "--set", "model.drop_path=0.3")
    assert "(model.drop_path: 0.2 → 0.3; fit.epochs: 2 → 5)" in said


@pytest.mark.slow
def test_a_finished_run_is_extended_to_what_one_training_makes(workspace: Workspace) -> None:
    """A cosine cycle appended later gives the bits of a training that had it from the beginning."""
    restart = ("--set", "fit.restarts=[2]")
    workspace.fit("short", "whole", *restart)
    workspace.fit("short", "extended")
    assert workspace.weights("extended") == workspace.weights("short") != workspace.weights("whole")
    workspace.fit("short", "extended", "--extend", *restart)
    assert workspace.weights("extended") == workspace.weights("whole")
    assert workspace.curves("extended") == workspace.curves("whole")
    assert RunFolder(workspace.folder / "runs" / "extended").config().fit.restarts == (2,)
    workspace.fit("short", "extended", "--extend", *restart)  # once more: it is finished
    assert "the run is already trained" in workspace.said("extended")


@pytest.mark.parametrize("key", ["fit.lr=0.1", "fit.epochs=1"])
def test_what_is_not_longer_is_no_extension(workspace: Workspace, key: str) -> None:
    assert "cannot be extended" in _refusal(workspace, "short", "short", "--extend", "--set", key)
    assert (workspace.folder / "runs" / "short" / "weights.safetensors").exists()


def test_all_folds_by_one_command_which_resumes(workspace: Workspace) -> None:
    workspace.write("folds", SHORT.replace("epochs = 2", "epochs = 1") + FOLDS)
    out, log = workspace.folder / "folds", workspace.folder / "folds.log"
    arguments = ("folds", workspace.folder / "folds.toml", "--data", workspace.folder, "--out", out)
    assert commands.run(*arguments, log=log) == 0, log.read_text()
    with (out / "pool" / "predictions.csv").open(newline="") as file:
        tested = [(row["true"], row["file"]) for row in csv.DictReader(file)]
    assert len(tested) == len(set(tested)) == 48
    assert "fold 0 of 0 to 1" in log.read_text() and "2 folds pooled" in log.read_text()
    assert RunFolder(out / "fold_1").config().data.split.fold == 1
    before = (out / "fold_0" / "weights.safetensors").stat().st_mtime_ns
    assert commands.run(*arguments, log=log) == 0
    assert (out / "fold_0" / "weights.safetensors").stat().st_mtime_ns == before


def test_folds_of_another_split_are_refused(workspace: Workspace) -> None:
    log = workspace.folder / "no-folds.log"
    assert commands.run("folds", workspace.folder / "short.toml", "--out", workspace.folder / "no", log=log) == 2
    assert 'folds need kind = "kfold"' in log.read_text()


@pytest.mark.slow
def test_tensorboard_and_mlflow_get_the_curves_and_change_no_weights(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = (workspace.folder / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or database is for people, files are for this test
    environment, log = {"MLFLOW_ALLOW_FILE_STORE": "true"}, workspace.folder / "logged.log"
    loggers = ("--set", "logging.tensorboard=true", "--set", f"logging.mlflow={uri}")
    for steps in (("--steps", "1"), ()):
        arguments = workspace.arguments("short", "logged", *loggers, *steps)
        assert commands.run(*arguments, log=log, **environment) == 0, log.read_text()
    assert workspace.weights("logged") == workspace.weights("short")
    run, losses = workspace.folder / "runs" / "logged", workspace.curves("logged")["calibration_loss"]
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [one.value for one in events.Scalars("calibration_loss")] == pytest.approx(list(losses.values()), rel=1e-5)
    client = MlflowClient(uri)
    run_id = (run / "mlflow_run_id.txt").read_text()
    found = client.get_metric_history(run_id, "calibration_loss")
    assert [one.value for one in found] == pytest.approx(list(losses.values()), rel=1e-5)
    assert client.get_run(run_id).data.params["fit/epochs"] == "2"
