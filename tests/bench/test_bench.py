"""The bench: its models and pictures, what it makes of figures, and one quick run from end to end."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from conftest import Draw
from serving import client

from bench.comparison.conduct import Bench
from bench.comparison.measure import Pictures, accepted_at
from bench.plan.cells import Cell, EngineTiming, Ledger, OnePicture, Refusals
from bench.plan.plan import FEATHERWEIGHT, NETWORK, SATURATED, WORKLOADS, Plan
from bench.plan.servers import OURS, OURS_BF16, SERVERS, chosen
from bench.reporting.summary import best_peer, by_round, ratio
from bench.reporting.verdict import verdicts
from bench.setup import featherweight, machine, pictures
from bench.setup.starting import descendants
from bench.traffic.load import Exchange
from model.contract import read_manifest
from model.image import decode
from service.runtime.session import open_session

#: A JPEG's worth of bytes that no multipart boundary is in.
BYTES = bytes(range(256)) * 8


class Quiet:
    """Progress that is not shown."""

    def step(self, text: str) -> None: ...

    def done(self, count: int = 1) -> None: ...

    def say(self, text: str) -> None: ...


# Models and pictures


def test_the_model_that_costs_nothing_is_an_artefact_that_the_service_takes(tmp_path: Path, artefact: Path) -> None:
    session = open_session(featherweight.write_artefact(tmp_path, artefact))
    size = session.manifest.preprocessing.input_size
    random = np.random.default_rng(1)
    found = session.run(random.integers(0, 256, (16, size, size, 3), dtype=np.uint8))
    assert (
        found.attention.shape[1:]
        == open_session(artefact).run(np.zeros((1, size, size, 3), np.uint8)).attention.shape[1:]
    )
    assert len(set(found.probabilities.argmax(axis=1).tolist())) > 3  # a mixed-up picture would be seen


def test_the_model_that_costs_nothing_has_attention_like_its_example(tmp_path: Path, inert_artefact: Path) -> None:
    session = open_session(featherweight.write_artefact(tmp_path, inert_artefact))
    assert session.manifest.output_names == ("probabilities", "logits", "evidence", "embedding")
    assert (session.manifest.inert, session.manifest.lesions) == ((), ())


def test_the_model_that_costs_nothing_keeps_the_sizes_of_the_bundled_model(tmp_path: Path) -> None:
    bundled = read_manifest(ROOT / "model" / "weights" / "marrowlens-lite.json")
    manifest = open_session(
        featherweight.write_artefact(tmp_path, ROOT / "model" / "weights" / "marrowlens-lite.onnx")
    ).manifest
    assert manifest.outputs["attention"] == bundled.outputs["attention"] != bundled.outputs["evidence"]
    assert manifest.outputs["evidence"] == bundled.outputs["evidence"]


def test_drawn_pictures_are_the_same_each_time_and_of_a_cameras_size(tmp_path: Path) -> None:
    first, again = pictures.drawn(tmp_path / "a", 3), pictures.drawn(tmp_path / "b", 3)
    assert first == again
    assert len(set(first)) == 3
    assert all(20_000 < len(jpeg) < 80_000 for jpeg in first)


def test_too_few_real_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(BYTES)
    with pytest.raises(pictures.NoPictures, match="holds 1 JPEGs; 2 are needed"):
        pictures.real(tmp_path, 2)
    (tmp_path / "two.JPG").write_bytes(BYTES[1:])
    assert pictures.real(tmp_path, 2) == [BYTES, BYTES[1:]]


# What is made of figures


def test_an_answer_of_another_picture_is_wrong() -> None:
    random = np.random.default_rng(0)
    expected = Pictures([b""] * 4, random.random((4, 21)), random.random((4, 3, 2, 2)))
    right = (expected.probabilities[2:4] + 1e-6, expected.attention[2:4])
    assert expected.wrong(2, right) == 0
    assert expected.wrong(1, right) == 2
    assert expected.wrong(2, (expected.probabilities[[2, 2]], expected.attention[2:4])) == 1
    assert expected.wrong(2, (right[0][:, :20], right[1])) == 2
    assert expected.wrong(2, (right[0], np.empty((2, 0)))) == 2


def test_bf16_may_differ_further_but_not_by_a_class() -> None:
    right, attention = np.array([[0.5, 0.42, 0.08], [0.8, 0.1, 0.1]]), np.zeros((2, 1, 1, 1))
    expected = Pictures([b"a", b"b"], right, attention)
    bf16 = SERVERS[OURS_BF16].tolerance
    found = right + np.array([[-0.06, 0.06, 0.0], [-0.1, 0.1, 0.0]])
    assert expected.wrong(0, (found, attention), bf16) == 0
    assert expected.wrong(0, (found, attention)) == 2
    assert expected.wrong(0, (found[::-1], attention), bf16) == 2
    assert expected.wrong(0, (found, attention + 0.6), bf16) == 2


def test_bf16_is_measured_with_the_network_only(ledger: Ledger) -> None:
    plan = Plan(servers=(OURS, OURS_BF16), engines=(), workloads=("one",), rounds=1)
    bench = Bench(plan, ledger, {}, {}, [], 64, {}, Quiet())
    assert bench.steps() == 3 + 1  # and the load generator
    ledger.add(cell(OURS_BF16, SATURATED, 0, 200.0))
    [said] = [verdict for verdict in verdicts(ledger, 5) if "bf16" in verdict.goal]
    assert said.reached is True


def test_answers_without_attention_are_compared_by_their_probabilities(inert_artefact: Path, draw: Draw) -> None:
    picture = draw(1)
    with client(inert_artefact) as http:
        one = http.post("/classify", files={"image": picture}).content
        many = http.post("/classify/batch", files=[("images", picture)] * 2).content
    rows = open_session(inert_artefact).run(decode(picture, 64)[np.newaxis]).probabilities.astype(np.float64)
    expected = Pictures([picture], rows, np.empty((1, 0)))
    ours = SERVERS[OURS]
    assert ours.read_many is not None
    for probabilities, attention in (ours.read(one), ours.read_many(many)):
        assert expected.wrong(0, (probabilities, attention)) == 0
        assert expected.wrong(0, (1 - probabilities, attention)) == len(probabilities)


def test_what_was_accepted_and_unanswered_at_a_moment() -> None:
    exchanges = [Exchange(0, 0.0, sent=0.0, ended=2.0), Exchange(0, 1.0, sent=1.0), Exchange(0, 3.0)]
    assert accepted_at(exchanges, np.array([0.5, 1.5, 2.5])).tolist() == [1, 2, 1]


def cell(server: str, workload: str, round: int, rate: float, model: str = NETWORK, **more: Any) -> Cell:
    figures: dict[str, Any] = {
        "requests": 100, "statuses": {"200": 100}, "checked": 100, "wrong": 0, "offered_per_s": None, "late": 0,
        "pictures_per_s": rate, "mean_ms": 10.0, "p50_ms": 10.0, "p90_ms": 10.0, "p99_ms": 1000 / max(rate, 1),
        "refusals": None, "lag_p99_ms": None, "generator_share": 0.1,
    }  # fmt: skip
    told = {"model": model, "server": server, "workload": workload, "round": round, "requests_per_s": rate}
    return Cell.model_validate(figures | told | more)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two rounds on a machine that was twice as fast in the second."""
    found = Ledger(tmp_path / "cells.jsonl")
    for round, speed in enumerate((1, 2)):
        for model in (NETWORK, FEATHERWEIGHT):
            for server, rate in ((OURS, 140.0), ("fastapi", 100.0), ("litserve", 80.0)):
                found.add(cell(server, SATURATED, round, speed * rate, model))
                found.add(cell(server, "batch", round, speed * rate, model))
        refusals = Refusals(count=9, p50_ms=5, p99_ms=9, with_retry_after=9, retry_after_s=3, drain_s=2)
        found.add(cell(OURS, "overload", round, 130.0 * speed, refusals=refusals, statuses={"200": 1, "429": 9}))
        found.add(cell(OURS, "one", round, 50.0, p50_ms=11.0 / speed))
        found.add(OnePicture(one_picture_ms=10.0 / speed, decode_ms=0.5, pillow_ms=1.0, turbo_ms=0.4, round=round))
        for engine, setting, rate in (("onnxruntime", "as served", 140.0), ("openvino", "fp32", 150.0)):
            timing = EngineTiming(engine=engine, setting=setting, batch=8, round=round, pictures_per_s=rate * speed)
            found.add(timing)
    return found


