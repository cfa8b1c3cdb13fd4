"""A comparison from the command line, on drawn cells: planned, killed, resumed, evaluated, timed and plotted."""

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import commands
import numpy as np
import pytest
from numpy.typing import NDArray
from pauses import moment, paused
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from stress.training.drawn_config import DRAWN_CONFIG
from training.compare.results import Results
from training.drawn.painter import write_folder
from training.evaluation.scores import measured_scores
from training.run import RunFolder

pytestmark = pytest.mark.slow

FIT = """
[fit]
epochs = 1
batch_size = 8
warmup_epochs = 0
ema_decay = 0
"""
HEAD = """
title = "Drawn [cells]"
base = "drawn.toml"
speed = {rounds = 2, round_s = 0.001, batches = [1, 4], threads = 1}
"""
MICRO = '[[entry]]\nname = "micro"\nlabel = "ours | micro"\nseeds = [3, 4]\n'
LATE = '[[entry]]\nname = "late"\nset.model.init = "FOLDER/late.safetensors"\n'
MEASURED = '[[entry]]\nname = "measured"\nkind = "logistic"\ngroup = "measured"\n'
PUPIL = '[[entry]]\nname = "pupil"\nset.model.init = "run:micro"\nset.distil.teachers = ["run:micro"]\n'
RUNS = ["micro/seed-3", "micro/seed-4", "late/seed-3", "measured/seed-3", "pupil/seed-3"]
ENTRIES = ["micro", "late", "measured", "pupil"]


