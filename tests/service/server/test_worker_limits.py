"""Limits of a service with several workers are those of the service, whichever worker a connection has."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from keys import bearer, entry, keys_file
from serving import Served
from worker_processes import kill, metric, pids, ready, until, workers

from service.cli.main import app as command_line
from service.config.settings import Settings
from service.runtime.hardware import cpu_budget
from service.server.workers.shares import worker_count, worker_settings

Draw = Callable[..., bytes]
SLOW, OPERATOR = "mlk_of-a-slow-client", "mlk_of-the-operator"
UPLOADERS = [f"mlk_of-uploader-{number}" for number in range(3)]
BODY = 100_000


@pytest.fixture(scope="module")
def pair(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    operator, slow = entry(OPERATOR, "operator"), entry(SLOW, "slow", rate_per_s=0.001, burst=10)
    uploaders = [entry(key, f"uploader-{number}") for number, key in enumerate(UPLOADERS)]
    keys = keys_file(tmp_path_factory.mktemp("keys"), operator, slow, *uploaders)
    with workers(artefact, keys_file=str(keys), max_image_bytes=str(BODY), max_body_bytes=str(BODY)) as started:
        yield started


def test_a_rate_limit_counts_the_requests_to_all_workers(pair: Served) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=pair.url, headers=bearer(SLOW))) for _ in range(4)]
        statuses = [client.get("/model").status_code for _ in range(4) for client in clients]
    assert statuses == [200] * 10 + [429] * 6


def begin_upload(service: Served, key: str, stack: ExitStack) -> None:
    """Send all of an upload but its last byte."""
    url = httpx.URL(service.url)
    connection = stack.enter_context(socket.create_connection((url.host, url.port or 80), timeout=60))
    head = f"POST /classify HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-type: image/png"
    connection.sendall(f"{head}\r\ncontent-length: {BODY}\r\n\r\n".encode() + bytes(BODY - 1))


def test_upload_memory_is_that_of_all_workers_and_free_after_a_kill(pair: Served, draw: Draw) -> None:
    with ExitStack() as stack:
        for key in UPLOADERS:
            begin_upload(pair, key, stack)
        headers = bearer(OPERATOR) | {"content-type": "image/png"}

        def answer() -> httpx.Response:
            return httpx.post(f"{pair.url}/classify", content=draw(1), headers=headers)

        until(lambda: answer().status_code == 429)
        assert "all requests in progress have reached the memory limit" in answer().json()["detail"]
        kill(pair, pids(pair)[0])  # it held one or two of the three
        until(lambda: answer().status_code == 200)
    until(lambda: ready(pair))


def test_the_keys_are_counted_once(pair: Served) -> None:
    assert metric(pair, "marrowlens_keys", bearer(OPERATOR)) == 2 + len(UPLOADERS)
    assert metric(pair, "marrowlens_keys_file_valid", bearer(OPERATOR)) == 1


def test_shares_of_a_worker() -> None:
    settings = Settings(workers=3, max_connections=1000, max_queue_size=40, max_batch_size=16, decode_threads=5)
    shares = worker_settings(settings, worker_count(settings))
    assert (shares.max_connections, shares.max_queue_size) == (334, 16)  # a batch must fit
    assert (shares.intra_op_threads, shares.decode_threads) == (max(1, cpu_budget() // 3), 5)
    assert worker_count(Settings(workers="auto")) == cpu_budget()
    assert (worker_count(Settings()), Settings().workers) == (1, 1)


@pytest.mark.parametrize("value", ["0", "-1", "some", "257"])
def test_a_number_of_workers_is_a_whole_number_or_auto(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.setenv("MARROWLENS_WORKERS", value)
    ended = CliRunner().invoke(command_line, ["config", "check"])
    assert ended.exit_code == 2 and f"MARROWLENS_WORKERS={value}" in ended.output