def test_ratios_are_taken_within_a_round(ledger: Ledger) -> None:
    assert best_peer(ledger, NETWORK, SATURATED, lambda cell: cell.requests_per_s) == "fastapi"
    ours, theirs = (by_round(ledger, NETWORK, p, SATURATED, lambda c: c.requests_per_s) for p in (OURS, "fastapi"))
    found = ratio(ours, theirs)
    assert found is not None and (found.low, found.median, found.high) == pytest.approx((1.4, 1.4, 1.4))


def test_goals_are_judged_by_the_figures(ledger: Ledger) -> None:
    said = {verdict.goal: verdict.reached for verdict in verdicts(ledger, 5)}
    assert [reached for goal, reached in said.items() if goal.startswith("32 clients:")] == [True, True]
    assert [reached for goal, reached in said.items() if "one-operator model" in goal] == [False, False]
    assert [reached for goal, reached in said.items() if goal.startswith("1 client")] == [True]
    assert [reached for goal, reached in said.items() if goal.startswith("/classify/batch")] == [True]
    assert [reached for goal, reached in said.items() if "x 3, network" in goal] == [True] * 4
    assert [reached for goal, reached in said.items() if "x 3, one-operator" in goal] == [None] * 4
    assert [reached for goal, reached in said.items() if "OpenVINO" in goal] == [False]


