"""Several workers on one port: shares of the work, metrics, ends and restarts."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import httpx
import pytest
from serving import Served, served, zipped
from worker_processes import kill, metric, pids, ready, until, workers

Draw = Callable[..., bytes]
ANSWERED = 'marrowlens_pictures_total{outcome="answered"}'
STREAM = {"content-type": "application/zip", "accept": "application/x-ndjson"}


@pytest.fixture(scope="module")
def pair(artefact: Path) -> Iterator[Served]:
    with workers(artefact, "--access-log") as started:
        yield started


def closed_by_kill(service: Served, connections: list[socket.socket]) -> int:
    """Kill one worker; the number of connections that it held."""
    kill(service, pids(service)[0])
    for each in connections:
        each.setblocking(False)
    closed = 0
    for each in connections:
        try:
            closed += each.recv(1) == b""
        except BlockingIOError:
            pass
        except ConnectionResetError:
            closed += 1
    return closed


def test_one_worker_is_one_process_without_a_supervisor(artefact: Path) -> None:
    with served(artefact, workers="1") as started:
        started.wait_listening()
        assert pids(started) == []
        assert not any("Workers" in line for line in started.lines)


def test_connections_are_shared_evenly_and_metrics_are_those_of_all(pair: Served, draw: Draw) -> None:
    before = metric(pair, ANSWERED)
    url = httpx.URL(pair.url)
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=pair.url)) for _ in range(8)]
        answers = [client.post("/classify", files={"image": draw(at)}) for at, client in enumerate(clients)]
        assert {answer.status_code for answer in answers} == {200}
        for index in range(2):
            pair.wait_said(f" worker {index} service.requests: POST /classify 200")
        assert metric(pair, ANSWERED) == before + 8
        scraped = {client.get("/metrics").text.count(f"{ANSWERED} {before + 8}\n") for client in clients}
        assert scraped == {1}  # whichever worker answers
        until(lambda: metric(pair, "marrowlens_connections") == 9)  # and that of the scrape
        idle = [stack.enter_context(socket.create_connection((url.host, url.port or 80))) for _ in range(32)]
        until(lambda: metric(pair, "marrowlens_connections") == 41)
        assert 8 <= closed_by_kill(pair, idle) <= 24  # 16, unless other programs hold a worker back
    until(lambda: ready(pair))


def test_limits_are_divided_and_metrics_give_those_of_the_service(pair: Served) -> None:
    assert metric(pair, "marrowlens_in_flight_limit_pictures") == 256
    assert metric(pair, "marrowlens_connections_limit") == 1000
    until(lambda: metric(pair, "marrowlens_ready") == 1)  # the other worker writes it every half second
    text = httpx.get(f"{pair.url}/metrics").text
    assert text.count("marrowlens_model_info{") == 1
    assert text.count("\nprocess_resident_memory_bytes ") == 1
    assert "pid=" not in text


def test_a_killed_worker_loses_only_its_requests_and_comes_back(pair: Served, draw: Draw) -> None:
    before = metric(pair, ANSWERED)
    stop, answered, lost = Event(), [0] * 4, [0] * 4

    def load(at: int) -> None:
        while not stop.is_set():
            with httpx.Client(base_url=pair.url) as client:
                try:
                    while not stop.is_set():
                        answer = client.post("/classify", files={"image": draw(at)})
                        assert answer.status_code == 200, answer.text
                        answered[at] += 1
                except httpx.TransportError:
                    lost[at] += 1

    with ThreadPoolExecutor(4) as threads:
        loading = [threads.submit(load, at) for at in range(4)]
        until(lambda: min(answered) > 3)
        killed, reached = pids(pair)[0], list(answered)
        kill(pair, killed)
        until(lambda: all(now > then + 3 for now, then in zip(answered, reached, strict=True)))
        until(lambda: len(pids(pair)) == 2 and ready(pair))
        stop.set()
        for each in loading:
            each.result()
    assert killed not in pids(pair)
    assert sum(lost) <= 4
    # An answer may have been counted that the client did not receive any more.
    assert sum(answered) <= metric(pair, ANSWERED) - before <= sum(answered) + sum(lost)
    pair.wait_said("ended by SIGKILL")


def test_readiness_is_that_of_all_but_the_others_serve(pair: Served, draw: Draw) -> None:
    first, second = pids(pair)
    kill(pair, first)
    until(lambda: len(pids(pair)) == 2)
    [third] = {*pids(pair)} - {second}
    os.kill(third, signal.SIGSTOP)  # it takes part, but never gets ready
    try:
        refused = httpx.get(f"{pair.url}/health/ready")
        assert (refused.status_code, "another worker" in refused.json()["detail"]) == (503, True)
        assert metric(pair, "marrowlens_ready") == 0
        assert httpx.post(f"{pair.url}/classify", files={"image": draw(1)}).status_code == 200
        assert httpx.get(f"{pair.url}/health/live").status_code == 200
    finally:
        os.kill(third, signal.SIGCONT)
    until(lambda: ready(pair))


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(artefact: Path, draw: Draw) -> None:
    with workers(artefact, max_run_s="2") as service:
        hanging = pids(service)[0]
        os.kill(hanging, signal.SIGSTOP)
        service.wait_said("does not respond")
        until(lambda: hanging not in pids(service) and len(pids(service)) == 2 and ready(service))
        assert httpx.post(f"{service.url}/classify", files={"image": draw(1)}).status_code == 200


def test_a_signal_drains_all_workers(
    artefact: Path, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    pictures = zipped([(str(at), draw(at)) for at in range(150)])
    with workers(artefact) as service, ExitStack() as stack:
        assert [each.name.startswith("marrowlens-") for each in tmp_path.iterdir()] == [True]
        streams = [
            stack.enter_context(httpx.stream("POST", f"{service.url}/classify/batch", content=pictures, headers=STREAM))
            for _ in range(2)
        ]
        lines = [stream.iter_lines() for stream in streams]
        begun = [next(each) for each in lines]
        service.process.send_signal(signal.SIGTERM)
        rest = [list(each) for each in lines]
        assert service.wait_ended() == 0
    assert len(begun) == 2 and [len(each) for each in rest] == [150, 150]  # the rest, and a summary
    assert all('"problems":0' in each[-1] for each in rest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_signal_ends_at_once(artefact: Path) -> None:
    with workers(artefact, shutdown_timeout_s="600", request_timeout_s="600") as service:
        url = httpx.URL(service.url)
        with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
            head = "POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 9\r\n"
            connection.sendall(f"{head}expect: 100-continue\r\n\r\n".encode())
            assert b"100 Continue" in connection.recv(1000)  # the worker waits for the body now
            service.process.send_signal(signal.SIGTERM)
            until(lambda: len(pids(service)) == 1)  # the other one has nothing to answer
            service.process.send_signal(signal.SIGTERM)
            assert service.wait_ended() == 0


@pytest.mark.slow
def test_workers_end_with_their_supervisor(artefact: Path) -> None:
    with workers(artefact) as service:
        service.process.kill()
        service.wait_ended()  # the workers hold its output open


@pytest.mark.slow
def test_the_service_ends_when_no_worker_starts_again(artefact: Path, tmp_path: Path) -> None:
    for end in (".onnx", ".json"):
        shutil.copy(artefact.with_suffix(end), tmp_path / f"own{end}")
    with workers(tmp_path / "own.onnx") as service:
        (tmp_path / "own.onnx").unlink()
        kill(service, pids(service)[0])
        service.wait_said("restart in 1 s")  # one worker serves, so the other one is tried again
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        for pid in pids(service):
            kill(service, pid)
        assert service.wait_ended() == 70
    assert "No worker starts" in "\n".join(service.lines)


@pytest.mark.parametrize("failing", ["artefact", "keys"])
def test_what_cannot_start_says_so_in_one_line(failing: str, artefact: Path, tmp_path: Path) -> None:
    named = tmp_path / "nowhere.onnx" if failing == "artefact" else artefact
    settings = {"keys_file": str(tmp_path / "nowhere.toml")} if failing == "keys" else {}
    with served(named, workers="2", **settings) as started:
        assert started.wait_ended() == 2
    assert len(started.lines) == 1 and "nowhere" in started.lines[0]
