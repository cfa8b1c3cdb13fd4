"""A database or disk that does not respond: other requests continue, and shutdown stays within its time limit."""

import os
import select
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from conftest import Draw
from databases import Postgres
from keys import entry, keys_file
from receivers import certificates
from serving import Served, served
from sqlalchemy import text

from service.errors import StorageUnavailable
from service.lis.storage.database import Database, Timeouts

#: More callers than the pool of the database has threads and SQLAlchemy connections.
CALLERS = 40
STOP_S = 2
BY = {"X-Acting-User": "tester"}


class FrozenProxy:
    """A proxy that forwards until it is frozen; then it accepts connections and stays silent."""

    def __init__(self, port: int) -> None:
        self._to, self._frozen, self._ended = port, threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def freeze(self) -> None:
        self._frozen.set()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _serve(self) -> None:
        other: dict[socket.socket, socket.socket] = {}
        held: list[socket.socket] = []
        while not self._ended.is_set():
            watched = [self._listener] if self._frozen.is_set() else [self._listener, *other]
            for ready in select.select(watched, [], [], 0.02)[0]:
                if ready is self._listener:
                    client, server = ready.accept()[0], socket.create_connection(("127.0.0.1", self._to))
                    other |= {client: server, server: client}
                    held += [client, server]
                elif not self._frozen.is_set():
                    with suppress(OSError):
                        if data := ready.recv(65536):
                            other[ready].sendall(data)
                            continue
                    for each in (ready, other.pop(ready)):
                        other.pop(each, None)
                        each.close()
        for each in (self._listener, *held):
            each.close()


@contextmanager
def locked_sqlite(tmp_path: Path, _: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[], None]]]:
    """A database file that another process keeps locked."""
    path = tmp_path / "lab.db"
    holding = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        yield f"sqlite:///{path}", lambda: holding.execute("BEGIN EXCLUSIVE") and None
    finally:
        holding.close()


@contextmanager
def silent_postgresql(_: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[], None]]]:
    """A server that no longer answers, with open connections."""
    server: Postgres = request.getfixturevalue("postgres_server")
    url, proxy = server.new_database(), FrozenProxy(server.port)
    try:
        yield url.replace(f":{server.port}/", f":{proxy.port}/"), proxy.freeze
    finally:
        proxy.close()


def order(number: str) -> dict[str, Any]:
    return {"number": number, "patient": {"identifier": "1"}}


def opened(service: Served, number: int) -> httpx.Response:
    return httpx.post(f"{service.url}/specimens", json=order(f"BM-{number}"), headers=BY, timeout=90)


def stopped_in_s(service: Served) -> float:
    began_s = time.monotonic()
    assert service.stop() == 0, "\n".join(service.lines)
    return time.monotonic() - began_s


def metric(service: Served, line: str) -> float:
    found = [text for text in httpx.get(f"{service.url}/metrics").text.splitlines() if text.startswith(line)]
    return float(found[0].split()[-1])


@pytest.mark.parametrize("blocked", [locked_sqlite, silent_postgresql])
def test_a_database_that_does_not_answer_stops_nothing_else(
    artefact: Path, draw: Draw, tmp_path: Path, request: pytest.FixtureRequest, blocked: Any
) -> None:
    with blocked(tmp_path, request) as (url, block):
        with served(artefact, lis_database=url, shutdown_timeout_s=str(STOP_S)) as service:
            service.wait_listening()
            with httpx.Client(base_url=service.url, timeout=90) as http, ThreadPoolExecutor(CALLERS) as callers:
                assert http.post("/specimens", json=order("BM-0"), headers=BY).status_code == 201
                block()
                asked = [callers.submit(opened, service, number) for number in range(1, CALLERS + 1)]
                while metric(service, 'marrowlens_thread_pool_waiting_calls{pool="database"}') < CALLERS - 15:
                    assert not any(each.done() for each in asked)
                for _ in range(5):
                    for path in ("/health/live", "/health/ready", "/model", "/metrics"):
                        began_s = time.monotonic()
                        assert http.get(path).status_code == 200
                        assert time.monotonic() - began_s < 5, path
                assert http.post("/classify", files={"image": draw(1)}).status_code == 200
                # At the end those who wait are told so, by a problem or by the connection's end.
                assert stopped_in_s(service) < STOP_S + 4
                for each in asked:
                    with suppress(httpx.TransportError):
                        assert each.result().status_code == 503
        assert any("calls for database have not returned" in line for line in service.lines)