def test_a_wrong_answer_is_a_goal_not_reached(ledger: Ledger) -> None:
    assert verdicts(ledger, 5)[0].reached is True
    ledger.add(cell("bentoml", "one", 0, 10.0, wrong=1))
    assert verdicts(ledger, 5)[0].reached is False


@pytest.mark.parametrize(("retry_after_s", "with_retry_after", "reached"), [(3, 9, True), (9, 9, False), (3, 8, False)])
def test_a_retry_after_must_be_true(tmp_path: Path, retry_after_s: int, with_retry_after: int, reached: bool) -> None:
    found = Ledger(tmp_path / "one.jsonl")
    told = {"count": 9, "p50_ms": 5, "p99_ms": 9, "drain_s": 2, "retry_after_s": retry_after_s}
    refusals = Refusals.model_validate(told | {"with_retry_after": with_retry_after})
    found.add(cell(OURS, "overload", 0, 10.0, refusals=refusals, statuses={"429": 9}))
    assert [v.reached for v in verdicts(found, 5) if "Retry-After" in v.goal and "network" in v.goal] == [reached]


def test_an_overload_that_refuses_nobody_does_not_pass_for_unmeasured(tmp_path: Path) -> None:
    found = Ledger(tmp_path / "one.jsonl")
    found.add(cell(OURS, SATURATED, 0, 10.0))
    found.add(cell(OURS, "overload", 0, 0.0, statuses={"504": 30}, p99_ms=None))
    assert [v.reached for v in verdicts(found, 5) if "x 3, network" in v.goal] == [False] * 4


def test_a_ledger_goes_on_after_a_line_was_cut_off(ledger: Ledger) -> None:
    text = ledger.path.read_text()
    ledger.path.write_text(text[:-20])
    again = Ledger(ledger.path)
    assert len(again.lines) == len(ledger.lines) - 1
    again.add(ledger.lines[-1])
    assert Ledger(ledger.path).lines == ledger.lines


# Plan, machine, command


def test_a_share_of_the_capacity_needs_the_capacity() -> None:
    plan = Plan(servers=(OURS,), engines=(), workloads=("overload",))
    assert [workload.name for workload in plan.workloads_of(NETWORK)] == [SATURATED, "overload"]


