"""Exceptions in each background task of a service: counted, logged without their text, and the task restarts."""

import asyncio
import gc
import logging
import os
import re
import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from checkout import ROOT
from collector import collector
from fastapi import FastAPI
from graphs import write_artefact
from keys import entry, keys_file
from receivers import certificates
from serving import async_client, client

from service.app import create_app
from service.auth.api_keys import KeyRing
from service.concurrency.supervisor import TaskName
from service.config.lis import LisSettings
from service.config.settings import Settings
from service.inference.classifier import Classifier
from service.inference.registry import ModelRegistry
from service.lis.exchange.delivery import DeliveryWorker
from service.lis.exchange.mllp.listener import OrderListener
from service.lis.picture_store import PictureStore
from service.lis.retention import Retention
from service.lis.storage import outbox
from service.runtime.artifact import bundled_artefact
from service.runtime.loader import load_session
from service.runtime.session import open_session
from service.server.tls import Tls
from service.server.uvicorn_server import DrainingServer, create_server
from service.telemetry.metrics import Metrics

SERVICE = ROOT / "service"
PATIENT = "Muster, Erika"


def value(metrics: Metrics, name: str, task: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"task": task})


class Fault:
    """Replaces a function by one whose first call fails."""

    def __init__(
        self, patch: pytest.MonkeyPatch, owner: Any, name: str, only: Callable[..., bool] | None = None
    ) -> None:
        real: Callable[..., Any] = getattr(owner, name)
        self.failed, self.again = threading.Event(), threading.Event()

        def fails_first(*args: Any, **kwargs: Any) -> Any:
            if only is not None and not only(*args):
                return real(*args, **kwargs)
            if not self.failed.is_set():
                self.failed.set()
                raise LookupError(PATIENT)
            self.again.set()
            return real(*args, **kwargs)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await fails_first(*args, **kwargs)

        patch.setattr(owner, name, awaited if asyncio.iscoroutinefunction(real) else fails_first)


#: By task: the function that fails once.
FAULTS: dict[TaskName, tuple[Any, str]] = {
    "certificate": (Tls, "_has_new_pair"),
    "drift": (Classifier, "measure_drift"),
    "keys": (KeyRing, "refresh"),
    "model_retirement": (Classifier, "retire"),
    "order_listener": (OrderListener, "serve"),
    "outbox_watch": (outbox, "depths"),
    "picture_sweep": (PictureStore, "delete_expired"),
    "reload": (ModelRegistry, "reload"),
    "retention": (Retention, "expire_messages"),
}


@pytest.fixture
def everything(tmp_path: Path) -> Settings:
    """Settings that enable every background task."""
    found = certificates(tmp_path / "ours")
    return Settings(
        artefact=write_artefact(tmp_path),
        keys_file=keys_file(tmp_path, entry("mlk_of-an-operator", "operator")),
        tls_cert=found.server,
        tls_key=found.server_key,
        lis=LisSettings(
            database=f"sqlite:///{tmp_path / 'lab.db'}",
            pictures=tmp_path / "pictures",
            hl7_to="127.0.0.1:9",
            hl7_listen="127.0.0.1:0",
            fhir_url="http://127.0.0.1:9",
            astm_to="127.0.0.1:9",
        ),
    )


@pytest.fixture
def hooks() -> Iterator[None]:
    """Restores what a server changes for the whole process."""
    hook = threading.excepthook
    yield
    threading.excepthook = hook
    gc.unfreeze()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[FastAPI, DrainingServer]]:
    """A started server in this process."""
    started = asyncio.Event()
    app = create_app(settings, open_session(settings.artefact))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = create_server(app, settings, access_log=False, started=started.set)
        task = asyncio.create_task(serving.serve([listener]))
        await started.wait()
        try:
            yield app, serving
        finally:
            serving.should_exit = True
            await task


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 (a metric has no event)
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("hooks")
async def test_each_task_of_a_service_survives_an_exception(
    everything: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = {name: Fault(monkeypatch, *where) for name, where in FAULTS.items()}
    for channel in ("astm", "fhir", "hl7"):
        faults[f"delivery_{channel}"] = Fault(
            monkeypatch, DeliveryWorker, "_step", lambda each, to=channel: each.channel == to
        )
    assert set(faults) == set(get_args(TaskName)), "a fault for every task"
    async with running(everything) as (app, _):
        metrics: Metrics = app.state.app_state.metrics

        def changes() -> float:
            return metrics.registry.get_sample_value("marrowlens_model_changes_total", {"outcome": "done"}) or 0

        os.kill(os.getpid(), signal.SIGHUP)  # this reload fails,
        assert await asyncio.to_thread(faults["reload"].failed.wait, 60)
        for done in (1, 2):  # these two retire a model each
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda done=done: changes() == done)
        for name, fault in faults.items():
            assert await asyncio.to_thread(fault.again.wait, 60), name
            assert value(metrics, "marrowlens_background_task_failures_total", name) == 1, name
            assert re.search(rf"background task {name} failed.*LookupError", caplog.text), name
    assert PATIENT not in caplog.text


