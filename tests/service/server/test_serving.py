"""The service as a process: start, shutdown, overload, timeouts and disconnecting clients."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from serving import COMMAND, Held, Served, async_client, served, zipped
from starlette.types import Message
from typer.testing import CliRunner

from service.app import create_app
from service.cli.main import app as command_line
from service.config.settings import Settings

Draw = Callable[..., bytes]
PNG = {"content-type": "image/png"}


# Start


@pytest.mark.parametrize(
    ("module", "cure"),
    [
        ("fastapi", "pip install -e '.[service,cpu]'"),
        ("onnxruntime", "pip install -e '.[service,cpu]', or -e '.[service,gpu]' for CUDA"),
    ],
)
def test_without_what_serving_needs_the_command_names_what_to_install(module: str, cure: str) -> None:
    code = f"import sys; sys.modules['{module}'] = None; from service.cli.main import app; app(['serve'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"marrowlens: {module} is not installed: {cure}\n")


@pytest.fixture(scope="module")
def service(artefact: Path) -> Iterator[Served]:
    with served(artefact, "--access-log") as started:
        started.wait_listening()
        yield started


def test_a_started_service_is_ready_and_says_what_it_is(service: Served, draw: Draw, artefact: Path) -> None:
    assert httpx.get(f"{service.url}/health/ready").status_code == 200
    service.wait_said("curl -F")  # the last line of a start
    said = "\n".join(service.lines)
    manifest = json.loads(artefact.with_suffix(".json").read_text())
    for expected in (manifest["name"], manifest["version"], manifest["sha256"], "cpu", "Research use only", "curl -F"):
        assert expected in said
    assert "WARNING" not in said
    answer = httpx.post(f"{service.url}/classify", files={"image": draw(1)})
    assert answer.json()["model"]["sha256"] == manifest["sha256"]


def test_answers_do_not_say_what_server_they_come_from(service: Served) -> None:
    assert "server" not in httpx.get(f"{service.url}/health/live").headers


def test_the_access_log_holds_nothing_of_the_client(service: Served, draw: Draw) -> None:
    httpx.post(f"{service.url}/classify?top_k=7", files={"image": ("Smith-John.png", draw(1))})
    httpx.get(f"{service.url}/patients/smith", headers={"x-request-id": "last-one"})
    service.wait_said("last-one")
    said = "\n".join(service.lines)
    assert "POST /classify 200" in said
    assert "GET other 404" in said
    assert not any(word in said for word in ("Smith", "smith", "top_k"))


@pytest.mark.parametrize(
    ("options", "environment", "reason"),
    [
        (["--artefact", "nowhere.onnx"], {}, "nowhere"),
        ([], {"MARROWLENS_PROT": "80"}, "MARROWLENS_PORT"),
        (["--port", "70000"], {}, "MARROWLENS_PORT"),
        ([], {"MARROWLENS_MAX_BATCH_SIZE": "many"}, "MARROWLENS_MAX_BATCH_SIZE"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(
    options: list[str], environment: dict[str, str], reason: str, artefact: Path
) -> None:
    given = options if "--artefact" in options else ["--artefact", str(artefact), *options]
    ended = CliRunner().invoke(command_line, ["serve", *given], env=environment)
    assert ended.exit_code == 2
    assert reason in ended.output
    assert ended.output.count("\n") == 1


def test_a_damaged_artefact_cannot_start(artefact: Path, tmp_path: Path) -> None:
    copy = tmp_path / artefact.name
    copy.write_bytes(artefact.read_bytes()[:-1])
    copy.with_suffix(".json").write_bytes(artefact.with_suffix(".json").read_bytes())
    ended = CliRunner().invoke(command_line, ["serve", "--artefact", str(copy)])
    assert (ended.exit_code, "sha256" in ended.output, ended.output.count("\n")) == (2, True, 1)


def test_a_busy_port_cannot_be_served_on(artefact: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        ended = CliRunner().invoke(command_line, ["serve", "--artefact", str(artefact), "--port", port])
    assert ended.exit_code == 2
    assert port in ended.output and "--port" in ended.output


def test_the_command_is_installed() -> None:
    ended = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert all(name in ended.stdout for name in ("serve", "openapi", "score"))


# Stop


def test_what_was_accepted_is_answered_before_the_process_ends(artefact: Path, draw: Draw) -> None:
    pictures = zipped([(str(at), draw(at)) for at in range(300)])
    headers = {"content-type": "application/zip", "accept": "application/x-ndjson"}
    with served(artefact) as started:
        started.wait_listening()
        with httpx.stream("POST", f"{started.url}/classify/batch", content=pictures, headers=headers) as answer:
            lines = answer.iter_lines()
            first = json.loads(next(lines))
            started.process.send_signal(signal.SIGTERM)
            *rest, summary = [json.loads(line) for line in lines]
        assert started.wait_ended() == 0
    assert [item["index"] for item in (first, *rest)] == list(range(300))
    assert (summary["pictures"], summary["problems"]) == (300, 0)


def test_while_it_drains_it_is_not_ready_but_serves(artefact: Path, draw: Draw) -> None:
    with served(artefact, drain_delay_s="600") as started:
        started.wait_listening()
        with httpx.Client(base_url=started.url) as http:
            started.process.send_signal(signal.SIGTERM)
            while http.get("/health/ready").status_code == 200:
                pass
            refused = http.get("/health/ready")
            assert (refused.status_code, refused.json()["status"]) == (503, 503)
            assert http.get("/health/live").status_code == 200
            assert http.post("/classify", files={"image": draw(1)}).status_code == 200
        started.process.send_signal(signal.SIGTERM)  # a second signal skips the delay
        assert started.wait_ended() == 0


def test_an_upload_that_never_ends_does_not_keep_the_process_and_gets_its_answer_too(artefact: Path) -> None:
    with served(artefact, shutdown_timeout_s="1") as started:
        started.wait_listening()
        address = httpx.URL(started.url)
        with socket.create_connection((address.host, address.port or 80), timeout=60) as connection:
            head = "POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 9\r\n"
            connection.sendall(f"{head}expect: 100-continue\r\n\r\n".encode())
            assert b"100 Continue" in connection.recv(1000)  # the service is waiting for the body now
            started.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: connection.recv(1000), b""))
        assert started.wait_ended() == 0
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"application/problem+json" in answer and b"\r\nretry-after: 1\r\n" in answer


# Load


@pytest.fixture
def held(artefact: Path) -> Iterator[Held]:
    session = Held(artefact)
    yield session
    session.gate.set()


async def called(session: Held) -> None:
    assert await asyncio.to_thread(session.called.wait, 60)


async def test_one_more_than_there_are_places_for_is_told_when_to_come_back(
    held: Held, artefact: Path, draw: Draw
) -> None:
    async with async_client(artefact, session=held, max_batch_size=1, max_queue_size=1) as http:
        held.hold()
        waiting = asyncio.create_task(http.post("/classify", content=draw(1), headers=PNG))
        await called(held)
        refused = await http.post("/classify", content=draw(2), headers=PNG)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["type"].endswith(":overloaded")
        assert (await http.get("/health/live")).status_code == 200
        held.gate.set()
        assert (await waiting).status_code == 200
        assert (await http.post("/classify", content=draw(2), headers=PNG)).status_code == 200


async def test_what_will_be_refused_is_refused_before_its_body_is_read(held: Held, artefact: Path, draw: Draw) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"\x89PNG"
        await asyncio.Event().wait()

    async with async_client(artefact, session=held, max_batch_size=1, max_queue_size=1) as http:
        held.hold()
        waiting = asyncio.create_task(http.post("/classify", content=draw(1), headers=PNG))
        await called(held)
        refused = await http.post("/classify", content=never(), headers=PNG)
        assert refused.status_code == 429
        held.gate.set()
        assert (await waiting).status_code == 200


async def test_a_batch_waits_for_places_instead_of_failing(held: Held, artefact: Path, draw: Draw) -> None:
    async with async_client(artefact, session=held, max_batch_size=1, max_queue_size=1) as http:
        files = [("images", (str(at), draw(at))) for at in range(8)]
        found = (await http.post("/classify/batch?maps=none", files=files)).json()
    assert (found["pictures"], found["problems"]) == (8, 0)


async def test_an_answer_that_would_come_too_late_is_a_504(held: Held, artefact: Path, draw: Draw) -> None:
    async with async_client(artefact, session=held, request_timeout_s=0.05) as http:
        held.hold()
        late = await http.post("/classify", content=draw(1), headers=PNG)
        assert late.status_code == 504
        assert late.json()["type"].endswith(":deadline-expired")
        held.gate.set()


async def test_a_client_may_wish_for_less_time_but_not_for_more(held: Held, artefact: Path, draw: Draw) -> None:
    async with async_client(artefact, session=held, request_timeout_s=60) as http:
        held.hold()
        hurried = await http.post("/classify", content=draw(1), headers={**PNG, "X-Request-Timeout-Ms": "20"})
        batch = await http.post("/classify/batch", files=[("images", draw(2))], headers={"X-Request-Timeout-Ms": "20"})
        held.gate.set()
    assert (hurried.status_code, hurried.json()["type"].split(":")[-1]) == (504, "deadline-expired")
    assert batch.json()["results"][0]["problem"]["status"] == 504
    async with async_client(artefact, session=held, request_timeout_s=0.02) as http:
        held.hold()
        patient = await http.post("/classify", content=draw(1), headers={**PNG, "X-Request-Timeout-Ms": "3600000"})
        held.gate.set()
    assert patient.status_code == 504


@pytest.mark.parametrize("wish", ["0", "-5", "soon", "1.5"])
async def test_a_wish_that_is_no_time_is_refused(wish: str, artefact: Path, draw: Draw) -> None:
    async with async_client(artefact) as http:
        refused = await http.post("/classify", content=draw(1), headers={**PNG, "X-Request-Timeout-Ms": wish})
    assert refused.status_code == 422
    assert "X-Request-Timeout-Ms" in refused.json()["detail"]


@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_work_for_a_client_that_left_is_dropped(
    held: Held, artefact: Path, draw: Draw, path: str, accept: str
) -> None:
    async with async_client(artefact, session=held, max_batch_size=1) as http:
        held.hold()
        leaving: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        body = draw(1) if path == "/classify" else zipped([(str(at), draw(at)) for at in range(5)])
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            return messages.pop() if messages else await asyncio.shield(leaving)

        async def send(message: Message) -> None:
            sent.append(message)

        media_type = b"image/png" if path == "/classify" else b"application/zip"
        headers = [(b"content-type", media_type), (b"accept", accept.encode())]
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST", "path": path}
        scope |= {"query_string": b"", "headers": headers, "root_path": "", "scheme": "http"}
        transport = http._transport
        assert isinstance(transport, httpx.ASGITransport)
        request = asyncio.ensure_future(transport.app(scope, receive, send))
        await called(held)
        leaving.set_result({"type": "http.disconnect"})
        await asyncio.wait_for(request, 60)
        assert not any(message.get("body") for message in sent)
        text = (await http.get("/metrics")).text
        assert 'outcome="cancelled"' in text
        assert "marrowlens_in_flight_pictures 0.0" in text
        held.gate.set()
        assert (await http.post("/classify", content=draw(2), headers=PNG)).status_code == 200


async def test_uploads_together_are_bounded(artefact: Path, draw: Draw) -> None:
    async with async_client(artefact, max_image_bytes=100_000, max_body_bytes=100_000) as http:
        transport = http._transport
        assert isinstance(transport, httpx.ASGITransport)
        memory = transport.app.state.app_state.upload_memory  # type: ignore[attr-defined]
        with memory.reserve("one") as others, memory.reserve("another") as more:
            others.add(memory.caller_limit_bytes)
            more.add(memory.limit_bytes - memory.caller_limit_bytes)
            refused = await http.post("/classify", content=draw(1), headers=PNG)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await http.post("/classify", content=draw(1), headers=PNG)).status_code == 200


async def test_several_apps_can_live_in_one_process(artefact: Path, draw: Draw) -> None:
    async with async_client(artefact) as first, async_client(artefact) as second:
        await first.post("/classify", content=draw(1), headers=PNG)
        assert 'marrowlens_requests_total{route="/classify"' in (await first.get("/metrics")).text
        assert 'marrowlens_requests_total{route="/classify"' not in (await second.get("/metrics")).text


def test_nothing_is_read_or_opened_at_import_or_construction() -> None:
    assert create_app(Settings(artefact=Path("nowhere.onnx"))).state.app_state.classifier is None
