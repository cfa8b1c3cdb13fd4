"""`marrowlens-train accuracy`: exported models on one run's calibration block."""

import csv
import json
import shutil
from pathlib import Path

import commands
import pytest
from folded import Folded

from model.contract import ArtefactError
from model.report.page import Table
from training.compare.accuracy import accuracy_table
from training.run import RunFolder


@pytest.fixture(scope="module")
def run(folded: Folded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the first fold, evaluated on its calibration block."""
    run = tmp_path_factory.mktemp("accuracy") / "run"
    shutil.copytree(folded.runs[0], run)
    folded.made("evaluate", run, "--data", folded.data, "--block", "calibration", "--quick")
    return run


@pytest.fixture(scope="module")
def artefact(folded: Folded, run: Path) -> Path:
    """Its exported network, with its split list; every class that it has seen is supported."""
    folded.made("export", run, "--data", folded.data, "--out", run.parent / "weights", "--allow-inert")
    (path,) = (run.parent / "weights").glob("*.onnx")
    manifest = json.loads(path.with_suffix(".json").read_text())
    seen = {code for source in manifest["sources"] for code, count in source["training_images"].items() if count}
    _declare_unsupported(path, [entry["code"] for entry in manifest["classes"] if entry["code"] not in seen])
    return path


def _declare_unsupported(artefact: Path, codes: list[str]) -> None:
    manifest = json.loads(artefact.with_suffix(".json").read_text())
    artefact.with_suffix(".json").write_text(json.dumps(manifest | {"unsupported": codes}))


def _copied(artefact: Path, folder: Path) -> Path:
    folder.mkdir()
    for suffix in (".onnx", ".json", ".split.csv"):
        shutil.copy(artefact.with_suffix(suffix), folder / f"{artefact.stem}{suffix}")
    return folder / artefact.name


def _table(run: Path, data: Path, *artefacts: Path) -> Table:
    return accuracy_table({f"model {at}": path for at, path in enumerate(artefacts)}, RunFolder(run), data, None)


def _calibration(run: Path) -> list[dict[str, str]]:
    """Readable calibration pictures."""
    with (run / "split.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["block"] == "calibration"]


@pytest.mark.slow
def test_the_figure_is_that_of_the_development_evaluation(folded: Folded, run: Path, artefact: Path) -> None:
    table, count = _table(run, folded.data, artefact), len(_calibration(run))
    metrics = RunFolder(run).evaluation("calibration").metrics
    found = [
        metric for name in ("accuracy", "macro_f1", "balanced_accuracy") for metric in metrics if metric.name == name
    ]
    assert found[0].n == count and f"n = {count}," in table.title
    assert table.rows[0][1:4] == tuple(f"{one.value:.3f} ({one.low:.3f}–{one.high:.3f})" for one in found)
    assert "Patients: unknown" in table.note


@pytest.mark.slow
def test_a_model_does_not_differ_from_itself(folded: Folded, run: Path, artefact: Path, tmp_path: Path) -> None:
    first, second = _table(run, folded.data, artefact, _copied(artefact, tmp_path / "copy")).rows
    assert first[1:4] == second[1:4]
    assert first[4:] == ("", "") and second[4:] == ("+0.0 (+0.0 to +0.0)", "1")


def test_pictures_that_one_model_learned_from_are_left_out_for_all(
    folded: Folded, run: Path, artefact: Path, tmp_path: Path
) -> None:
    other, count = _copied(artefact, tmp_path / "other"), len(_calibration(run))
    listed = other.with_suffix(".split.csv")
    listed.write_text(listed.read_text().replace("calibration,", "train,", 1))
    table = _table(run, folded.data, artefact, other)
    assert (
        f"n = {count - 1}," in table.title and "Left out: 1 that a model learned from or was tested on." in table.note
    )
    listed.write_text(listed.read_text().replace("calibration,", "train,"))
    log = tmp_path / "log"
    code = commands.run("accuracy", other, "--run", run, "--data", folded.data, log=log)
    assert code == 2 and "that no model learned from" in log.read_text() and "Traceback" not in log.read_text()


def test_a_model_without_a_split_list_is_named(folded: Folded, run: Path, artefact: Path, tmp_path: Path) -> None:
    other = _copied(artefact, tmp_path / "other")
    other.with_suffix(".split.csv").unlink()
    assert _table(run, folded.data, artefact, other).note.endswith("learned from these pictures: model 1.")


def test_a_class_counts_if_all_models_support_it(folded: Folded, run: Path, artefact: Path, tmp_path: Path) -> None:
    other = _copied(artefact, tmp_path / "other")
    unsupported = json.loads(other.with_suffix(".json").read_text())["unsupported"]
    _declare_unsupported(other, [*unsupported, "LYT"])
    table, of_others = (
        _table(run, folded.data, artefact, other),
        [row for row in _calibration(run) if row["code"] != "LYT"],
    )
    assert f"n = {len(of_others)}," in table.title and "LYT" not in table.title


def test_the_command_prints_every_model(folded: Folded, run: Path, artefact: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    other = _copied(artefact, tmp_path / "other")
    code = commands.run("accuracy", artefact, other, "--run", run, "--data", folded.data, log=log, COLUMNS="200")
    assert code == 0, log.read_text()
    assert "+0.0 (+0.0 to" in log.read_text() and "macro F1" in log.read_text()


def test_the_same_model_twice_is_a_mistake(folded: Folded, run: Path, artefact: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert commands.run("accuracy", artefact, artefact, "--run", run, "--data", folded.data, log=log) == 2
    assert "given twice" in log.read_text()


def test_a_graph_with_the_manifest_of_another_is_refused(
    folded: Folded, run: Path, artefact: Path, tmp_path: Path
) -> None:
    other = _copied(artefact, tmp_path / "other")
    manifest = json.loads(artefact.with_suffix(".json").read_text())
    other.with_suffix(".json").write_text(json.dumps(manifest | {"sha256": "0" * 64}))
    with pytest.raises(ArtefactError, match="the sha256 differs"):
        _table(run, folded.data, artefact, other)


def test_the_same_data_under_another_name_is_recognised_by_file_names(
    folded: Folded, run: Path, artefact: Path, tmp_path: Path
) -> None:
    other = _copied(artefact, tmp_path / "other")
    names = [row["file"] for row in _calibration(run)]
    listed = ["block,source,code,file", f"train,elsewhere,EOS,copies/{names[0]}", f"test,elsewhere,EOS,{names[-1]}"]
    other.with_suffix(".split.csv").write_text("\n".join(listed) + "\n")
    same = sum(Path(name).name in (Path(names[0]).name, Path(names[-1]).name) for name in names)
    assert f"n = {len(names) - same}," in _table(run, folded.data, artefact, other).title


def test_the_difference_has_the_sign_of_the_second_model(
    folded: Folded, run: Path, artefact: Path, tmp_path: Path
) -> None:
    """The copy's manifest names the classes in another order: it is wrong wherever the first is right."""
    other = _copied(artefact, tmp_path / "other")
    manifest = json.loads(other.with_suffix(".json").read_text())
    manifest["classes"] = manifest["classes"][1:] + manifest["classes"][:1]
    other.with_suffix(".json").write_text(json.dumps(manifest))
    first, second = _table(run, folded.data, artefact, other).rows
    right = [float(row[1].split()[0]) for row in (first, second)]
    assert right[0] > right[1]
    assert second[4].startswith(f"{100 * (right[1] - right[0]):+.0f}"[:3])