@pytest.mark.usefixtures("hooks")
async def test_threads_and_callbacks_that_fail_are_counted_and_logged(
    everything: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise LookupError(PATIENT)

    async with running(everything) as (app, _):
        metrics: Metrics = app.state.app_state.metrics
        thread = threading.Thread(target=fails, name="lost")
        thread.start()
        await asyncio.to_thread(thread.join)
        asyncio.get_running_loop().call_soon(fails)
        await until(lambda: value(metrics, "marrowlens_background_task_failures_total", "event_loop") == 1)
        assert value(metrics, "marrowlens_background_task_failures_total", "thread") == 1
    assert "thread lost failed: LookupError at test_background_tasks.py:" in caplog.text
    assert re.search("event loop: Exception in callback .*: LookupError at test_background_tasks.py:", caplog.text)
    assert PATIENT not in caplog.text


@pytest.mark.usefixtures("hooks")
async def test_a_task_that_is_not_set_up_has_no_series(artefact: Path) -> None:
    async with running(Settings(artefact=artefact, drift_window=0)) as (app, _):
        metrics: Metrics = app.state.app_state.metrics
        names = get_args(TaskName)
        assert [each for each in names if value(metrics, "marrowlens_background_task_running", each)] == []
        assert all(value(metrics, "marrowlens_background_task_failures_total", each) == 0 for each in names)


#: By room: tasks and threads with a caller or a task group that gets their failure, and one per connection or fetch,
#: which logs it.
AWAITED = {
    "create_task": {"api": 1, "auth": 1, "concurrency": 1, "inference": 2, "lis": 6, "server": 8},
    "ensure_future": {"scoring": 1},
    "threading.Thread": {"concurrency": 1, "inference": 1},
}


def test_no_task_or_thread_is_started_beside_the_supervisor() -> None:
    for word, allowed in AWAITED.items():
        found: Counter[str] = Counter()
        for path in SERVICE.rglob("*.py"):
            found[path.relative_to(SERVICE).parts[0]] += path.read_text().count(f"{word}(")
        assert +found == allowed, word


@pytest.mark.usefixtures("hooks")
async def test_sighup_during_a_reload_is_logged_and_done_once_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    artefact = write_artefact(tmp_path)
    opening, go_on, opened = threading.Event(), threading.Event(), []

    def slowly(path: Path) -> Any:
        session = open_session(path)
        opened.append(session.manifest.name)
        opening.set()
        assert go_on.wait(60)
        return session

    async with running(Settings(artefact=artefact, drift_window=0)) as (app, _):
        app.state.models._open_model = slowly
        os.kill(os.getpid(), signal.SIGHUP)
        assert await asyncio.to_thread(opening.wait, 60)
        second = write_artefact(tmp_path, name="second", seed=2)  # arrives while the first is being loaded
        for suffix in (".onnx", ".json"):
            shutil.move(second.with_suffix(suffix), artefact.with_suffix(suffix))
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: caplog.text.count("the artefact is reloaded once more when it ends") == 3)
        go_on.set()
        await until(lambda: app.state.app_state.classifier.manifest.name == "second")
    assert opened == ["micro", "second"]


async def test_a_scrape_does_not_wait_for_drift_to_be_measured() -> None:
    """The model's thread and the drift measurement share a lock that scrapes do not take."""
    settings = Settings()
    async with async_client(bundled_artefact(), session=load_session(settings)) as http:
        window = http._transport.app.state.app_state.classifier._drift
        with window._lock:
            async with asyncio.timeout(30):
                found = (await http.get("/metrics")).text
    assert "marrowlens_drift_window_pictures 0.0" in found


def sending() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if "Span" in each.name]


def test_traces_have_one_exporter_which_ends_with_the_service(artefact: Path) -> None:
    before = sending()
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url) as http:
            assert http.get("/classes").is_success
            assert len(sending()) == len(before) + 1
        assert sending() == before and found.spans