def test_an_overload_is_measured_once_queues_are_full() -> None:
    plan = Plan(servers=(OURS,), engines=(), seconds=5)
    assert plan.window_s(WORKLOADS["overload"], 96) == (4, 9)  # 256 places: full after 1.33 s, drained 2.67 s later
    assert plan.window_s(WORKLOADS["overload"], 10_000) == (1, 6)
    assert plan.window_s(WORKLOADS["overload"], 1) == (10, 15)


def test_cores_are_separate_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {2, 5, 7})
    assert machine.cores() == machine.Cores((2, 5), (7,))
    assert machine.cores(client=[2]) == machine.Cores((5, 7), (2,))
    with pytest.raises(ValueError, match="not \\[3\\]"):
        machine.cores(server=[3])
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {4})
    assert not machine.cores().separate


def test_processes_of_processes_are_found() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        while not (found := descendants(process.pid)):
            assert process.poll() is None
            time.sleep(0)
        assert all(found.values())
    finally:
        process.communicate(b"\n")
    assert descendants(process.pid) == {}


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no such server: triton; there are marrowlens, marrowlens-bf16, fastapi"):
        chosen(["triton"])
    assert [server.name for server in chosen([])] == list(SERVERS)


def measured_quickly(folder: Path, artefact: Path, workloads: str = "one thirty-two batch overload") -> Path:
    """Two servers, in this environment; the deadline is far off, for a machine that is busy with other tests."""
    command = [sys.executable, "-m", "bench.cli", "--quick", "--here", "--servers", "marrowlens fastapi"]
    command += ["--engines", "onnxruntime", "--workloads", workloads, "--deadline-s", "120"]
    command += ["--artefact", str(artefact), "--out", str(folder / "out"), "--work", str(folder / "work")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, artefact: Path) -> Path:
    """The results of one quick run."""
    return measured_quickly(tmp_path_factory.mktemp("bench"), artefact)


@pytest.mark.slow
def test_a_quick_run_writes_table_and_plots(quick: Path) -> None:
    text = (quick / "bench.md").read_text()
    for title in ("Goals", "marrowlens / best peer", "Servers, network", "Servers, one-operator", "Without a server"):
        assert f"## {title}\n" in text
    for name in ("servers-network", "servers-one-operator", "engines"):
        assert f"({name}.svg)" in text
        assert (quick / f"{name}.svg").read_text().startswith("<?xml")
        assert (quick / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (quick / "bench.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {(row["model"], row["server"], row["workload"]) for row in rows}
    workloads = ("one", "thirty-two", "batch", "overload")
    wanted = {(m, p, w) for m in (NETWORK, FEATHERWEIGHT) for p in ("marrowlens", "fastapi") for w in workloads}
    assert measured == wanted | {(NETWORK, "ceiling", "thirty-two")}


@pytest.mark.slow
def test_in_a_quick_run_every_answer_is_the_bare_sessions(quick: Path) -> None:
    said = json.loads((quick / "bench.json").read_text())
    assert said["failures"] == {}
    for found in said["cells"]:
        assert found["wrong"] == 0
        if found["workload"] in ("one", "thirty-two", "batch"):
            assert set(found["statuses"]) == {"200"}, found
            assert found["checked"] > 0 or found["server"] == "ceiling"
    assert said["goals"][0]["reached"] is True


@pytest.mark.slow
def test_what_is_measured_is_not_measured_again(quick: Path, artefact: Path) -> None:
    before = json.loads((quick / "bench.json").read_text())
    measured_quickly(quick.parent, artefact)
    assert json.loads((quick / "bench.json").read_text())["cells"] == before["cells"]


@pytest.mark.slow
def test_answers_of_a_model_without_attention_are_the_bare_sessions(tmp_path: Path, inert_artefact: Path) -> None:
    said = json.loads((measured_quickly(tmp_path, inert_artefact, "one batch") / "bench.json").read_text())
    checked = [found for found in said["cells"] if found["server"] != "ceiling"]
    assert said["failures"] == {} and {found["server"] for found in checked} == {OURS, "fastapi"}
    assert all(found["checked"] and not found["wrong"] for found in checked)
