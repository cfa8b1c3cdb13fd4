"""The long checks of `make stress`, each in short, and what they make of a service that is not as it should be."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.runtime.artifact import bundled_artefact
from stress import cli, results
from stress.attacks.case import CANARY, Case
from stress.checks import hostile, sigterm
from stress.checks.idle import idle
from stress.checks.restart import restart
from stress.checks.soak import Asked, Counts, Size, _disagreeing, _grown, _wrong, soak
from stress.clients.wire import Reply
from stress.processes import memory
from stress.results import Result, Steps, Table


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_nothing_accepted_is_lost_at_a_sigterm(artefact: Path, workers: int) -> None:
    steps = Steps()
    found = await sigterm.sigterm(2, artefact, steps, workers=workers)
    assert found.faults == []
    assert (steps.planned, steps.done) == (2, 2)
    accepted = int(found.tables[0].rows[-1][1])
    assert accepted >= 60


async def test_a_service_that_was_killed_comes_back_on_its_port(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stress.checks.restart.LIMIT_S", 60.0)  # the limit is the long run's, on an idle machine
    assert (await restart(1, artefact, Steps())).faults == []


@pytest.mark.slow
async def test_workers_whose_supervisor_was_killed_leave_the_port(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stress.checks.restart.LIMIT_S", 60.0)
    assert (await restart(1, artefact, Steps(), workers=2)).faults == []


async def test_ready_and_idle_it_is_small() -> None:
    assert (await idle(bundled_artefact(), Steps())).faults == []


@pytest.mark.slow
async def test_hostile_input_harms_nobody(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One client's time and memory's last tenth are the long run's: here there are too few of either.
    for name, value in {
        "ALONE_ANSWERS": 10,
        "ORDINARY_REQUESTS": 10,
        "MAX_SLOWER": 1e9,
        "MAX_GROWTH": 2.0,
        "BLOCK": 150,
        "WARM_CASES": 150,
    }.items():
        monkeypatch.setattr(hostile, name, value)
    monkeypatch.setitem(hostile.SETTINGS, "request_timeout_s", "5")
    monkeypatch.setattr(memory, "GIVEN_BACK_S", 0.0)
    steps = Steps()
    found = await hostile.hostile(300, artefact, steps, seed=7)
    assert found.faults == []
    assert (steps.planned, steps.done) == (300, 300)
    assert [row[0] for row in found.tables[-1].rows][:-1] == [
        "after sound pictures",
        "after 150 cases",
        "after 300 cases",
    ]
    assert all(int(row[1]) for row in found.tables[0].rows)  # of every family at least one


@pytest.mark.slow
async def test_the_counts_add_up_and_nothing_grows(artefact: Path) -> None:
    found = await soak(1500, artefact, Steps())
    assert found.faults == []


# What the checks are worth: each must see what it looks for.


@pytest.mark.parametrize(
    ("ending", "may_close", "faulty"),
    [
        ("200", False, False),
        ("422", False, False),
        ("504", False, False),
        ("500", False, True),
        ("503", False, True),
        ("closed", False, True),
        ("closed", True, False),
        ("cut", True, True),
        ("silent", True, True),
        ("refused", True, True),
        ("left", False, False),
    ],
)
def test_which_endings_are_faults(ending: str, may_close: bool, faulty: bool) -> None:
    async def act(_: tuple[str, int]) -> str:
        return ending

    assert bool(Case("family", "what", act, may_close).fault(ending)) is faulty


def test_cases_are_the_same_for_the_same_seed() -> None:
    first, again, other = ([case.what for case in hostile.cases(200, seed)] for seed in (1, 1, 2))
    assert first == again != other
    families = Counter(case.family for case in hostile.cases(2000, 1))
    assert set(families) == set(hostile.FAMILIES)
    assert sum(share for _, share in hostile.FAMILIES.values()) == pytest.approx(100, abs=0.5)


def test_a_file_that_escaped_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "_WITHIN_REACH", (tmp_path,))
    before = hostile._listed([tmp_path])
    assert hostile._written([tmp_path], before) == []
    (tmp_path / f"{CANARY}-escaped").touch()
    assert len(hostile._written([tmp_path], before)) == 2


def test_a_request_that_was_accepted_and_not_answered_is_found() -> None:
    class Ended:
        lines = ["1 INFO service.requests: POST /classify 200 1.0 ms kept-1-1"]

    seen = sigterm.Round(ready=[(1.0, 200), (3.0, 503)], refused_s=5.0, sigterm_s=2.0)
    seen.fates = {"kept-1-1": sigterm.Fate(1.0), "kept-1-2": sigterm.Fate(1.0), "fresh-1-1": sigterm.Fate(4.0, 200)}
    faults, row = sigterm._judged(seen, Ended(), 0, 3.0)  # type: ignore[arg-type]
    assert [fault.split(" ")[0] for fault in faults] == ["kept-1-1"]
    assert row[3:5] == ["1", "1"]
    assert sigterm._judged(seen, Ended(), 1, 99.0)[0][1:] == ["exit status 1", "it took 99.0 s to end"]  # type: ignore[arg-type]


def test_a_shutdown_in_the_wrong_order_is_found() -> None:
    seen = sigterm.Round(ready=[(1.0, 503)], refused_s=0.5, sigterm_s=2.0)
    assert len(sigterm._order(seen, {"a": sigterm.Fate(0.0, 200)})) == 3
    assert sigterm._order(sigterm.Round(sigterm_s=1.0), {}) == ["readiness never failed"]


def test_growth_and_counts_that_disagree_are_found() -> None:
    assert _grown(Size(100, 5, 9), Size(110, 6, 9), 6) == []
    assert len(_grown(Size(100, 5, 9), Size(120, 7, 10), 6)) == 3
    counts = Counts(pictures=10, spoilt=2, left=3)
    assert _disagreeing(counts, {"answered": 12, "undecodable": 1, "unsupported": 1, "cancelled": 1}) == []
    assert len(_disagreeing(counts, {"answered": 9, "undecodable": 1, "failed": 1})) == 3
    assert len(_disagreeing(counts, {"answered": 14, "undecodable": 2})) == 1


@pytest.mark.parametrize(
    ("kind", "status", "body", "wrong"),
    [
        ("single", 200, b"", False),
        ("single", 504, b"", True),
        ("spoilt", 422, b"", False),
        ("spoilt", 200, b"", True),
        ("lines", 200, b'"pictures":3,"problems":1,', False),
        ("lines", 200, b'"pictures":2,"problems":1,', True),
    ],
)
def test_an_answer_that_is_not_to_its_request_is_found(kind: str, status: int, body: bytes, wrong: bool) -> None:
    asked = Asked(kind, b"", pictures=2, spoilt=1)
    assert bool(_wrong(Reply(status=status, body=bytearray(body)), asked)) is wrong


# The page and the command


def test_the_page_keeps_what_other_checks_have_written(tmp_path: Path) -> None:
    page = tmp_path / "stress.md"
    results.write(page, [Result("idle", "Ready", "Said.", [Table(["a", "b"], [["1", "2|3"]])], seconds=3)])
    results.write(page, [Result("soak", "Soak", "Said too.", faults=["too large"])])
    results.write(page, [Result("idle", "Ready again", "Said."), Result("idle", "Ready", "Said.", model="tiny")])
    text = page.read_text()
    assert re.findall("^## (Ready.*)$", text, re.MULTILINE) == [
        "Ready again: the bundled model",
        "Ready: the tiny model",
    ]
    assert "## Soak" in text and "- too large" in text and "**1 fault**" in text
    assert text.startswith(results.HEAD)


def test_the_command_runs_what_is_chosen_and_keeps_its_result(tmp_path: Path) -> None:
    page = tmp_path / "stress.md"
    ran = CliRunner().invoke(cli.app, ["idle", "--model", "tiny", "--page", str(page)])
    assert ran.exit_code == 0, ran.output
    assert re.findall("^## (.*)$", page.read_text(), re.MULTILINE) == ["Ready and idle: the tiny model"]


def test_a_result_of_several_workers_has_its_own_place_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "stress.md"
    results.write(page, [Result("soak", "Soak", "Said."), Result("soak", "Soak", "Said.", workers=2)])
    found = re.findall(r"^## (.*)$|^`(python .*)`", page.read_text(), re.MULTILINE)
    assert [heading or command for heading, command in found] == [
        "Soak: the bundled model",
        "python -m stress.cli soak --model bundled",
        "Soak: the bundled model, 2 workers",
        "python -m stress.cli soak --model bundled --workers 2",
    ]


def test_a_check_that_runs_with_one_worker_refuses_several() -> None:
    ran = CliRunner().invoke(cli.app, ["idle", "--workers", "2"])
    assert ran.exit_code == 2 and "idle runs with one worker only" in ran.output


def test_a_fault_is_the_commands_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stress.checks.idle.LIMIT_BYTES", 1)
    ran = CliRunner().invoke(cli.app, ["idle", "--model", "tiny", "--page", str(tmp_path / "stress.md")])
    assert ran.exit_code == 1
    assert "MB resident" in ran.output


def test_what_ends_at_once_is_said_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nowhere.onnx"):
        asyncio.run(idle(tmp_path / "nowhere.onnx", Steps()))
