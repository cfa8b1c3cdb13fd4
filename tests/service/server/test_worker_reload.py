"""Several workers change their model all together or not at all."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from graphs import write_artefact
from keys import bearer, entry, keys_file
from serving import Served, refused
from worker_processes import artefacts, kill, metric, pids, ready, until, workers

KEY = "mlk_of-the-operator"
OPERATOR = bearer(KEY)
CHANGES = 'marrowlens_model_changes_total{{outcome="{}"}}'


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of two artefacts in a folder; a third is broken."""
    folder = tmp_path_factory.mktemp("shelf")
    keys_file(folder, entry(KEY, "operator"))
    write_artefact(folder, name="second", version="0.0.2", seed=2)
    (folder / "broken.onnx").write_bytes(b"no graph")
    (folder / "broken.json").write_text("{")
    return write_artefact(folder, name="first")


@pytest.fixture(scope="module")
def pair(shelf: Path) -> Iterator[Served]:
    with workers(shelf, keys_file=str(shelf.with_name("keys.toml"))) as started:
        yield started


def change(service: Served, name: str) -> httpx.Response:
    return httpx.post(f"{service.url}/model/reload", json={"artefact": name}, headers=OPERATOR, timeout=60)


def hang_up(service: Served, expected: str) -> None:
    """SIGHUP, and wait until the log says what came of it."""
    said = len(service.lines)
    service.process.send_signal(signal.SIGHUP)
    service.wait_said(expected, said)


def test_a_reload_changes_all_workers_and_those_that_start_later(pair: Served) -> None:
    changed = change(pair, "second.onnx")
    assert (changed.status_code, changed.json()["name"]) == (200, "second")
    assert set(artefacts(pair, OPERATOR)) == {"second"}
    assert metric(pair, CHANGES.format("done"), OPERATOR) == 1
    text = httpx.get(f"{pair.url}/metrics", headers=OPERATOR).text
    assert [line.count('name="second"') for line in text.splitlines() if line.startswith("marrowlens_model_info{")] == [
        1
    ]
    kill(pair, pids(pair)[0])
    until(lambda: ready(pair))
    assert set(artefacts(pair, OPERATOR)) == {"second"}
    hang_up(pair, "Now serving first 0.0.1")  # the configured one
    assert set(artefacts(pair, OPERATOR)) == {"first"}


def test_a_broken_artefact_changes_none(pair: Served) -> None:
    served, done = artefacts(pair, OPERATOR)[0], metric(pair, CHANGES.format("done"), OPERATOR)
    before = metric(pair, CHANGES.format("refused"), OPERATOR)
    assert "broken" in refused(change(pair, "broken.onnx"), 422, "model-refused").detail
    assert set(artefacts(pair, OPERATOR)) == {served}
    until(lambda: metric(pair, CHANGES.format("refused"), OPERATOR) == before + 1)  # once, by one worker
    assert metric(pair, CHANGES.format("done"), OPERATOR) == done


def test_one_worker_that_cannot_load_it_keeps_the_model_of_all(pair: Served) -> None:
    stopped = pids(pair)[0]
    os.kill(stopped, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as threads:
        changes = [threads.submit(change, pair, "second.onnx") for _ in range(2)]
        until(lambda: any(each.done() for each in changes))  # the other one waits for the stopped worker
        hang_up(pair, "reloaded once more when it ends")
        said = len(pair.lines)
        kill(pair, stopped)
        answers = [each.result() for each in changes]
    assert sorted(answer.status_code for answer in answers) == [409, 422]
    [rejected] = [answer for answer in answers if answer.status_code == 422]
    assert "ended before the new model was loaded" in rejected.json()["detail"]
    pair.wait_said("Reload rejected, keeping the current model: worker", said)
    pair.wait_said("Now serving first", said)
    until(lambda: ready(pair))
    assert set(artefacts(pair, OPERATOR)) == {"first"}


@pytest.mark.slow
def test_a_worker_does_not_start_with_another_model_than_the_others(shelf: Path, tmp_path: Path) -> None:
    for name in ("first.onnx", "first.json"):
        shutil.copy(shelf.with_name(name), tmp_path)
    with workers(tmp_path / "first.onnx") as service:
        for end in ("onnx", "json"):
            shutil.copy(shelf.with_name(f"second.{end}"), tmp_path / f"first.{end}")
        kill(service, pids(service)[0])
        service.wait_said("has changed since the other workers loaded it")
        assert not ready(service)
        assert artefacts(service) == ["first"] * 4
        hang_up(service, "Now serving second")
        until(lambda: ready(service))
        assert artefacts(service) == ["second"] * 4
