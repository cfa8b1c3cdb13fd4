"""Another model takes over while the service serves: the answers change and nothing else; a bad one changes nothing."""

import asyncio
import gc
import json
import shutil
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from graphs import change_weight, edit_manifest, store_probes, write_artefact
from keys import bearer, entry, keys_file
from serving import Held, Served, async_client, refused, served, zipped

from model.contract import CLASSES, read_manifest
from service.app import create_app
from service.config.lis import LisSettings
from service.config.settings import Settings
from service.runtime.session import OnnxSession, open_session

Draw = Callable[..., bytes]
PNG = {"content-type": "image/png"}
KEY = "mlk_of-the-operator"
OPERATOR = bearer(KEY)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """The first of two artefacts in a folder; the second has other weights, another input size and stored answers."""
    store_probes(write_artefact(tmp_path, name="second", version="0.0.2", seed=2, input_size=96))
    keys_file(tmp_path, entry(KEY, "operator"), entry("mlk_of-a-scanner", "scanner", ["classify"]))
    return write_artefact(tmp_path, name="first")


def keys_of(shelf: Path) -> Path:
    return shelf.with_name("keys.toml")


def sha256(artefact: Path) -> str:
    return read_manifest(artefact.with_suffix(".json")).sha256


async def change(http: httpx.AsyncClient, name: str | None = None) -> httpx.Response:
    return await http.post("/model/reload", json={} if name is None else {"artefact": name}, headers=OPERATOR)


async def metric(http: httpx.AsyncClient, line: str) -> float:
    text = (await http.get("/metrics")).text
    return next((float(found.split()[-1]) for found in text.splitlines() if found.startswith(line)), 0.0)


def operating(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60, headers=OPERATOR)


@asynccontextmanager
async def serving(artefact: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with async_client(artefact, keys_file=keys_of(artefact), **settings) as http:
        http.headers.update(OPERATOR)
        yield http


async def test_under_load_no_request_fails_and_every_answer_names_the_model_that_gave_it(
    shelf: Path, draw: Draw
) -> None:
    first, second = sha256(shelf), sha256(shelf.with_name("second.onnx"))
    changed = asyncio.Event()
    seen: list[str] = []

    async def ask(http: httpx.AsyncClient, seed: int) -> None:
        after = 0
        while after < 3:  # goes on until the new model has answered it
            answer = await http.post("/classify", content=draw(seed), headers=PNG)
            assert answer.status_code == 200, answer.text
            seen.append(answer.json()["model"]["sha256"])
            after += changed.is_set()

    async with serving(shelf) as http:
        asking = [asyncio.create_task(ask(http, seed)) for seed in range(8)]
        while len(seen) < 20:  # noqa: ASYNC110 (answers are counted, there is no event)
            await asyncio.sleep(0)
        answer = await change(http, "second.onnx")
        assert (answer.status_code, answer.json()["sha256"]) == (200, second)
        changed.set()
        await asyncio.gather(*asking)
        assert set(seen) == {first, second}
        assert seen[-8:] == [second] * 8
        assert await metric(http, 'marrowlens_model_changes_total{outcome="done"}') == 1
        description = (await http.get("/model")).json()
        identity = f'name="second",precision="fp32",provider="cpu",sha256="{second}"'
        labels = f'manifest_sha256="{description["manifest_sha256"]}",{identity}'
        assert await metric(http, f"marrowlens_model_info{{{labels}") == 1


async def test_a_batch_is_ended_with_the_model_that_began_it(shelf: Path, draw: Draw) -> None:
    held = Held(shelf)
    settings = Settings(artefact=shelf, keys_file=keys_of(shelf), max_batch_size=2)
    app = create_app(settings, held)
    pictures = zipped([(str(at), draw(at)) for at in range(20)])
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=60, headers=OPERATOR
        ) as http:
            held.hold()
            headers = {"content-type": "application/zip"}
            batch = asyncio.create_task(http.post("/classify/batch", content=pictures, headers=headers))
            await asyncio.to_thread(held.called.wait, 60)
            assert (await change(http, "second.onnx")).status_code == 200
            new = (await http.post("/classify", content=draw(1), headers=PNG)).json()  # while the old one is held
            assert await metric(http, "marrowlens_in_flight_pictures") > 0
            held.gate.set()
            old = (await batch).json()
    assert new["model"]["name"] == "second"
    assert (old["model"]["name"], old["pictures"], old["problems"]) == ("first", 20, 0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "cannot be read"),
        ("truncated", "sha256"),
        ("another schema", "schema"),
        ("another temperature", "temperature"),
        ("another weight", "does not compute the outputs stored in its manifest"),
        ("another order", "which has the same classes in another order"),
    ],
)
async def test_a_bad_model_is_refused_and_the_old_one_serves_on(
    fault: str, reason: str, shelf: Path, draw: Draw
) -> None:
    second = shelf.with_name("second.onnx")
    if fault == "missing":
        second.unlink()
    elif fault == "truncated":
        second.write_bytes(second.read_bytes()[:-10])
    elif fault == "another schema":
        edit_manifest(second, schema_version=7)
    elif fault == "another temperature":
        edit_manifest(second, temperature=3.0)
    elif fault == "another order":
        edit_manifest(second, classes=[kind.model_dump() for kind in CLASSES[::-1]])
    else:
        change_weight(second, "gate", lambda gate: gate[::-1])
    async with serving(shelf) as http:
        problem = refused(await change(http, "second.onnx"), 422, "model-refused")
        assert reason in problem.detail
        assert str(shelf.parent) not in problem.detail
        answer = await http.post("/classify", content=draw(1), headers=PNG)
        assert answer.json()["model"]["sha256"] == sha256(shelf)
        assert await metric(http, 'marrowlens_model_changes_total{outcome="refused"}') == 1