class Bench:
    """A folder with drawn cells, a configuration, and comparisons of it with their output folders."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        write_folder(folder / "drawn", ("EOS", "LYT", "NGS"), 24, size=48)
        (folder / "drawn.toml").write_text(DRAWN_CONFIG + FIT)

    def arguments(self, name: str, text: str, *options: str | Path) -> list[str | Path]:
        path = self.folder / f"{name}.toml"
        path.write_text(text.replace("FOLDER", str(self.folder)))
        return ["compare", path, "--data", self.folder, "--out", self.out, *options]

    def compare(self, name: str, text: str, *options: str | Path) -> tuple[int, str]:
        """Exit code and output."""
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        return commands.run(*self.arguments(name, text, *options), log=log), log.read_text()

    def rows(self) -> dict[str, dict[str, str]]:
        """Entry → its row of the table."""
        with (self.out / "comparison.csv").open(newline="") as file:
            return {row["name"]: row for row in csv.DictReader(file)}

    def results(self) -> Results:
        return Results.model_validate_json((self.out / "comparison.json").read_bytes())

    def table(self) -> str:
        return (self.out / "comparison.md").read_text()

    def written(self) -> dict[str, int]:
        """Files that a training, a measurement or an export writes, with their modification times."""
        kept = ("weights.safetensors", "features.npz", "development.json", "artefact/*", "fit.json")
        return {str(path): path.stat().st_mtime_ns for name in kept for path in self.out.glob(f"*/seed-*/{name}")}


ALL = HEAD + "budget.pictures = 130\n" + MICRO + LATE + MEASURED + PUPIL


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def planned(bench: Bench) -> str:
    code, said = bench.compare("plan", ALL, "--plan")
    assert code == 0, said
    assert not bench.written() and not (bench.out / "comparison.md").exists()
    return said


@pytest.fixture(scope="module")
def killed(bench: Bench, planned: str) -> dict[str, int]:
    """Files written when the comparison was killed in its second run."""
    del planned
    second = moment(bench.out / "micro" / "seed-4" / "checkpoints" / "last.ckpt")
    process = commands.start(*bench.arguments("all", ALL), log=bench.folder / "killed.log", **second)
    with paused(process):
        process.kill()
    process.join()
    assert not (bench.out / "micro" / "seed-4" / "artefact").exists()
    return bench.written()


@pytest.fixture(scope="module")
def gone_on(bench: Bench, killed: dict[str, int]) -> str:
    """Output of the same command after the kill; the weights of one entry do not exist yet."""
    assert any("seed-3/artefact" in path for path in killed)
    code, said = bench.compare("all", ALL)
    assert code == 1, said
    assert {path: when for path, when in bench.written().items() if path in killed} == killed
    return said


@pytest.fixture(scope="module")
def done(bench: Bench, gone_on: str) -> Bench:
    """The comparison with all entries done."""
    del gone_on
    before = bench.written()
    shutil.copy(bench.out / "micro" / "seed-3" / "weights.safetensors", bench.folder / "late.safetensors")
    code, said = bench.compare("all", ALL)
    assert code == 0, said
    assert re.findall(r"\[\d of \d\] \S+;", said) == ["[1 of 1] late/seed-3;"]
    assert {path: when for path, when in bench.written().items() if path in before} == before
    return bench


def _numbers(line: str) -> list[str]:
    return re.findall(r"[\w./-]+", line)


def test_a_plan_names_every_run_and_what_it_will_see(planned: str) -> None:
    found = [_numbers(line) for line in planned.splitlines() if re.match(r" \S+/seed-\d", line)]
    assert [row[0] for row in found] == RUNS
    by_name = {row[0]: row[1:] for row in found}
    # 57 of 72 pictures are in the training block: 7 batches of 8 an epoch; two epochs are nearest to 130 pictures
    assert by_name["micro/seed-4"][:3] == by_name["pupil/seed-3"][:3] == ["32", "2", "112"]
    assert by_name["measured/seed-3"] == ["32"]  # has no epochs
    assert "5 runs" in planned and re.findall(r"\[\d of 5\] (\S+): ", planned) == RUNS  # in this order


def test_paces_are_measured_once_for_a_configuration(bench: Bench, tmp_path: Path) -> None:
    larger = MEASURED + '[[entry]]\nname = "larger"\nset.model.input_size = '
    measured = []
    for size in ("64", "64", "32"):
        _, said = bench.compare("paces", HEAD + larger + f"{size}\n", "--plan", "--out", tmp_path / "out")
        measured.append(re.findall(r"(\S+): timing a few steps", said))
    assert measured == [["measured/seed-3", "larger/seed-3"], [], ["larger/seed-3"]]


def test_a_run_that_fails_is_reported_and_stops_no_other(bench: Bench, gone_on: str) -> None:
    assert re.findall(r"\[\d of \d\] (\S+);", gone_on) == RUNS[1:]
    assert re.search(r"late/seed-3 failed: \S+late\.safetensors: no such file", gone_on)
    assert f"traceback in {bench.out / 'late' / 'seed-3.failed'}" in gone_on


def test_all_that_is_there_stands_in_the_table(done: Bench) -> None:
    assert [row.name for row in done.results().rows] == ENTRIES
    assert list(done.rows()) == ENTRIES
    assert not list(done.out.glob("*/*.failed"))
    assert "Failed: `" not in done.table()
    assert r"| ours \| micro | " in done.table()
    heads = [line.count("|") - line.count(r"\|") for line in done.table().splitlines() if line.startswith("|")]
    assert len(set(heads)) == 1 and len(heads) == 2 + len(ENTRIES)


def _predicted(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    scores = measured_scores(RunFolder(folder), "calibration")
    order = sorted(range(len(scores)), key=scores.keys().__getitem__)
    return scores.labels[order], scores.predicted[order]


def test_figures_are_those_of_the_predictions_and_of_several_seeds_their_mean(done: Bench) -> None:
    rows, hits = done.rows(), {}
    for entry in ENTRIES:
        runs = [_predicted(path.parent) for path in sorted(done.out.glob(f"{entry}/*/development.npz"))]
        hits[entry] = np.mean([np.equal(*run).mean() for run in runs])
        f1 = np.mean([f1_score(true, named, labels=sorted(set(true)), average="macro") for true, named in runs])
        assert rows[entry]["seeds"] == ("3 4" if entry == "micro" else "3")
        assert int(rows[entry]["n"]) == len(runs[0][0]) == 6
        assert float(rows[entry]["accuracy"]) == pytest.approx(hits[entry])
        assert float(rows[entry]["macro_f1"]) == pytest.approx(f1, abs=1e-6)
    for entry in ENTRIES[1:]:
        low, high = binomtest(round(6 * hits[entry]), 6).proportion_ci(method="wilson")
        assert (float(rows[entry]["accuracy_low"]), float(rows[entry]["accuracy_high"])) == pytest.approx((low, high))
        assert float(rows[entry]["accuracy_difference"]) == pytest.approx(hits[entry] - hits["micro"])
        assert float(rows[entry]["p"]) <= float(rows[entry]["p_holm"]) <= 1
    assert rows["micro"]["p"] == rows["measured"]["parameters"] == ""


def test_budget_cost_and_speed_stand_beside_them(done: Bench) -> None:
    rows = done.rows()
    assert {entry: int(row["pictures_seen"]) for entry, row in rows.items()} == {
        "micro": 112,
        "late": 112,
        "measured": 57,
        "pupil": 112,
    }
    assert int(rows["micro"]["parameters"]) == int(rows["pupil"]["parameters"]) > 100_000
    assert int(rows["micro"]["multiply_adds"]) > 1_000_000
    assert all(float(row["pictures_per_s_batch_4"]) > 0 for row in rows.values())
    assert float(rows["micro"]["ratio_batch_4"]) == 1 > float(rows["measured"]["ratio_batch_4"])
    for entry, row in rows.items():
        taken = [json.loads(path.read_text())["train_s"] / 60 for path in done.out.glob(f"{entry}/*/fit.json")]
        assert float(row["train_minutes"]) == pytest.approx(np.mean(taken)) and min(taken) > 0
    assert re.search(r"^Training: .*scikit-learn 1\..*torch 2\.", done.table(), re.MULTILINE)  # of all runs


def test_effects_of_the_parts_stand_beside_accuracy(done: Bench) -> None:
    """Means over the seeds; empty for an entry without named parts."""
    rows = done.rows()
    for part, column in (("MLKA", "MLKA"), ("cross-scale attention", "cross-scale_attention"), ("stage 2", "stage_2")):
        runs = [RunFolder(done.out / "micro" / f"seed-{seed}").evaluation("calibration") for seed in (3, 4)]
        lesions = [next(lesion for lesion in run.lesions or () if lesion.part == part) for run in runs]
        for cell, values in {
            f"changed_without_{column}": [lesion.changed for lesion in lesions],
            f"accuracy_change_without_{column}": [lesion.accuracy_change for lesion in lesions],
        }.items():
            assert float(rows["micro"][cell]) == pytest.approx(np.mean(values))
            assert rows["measured"][cell] == ""
    head, _, *table = [line for line in done.table().splitlines() if line.startswith("|")]
    names = [name.strip() for name in head.split("|")]
    for name in ("answers changed without MLKA, %", "accuracy change without cross-scale attention, points"):
        cells = {
            entry: row.split(" | ")[names.index(name) - 1] for entry, row in zip(ENTRIES[1:], table[1:], strict=True)
        }
        assert cells["measured"] == "–" and re.fullmatch(r"[+-]?\d+\.\d", cells["pupil"])
    assert "classified again" in done.table()


def test_what_an_entry_takes_from_another_reaches_its_training(done: Bench, gone_on: str) -> None:
    config = (done.out / "pupil" / "seed-3" / "config.toml").read_text()
    assert config.count(str(done.out / "micro" / "seed-3")) == 2  # the first seed: as initial weights, and as teacher
    assert re.search(r"loaded (\d+) of \1 tensors from \S+micro/seed-3", gone_on)


def _drawn(folder: Path) -> str:
    """The SVG of a plot, checked not to be empty; its texts are outlines, with the text in a comment."""
    with Image.open(folder / "comparison.png") as image:
        assert image.format == "PNG" and image.width > 500 and image.height > 200
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    text = (folder / "comparison.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    return text


def test_the_plot_is_drawn_in_both_forms(done: Bench) -> None:
    assert "pictures/s, batch 4, 1 threads" in _drawn(done.out)
    assert "![Scatter plot of 4 entries." in done.table() and "](comparison.svg)" in done.table()


def test_what_is_done_is_neither_trained_nor_timed_again(done: Bench) -> None:
    before, timed = done.written(), (done.out / "speed.json").stat().st_mtime_ns
    code, said = done.compare("all", ALL)
    assert code == 0 and not re.search(r" of 5\] \S+;", said) and "timing" not in said
    assert done.written() == before and (done.out / "speed.json").stat().st_mtime_ns == timed


@pytest.fixture
def put_back(done: Bench) -> Iterator[Bench]:
    """The comparison, restored after a test that compares the same runs in another way."""
    yield done
    done.compare("all", ALL)


def test_another_first_entry_is_timed_and_compared_anew(put_back: Bench) -> None:
    other = HEAD + 'budget.pictures = 130\nplot = "difference"\n' + MEASURED + MICRO + LATE + PUPIL
    code, said = put_back.compare("other", other)
    assert code == 0 and "timing 4 models" in said
    rows = put_back.rows()
    assert list(rows)[0] == "measured" and float(rows["measured"]["ratio_batch_1"]) == 1
    assert rows["measured"]["p"] == "" != rows["micro"]["p"]
    assert "accuracy minus that of measured" in _drawn(put_back.out)


def test_a_learning_curve_is_drawn_over_the_pictures_learned_from(put_back: Bench) -> None:
    code, said = put_back.compare("curve", ALL.replace("\n[[entry]]", '\nplot = "training_pictures"\n[[entry]]', 1))
    assert code == 0 and "timing" not in said, said
    assert "pictures in the training block" in _drawn(put_back.out)


def test_a_run_of_another_comparison_is_left_as_it_is(put_back: Bench) -> None:
    before = put_back.written()
    code, said = put_back.compare("larger", ALL.replace('"pupil"\n', '"pupil"\nset.model.input_size = 64\n'))
    assert code == 1 and "pupil/seed-3 failed" in said and "belongs to another comparison" in said
    assert put_back.written() == before
    assert list(put_back.rows()) == ENTRIES[:-1]
    assert "Failed: `pupil/seed-3`: " in put_back.table()


def test_the_test_block_is_read_only_where_a_comparison_asks_for_it(put_back: Bench) -> None:
    micro = put_back.out / "micro" / "seed-3"
    weights = (micro / "weights.safetensors").read_bytes()
    assert "Measured on the calibration block, not the test block" in put_back.table()
    assert not list(put_back.out.glob("*/*/evaluation*"))
    code, said = put_back.compare("reported", ALL.replace("budget", 'block = "test"\nbudget'))
    assert code == 0, said
    assert "Measured on the test block" in put_back.table()
    assert {row["n"] for row in put_back.rows().values()} == {"9"}
    assert (micro / "weights.safetensors").read_bytes() == weights  # measured again, not trained again
    assert RunFolder(micro).evaluation_count() == (1, 1)


def test_one_entry_alone(bench: Bench, tmp_path: Path) -> None:
    code, said = bench.compare("alone", ALL, "--only", "measured", "--out", tmp_path / "alone")
    assert code == 0, said
    assert [path.parent.name for path in (tmp_path / "alone").glob("*/seed-*.toml")] == ["measured"]
    assert len((tmp_path / "alone" / "comparison.csv").read_text().splitlines()) == 2


def test_one_entry_is_not_trained_without_the_one_that_it_learns_from(bench: Bench, tmp_path: Path) -> None:
    code, said = bench.compare("early", ALL, "--only", "pupil", "--out", tmp_path / "early")
    assert code == 2 and "entry pupil uses micro, not trained yet: add --only micro" in said
    assert not (tmp_path / "early").exists()


def test_ctrl_c_saves_and_says_how_to_go_on(bench: Bench, tmp_path: Path) -> None:
    long, log = HEAD + "budget.epochs = 3\n" + MICRO, tmp_path / "log"
    first = moment(tmp_path / "out" / "micro" / "seed-3" / "checkpoints" / "last.ckpt")
    process = commands.start(*bench.arguments("long", long), "--out", tmp_path / "out", log=log, **first)
    with paused(process) as pid:
        code, said = bench.compare("second", long, "--out", tmp_path / "out")
        os.kill(pid, signal.SIGINT)
    assert code == 2 and "another comparison runs in this folder" in said
    process.join()
    assert process.exitcode == 130
    assert "run the same command to resume" in log.read_text()
    assert not list((tmp_path / "out").glob("*/*.failed"))  # an interruption is no failure