@pytest.mark.slow
def test_a_held_lock_is_not_waited_for_and_all_goes_on_after_it(
    artefact: Path, draw: Draw, postgres_server: Postgres
) -> None:
    url = postgres_server.new_database()
    limits = {"lis_database_lock_timeout_s": "1", "lis_database_statement_timeout_s": "5"}
    with served(artefact, lis_database=url, shutdown_timeout_s=str(STOP_S), **limits) as service:
        service.wait_listening()
        with httpx.Client(base_url=service.url, timeout=30) as http, ThreadPoolExecutor(7) as callers:
            specimen = opened(service, 0).json()["id"]
            with psycopg.connect(url.replace("+psycopg", "")) as holding:
                holding.execute("SELECT * FROM audit_head FOR UPDATE")
                asked = [callers.submit(opened, service, number) for number in range(1, 8)]
                assert http.post("/classify", files={"image": draw(1)}).status_code == 200
                for path in ("/health/live", "/health/ready", f"/specimens/{specimen}"):
                    assert http.get(path).status_code == 200
                assert [each.result().status_code for each in asked] == [503] * 7
                holding.rollback()
                assert opened(service, 1).status_code == 201
                assert metric(service, 'marrowlens_thread_pool_busy_threads{pool="database"}') <= 1
                holding.execute("SELECT * FROM audit_head FOR UPDATE")
                asked = [callers.submit(opened, service, number) for number in range(2, 9)]
                assert stopped_in_s(service) < STOP_S + 4
                for each in asked:
                    with suppress(httpx.TransportError):
                        assert each.result().status_code == 503


def test_a_slow_statement_is_cancelled_but_not_a_migration(postgres_server: Postgres) -> None:
    database = Database(postgres_server.new_database(), timeouts=Timeouts(lock_s=0.2, statement_s=0.2))
    try:
        database.migrate()
        for _ in range(2):  # the second time on a connection that has had a rollback
            with pytest.raises(StorageUnavailable), database.writing() as session:
                session.execute(text("SELECT pg_sleep(5)"))
        with database.engine.execution_options(marrowlens_purpose="write").connect() as holding:
            holding.execute(text("SELECT pg_advisory_lock(7241966021)"))
            with ThreadPoolExecutor(1) as migrating:
                done = migrating.submit(database.migrate)
                with pytest.raises(TimeoutError):
                    done.result(1)
                holding.execute(text("SELECT pg_advisory_unlock(7241966021)"))
                done.result()
        assert database.is_current()
    finally:
        database.close()


def test_a_kept_picture_that_is_a_fifo_is_waited_for_by_nobody(artefact: Path, draw: Draw, tmp_path: Path) -> None:
    settings = {"lis_database": f"sqlite:///{tmp_path / 'lab.db'}", "lis_pictures": str(tmp_path / "pictures")}
    with served(artefact, **settings) as service:
        service.wait_listening()
        with httpx.Client(base_url=service.url, timeout=60) as http:
            specimen = http.post("/specimens", json=order("BM-1"), headers=BY).json()["id"]
            assert http.post(f"/specimens/{specimen}/cells", files={"images": draw(1)}, headers=BY).is_success
            [kept] = (tmp_path / "pictures").glob("??/*.picture")
            kept.unlink()
            os.mkfifo(kept)
            assert http.get(f"/specimens/{specimen}/cells/1/picture").status_code == 500
            assert metric(service, 'marrowlens_thread_pool_busy_threads{pool="pictures"}') == 0
        assert stopped_in_s(service) < 20


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ("keys", "API keys rejected, keeping the current keys"),
        ("certificate", "TLS certificate rejected, keeping the current one"),
    ],
    ids=["keys", "certificate"],
)
def test_a_file_that_becomes_a_fifo_is_not_waited_for(artefact: Path, tmp_path: Path, what: str, kept: str) -> None:
    found = certificates(tmp_path / "ours")
    keys = keys_file(tmp_path, entry("mlk_a", "somebody"))
    settings = {"keys_file": str(keys), "tls_cert": str(found.server), "tls_key": str(found.server_key)}
    with served(artefact, **settings) as service:
        service.wait_listening()
        service.wait_said("Try: curl")  # the last line of a start, which itself reads the keys
        path = keys if what == "keys" else found.server
        path.unlink()
        os.mkfifo(path)
        service.wait_said("regular file")
        service.wait_said(kept)
        assert stopped_in_s(service) < 20


def test_the_gauges_of_the_outbox_go_on_after_a_fault_of_the_database(
    artefact: Path, tmp_path: Path, draw: Draw
) -> None:
    file = tmp_path / "lab.db"
    settings = {"lis_database": f"sqlite:///{file}", "lis_hl7_to": "127.0.0.1:9", "lis_deliver": "false"}
    waiting = 'marrowlens_lis_outbox_messages{channel="hl7"} '

    def shown(http: httpx.Client, value: float) -> None:
        ends_s = time.monotonic() + 30
        while f"{waiting}{value}" not in (text := http.get("/metrics").text):
            assert time.monotonic() < ends_s, text

    with served(artefact, **settings) as service:
        service.wait_listening()
        http = httpx.Client(base_url=service.url, headers=BY, timeout=30)
        made = http.post("/specimens", json={"number": "BM-1", "patient": {"identifier": "1"}}).json()["id"]
        http.post(f"/specimens/{made}/cells", files={"images": draw(1)}).raise_for_status()
        shown(http, 0.0)
        with sqlite3.connect(file) as connection:
            connection.execute("ALTER TABLE outbox RENAME TO gone")
        body = {"revision": 2, "accept_unread": True, "accept_below_target": True}
        assert http.post(f"/specimens/{made}/sign", json=body).status_code >= 500
        with sqlite3.connect(file) as connection:
            connection.execute("ALTER TABLE gone RENAME TO outbox")
        http.post(f"/specimens/{made}/sign", json=body).raise_for_status()
        shown(http, 1.0)
        http.close()