@pytest.mark.parametrize("name", ["../second.onnx", "/etc/passwd", "second.json", ".onnx", "a\\b.onnx", ""])
async def test_only_artefacts_beside_the_configured_one_may_be_named(name: str, shelf: Path) -> None:
    async with serving(shelf) as http:
        refused(await change(http, name), 422, "invalid-parameter")


async def test_a_body_without_its_content_type_is_told_which(shelf: Path) -> None:
    async with serving(shelf) as http:
        answer = await http.post("/model/reload", content=b'{"artefact": "second.onnx"}', headers=OPERATOR)
        assert (
            "must be a JSON object, sent with Content-Type: application/json"
            in refused(answer, 422, "invalid-parameter").detail
        )


async def test_the_artefact_read_anew_is_the_configured_one_whoever_serves(shelf: Path) -> None:
    async with serving(shelf) as http:
        assert (await change(http, "second.onnx")).json()["name"] == "second"
        assert (await change(http)).json()["name"] == "first"


async def test_without_the_scope_nothing_changes(shelf: Path, artefact: Path) -> None:
    async with async_client(shelf, keys_file=keys_of(shelf)) as http:
        refused(await http.post("/model/reload"), 401, "unauthorised")
        refused(await http.post("/model/reload", headers=bearer("mlk_of-a-scanner")), 403, "forbidden")
    async with async_client(artefact) as http:
        answer = await http.post("/model/reload", headers=OPERATOR)
        assert "needs authentication" in refused(answer, 403, "forbidden").detail


@pytest.mark.slow
async def test_the_memory_of_the_model_that_went_is_free_again(shelf: Path) -> None:
    first = open_session(shelf)
    gone = weakref.ref(first)
    app = create_app(Settings(artefact=shelf, keys_file=keys_of(shelf)), first)
    del first
    async with app.router.lifespan_context(app):
        async with operating(app) as http:
            assert (await change(http, "second.onnx")).status_code == 200
            async with asyncio.timeout(60):
                while gone() is not None:  # its threads end by themselves
                    await asyncio.sleep(0)
                    gc.collect()
            assert (await http.get("/model")).json()["name"] == "second"


async def test_one_change_at_a_time(shelf: Path) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> OnnxSession:
        opening.set()
        assert go_on.wait(60)
        return open_session(path)

    app = create_app(Settings(artefact=shelf, keys_file=keys_of(shelf)), open_session(shelf), slowly)
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost", headers=OPERATOR
        ) as http:
            changing = asyncio.create_task(change(http))
            await asyncio.to_thread(opening.wait, 60)
            refused(await change(http), 409, "change-under-way")
            assert (await http.get("/health/ready")).status_code == 200
            go_on.set()
            assert (await changing).status_code == 200


def hang_up(service: Served, expected: str) -> None:
    """SIGHUP, and wait until the log says what came of it."""
    said = len(service.lines)
    service.process.send_signal(signal.SIGHUP)
    service.wait_said(expected, said)


def test_sighup_reads_the_artefact_anew(shelf: Path, draw: Draw) -> None:
    second = shelf.with_name("second.onnx")
    with served(shelf) as service:
        service.wait_listening()
        shelf.with_suffix(".json").write_text("{")
        hang_up(service, "Reload rejected, keeping the current model")
        assert httpx.post(f"{service.url}/classify", files={"image": draw(1)}).json()["model"]["name"] == "first"
        shutil.copy(second, shelf)
        shutil.copy(second.with_suffix(".json"), shelf.with_suffix(".json"))
        hang_up(service, "Now serving")
        found = httpx.post(f"{service.url}/classify", files={"image": draw(1)}).json()["model"]
        assert found["sha256"] == json.loads(second.with_suffix(".json").read_text())["sha256"]
        service.process.send_signal(signal.SIGTERM)
        assert service.wait_ended() == 0


def test_sighup_goes_back_to_the_configured_artefact(shelf: Path) -> None:
    with served(shelf, keys_file=str(keys_of(shelf))) as service:
        service.wait_listening()
        changed = httpx.post(f"{service.url}/model/reload", json={"artefact": "second.onnx"}, headers=OPERATOR)
        assert changed.json()["name"] == "second"
        hang_up(service, "Now serving first 0.0.1")
        assert httpx.get(f"{service.url}/model", headers=OPERATOR).json()["name"] == "first"


async def test_a_model_without_a_class_of_the_laboratorys_ratio_is_rejected(shelf: Path, tmp_path: Path) -> None:
    classes = [each if each.code != "BLA" else each.model_copy(update={"code": "XBL"}) for each in CLASSES]
    write_artefact(tmp_path, name="second", classes=classes)
    lab = LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}", me_myeloid=("granulocytic", "BLA"))
    async with serving(shelf, lis=lab) as http:
        problem = refused(await change(http, "second.onnx"), 422, "model-refused")
        assert "BLA" in str(problem)
        assert (await http.get("/model")).json()["sha256"] == sha256(shelf)
    async with serving(shelf, lis=LisSettings(database=f"sqlite:///{tmp_path / 'other.db'}")) as http:
        answer = await change(http, "second.onnx")
        assert answer.status_code == 200, answer.text
