"""`marrowlens-train pool`: every picture is predicted once; pooled metrics equal those of the folds' predictions."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folded import Folded

from training.evaluation.cross_validation import fold_tables, pool_folds
from training.evaluation.scores import scores_of_run, write_evaluation
from training.evaluation.tables import evaluation_tables
from training.run import RunFolder


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _evaluation(folder: Path) -> dict[str, dict[str, list[list[int]]]]:
    found: dict[str, dict[str, list[list[int]]]] = json.loads((folder / "evaluation.json").read_text())
    return found


def _copied(run: Path, to: Path) -> RunFolder:
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("cache", "checkpoints"))
    return RunFolder(to)


@pytest.mark.slow
def test_pooled_counts_are_the_sum_of_the_folds(folded: Folded) -> None:
    (pooled,) = _evaluation(folded.pooled)["confusion"].values()
    parts = [next(iter(_evaluation(run)["confusion"].values())) for run in folded.runs]
    assert len(parts) == 2
    assert np.array_equal(pooled, np.sum(parts, axis=0))


def test_every_readable_picture_is_predicted_once_by_its_fold(folded: Folded) -> None:
    pooled = _rows(folded.pooled / "predictions.csv")
    assert pooled == [row for run in folded.runs for row in _rows(run / "predictions.csv")]
    drawn = {path.name for path in (folded.data / "drawn").rglob("*.jpg")} - {folded.unreadable}
    assert sorted(row["file"] for row in pooled) == sorted(drawn)


def test_a_picture_that_cannot_be_read_is_not_one_that_no_fold_tested(folded: Folded) -> None:
    assert folded.unreadable in {row["file"] for run in folded.runs for row in _rows(run / "unreadable.csv")}
    assert "tested in no fold" not in folded.pool_said()
    (split,) = _evaluation(folded.pooled)["splits"].values()
    assert split == "drawn (bone marrow), 2 folds pooled, each picture tested once"


def test_folds_of_one_name_are_told_apart(folded: Folded, tmp_path: Path) -> None:
    runs = [_copied(run, tmp_path / str(number) / "run") for number, run in enumerate(folded.runs)]
    (table,) = fold_tables(pool_folds(runs))
    assert [row[0] for row in table.rows] == [str(run.folder) for run in runs] + ["mean ± sd"]


def test_each_fold_stands_beside_the_pool_with_its_n(folded: Folded) -> None:
    found = pool_folds([RunFolder(run) for run in folded.runs])
    (table,) = fold_tables(found)
    first, second, spread = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert int(first["n"]) + int(second["n"]) == int(spread["n"]) == len(found.scores)
    each = np.array([run.evaluation().metrics[0].value for run in map(RunFolder, folded.runs)])
    assert spread["accuracy"] == f"{each.mean():.3f} ± {each.std(ddof=1):.3f}"
    rows = [row for row in _rows(folded.pooled / "folds.csv") if row["figure"] == "accuracy"]
    assert [(row["run"], row["n"]) for row in rows] == [("fold-0", first["n"]), ("fold-1", second["n"])]


def test_each_picture_keeps_the_temperature_of_its_fold(folded: Folded) -> None:
    found, evaluations = RunFolder(folded.pooled), [RunFolder(run).evaluation() for run in folded.runs]
    expected = [
        evaluations[at].temperature
        for at, run in enumerate(folded.runs)
        for _ in scores_of_run(RunFolder(run), "test").labels
    ]
    assert scores_of_run(found, "test").temperature.tolist() == expected
    product = np.prod([evaluation.temperature for evaluation in evaluations])
    assert found.evaluation().temperature == pytest.approx(product**0.5)


def test_every_figure_of_the_pool_is_in_a_table_with_its_n(folded: Folded) -> None:
    evaluation = RunFolder(folded.pooled).evaluation()
    made = evaluation_tables(evaluation, next(iter(evaluation.splits)))
    assert "Further metrics" not in [table.title for table in made]
    for table in made:
        assert all(len(row) == len(table.header) for row in table.rows)
        counts = [at for at, name in enumerate(table.header) if name.split()[0] == "n"]
        assert all(any(row[at].isdigit() for at in counts) for row in table.rows), table.title


def test_what_is_no_pool_is_refused_in_one_line(folded: Folded, tmp_path: Path) -> None:
    (first, second), out = folded.runs, tmp_path / "none"
    assert "only one run to pool" in folded.refusal("pool", first, "--out", out)
    assert "were tested in" in folded.refusal("pool", first, folded.second, "--out", out)
    assert "is a trained run" in folded.refusal("pool", first, second, "--out", first)
    config = _copied(second, tmp_path / "other").folder / "config.toml"
    config.write_text(config.read_text().replace("input_size = 32", "input_size = 64"))
    assert "has another network than" in folded.refusal("pool", first, tmp_path / "other", "--out", out)
    assert not out.exists()


def test_pictures_that_no_fold_tested_are_counted(folded: Folded, tmp_path: Path) -> None:
    first, second = RunFolder(folded.runs[0]), _copied(folded.runs[1], tmp_path / "less")
    whole = scores_of_run(second, "test")
    write_evaluation(second, second.evaluation(), {"test": whole.rows(np.arange(len(whole)) > 0)})
    found = pool_folds([first, second])
    assert found.untested == 1
    (split,) = found.evaluation.splits.values()
    assert f"{len(found.scores)} of {len(found.scores) + 1} pictures tested, each once" in split
