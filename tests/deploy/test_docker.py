"""The images and the compose file agree with the code: names, ports, routes, users, and what is copied in."""

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import yaml
from checkout import ROOT

from service.config.settings import read_settings

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
IMAGES = {"service": "docker/service.Dockerfile", "training": "docker/training.Dockerfile"}


def instructions(image: str) -> list[tuple[str, str]]:
    """(instruction, its arguments), with comments gone and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / IMAGES[image]).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def arguments(image: str, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(image) if word == instruction]


def environment(image: str) -> dict[str, str]:
    pairs = " ".join(arguments(image, "ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize("runtime", ["cpu", "gpu", "openvino"])
def test_service_image_holds_no_torch(runtime: str) -> None:
    assert "\ntorch" not in (ROOT / f"docker/constraints-{runtime}.txt").read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_built_by_the_steps_that_the_tests_run(image: str) -> None:
    """`docker/install.sh` alone installs; tests/deploy/test_image_install.py runs it."""
    steps = [run[run.index("sh docker/") :] for run in arguments(image, "RUN")]
    asked = '"$RUNTIME"' if image == "service" else "training"
    assert steps == [f"sh docker/install.sh dependencies {asked}", "sh docker/install.sh project"]


@pytest.mark.parametrize("image", IMAGES)
def test_the_base_and_the_wheels_come_from_who_builds(image: str) -> None:
    """`PYTHON_IMAGE` takes a tag with its digest; `wheels` is empty where no build context of that name is given."""
    bases = arguments(image, "FROM")
    assert bases[:2] == ["scratch AS wheels", "${PYTHON_IMAGE} AS build"]
    assert {base.split()[0] for base in bases} <= {"scratch", "${PYTHON_IMAGE}", "${RUN_IMAGE}"}
    assert any("--mount=type=bind,from=wheels,target=/wheels" in run for run in arguments(image, "RUN"))


@pytest.mark.parametrize("image", IMAGES)
def test_what_runs_needs_no_shell(image: str) -> None:
    """In the last stage nothing is run, and what is started is a list of words."""
    last = instructions(image)[max(at for at, (word, _) in enumerate(instructions(image)) if word == "FROM") :]
    assert "RUN" not in [word for word, _ in last]
    started = [rest.partition("CMD ")[2] or rest for word, rest in last if word in ("ENTRYPOINT", "CMD", "HEALTHCHECK")]
    assert len(started) >= 2
    assert all(isinstance(json.loads(words), list) for words in started)


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_of_this_version_start_a_command_of_this_project_and_are_not_root(image: str) -> None:
    labels = " ".join(arguments(image, "LABEL"))
    assert f'org.opencontainers.image.version="{PROJECT["version"]}"' in labels
    assert f'org.opencontainers.image.licenses="{PROJECT["license"]}"' in labels
    (entrypoint,) = arguments(image, "ENTRYPOINT")
    assert json.loads(entrypoint)[0] in PROJECT["scripts"]
    user, group = arguments(image, "USER")[-1].split(":")
    assert int(user) > 0 and int(group) > 0


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_copies_is_sent_to_the_builder(image: str) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for copy in arguments(image, "COPY") if "--from" not in copy for name in copy.split()[:-1]}
    assert copied == sent
    assert [name for name in sent if not list(ROOT.glob(name))] == []


def test_service_image_sets_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("service").items():
        if name.startswith("MARROWLENS_"):
            monkeypatch.setenv(name, value)
    settings = read_settings()
    assert settings.host == "0.0.0.0"
    assert arguments("service", "EXPOSE") == [str(settings.port)]


class Health(BaseHTTPRequestHandler):
    """Answers as the server's `answers` table says; anything else is not found."""

    def do_GET(self) -> None:
        self.send_response(self.server.answers.get(self.path, 404))  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Health) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def exit_status(check: list[str], port: int) -> int:
    assert check[:2] == ["python", "-c"]
    code = check[2].replace(":8000/", f":{port}/")
    env = {**os.environ, "MARROWLENS_PORT": str(port)}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, timeout=30, check=False
    ).returncode


def healthchecks() -> dict[str, tuple[str, list[str]]]:
    (in_image,) = arguments("service", "HEALTHCHECK")
    in_image = json.loads(in_image.partition(" CMD ")[2])
    in_compose = COMPOSE["x-service"]["healthcheck"]["test"]
    assert in_compose[0] == "CMD"
    return {"image": ("/health/live", in_image), "compose": ("/health/ready", in_compose[1:])}


@pytest.mark.parametrize("where", ["image", "compose"])
def test_healthcheck_believes_the_health_route_alone(where: str, server: HTTPServer) -> None:
    path, check = healthchecks()[where]
    routes = json.loads((ROOT / "openapi.json").read_text())["paths"]
    assert "get" in routes[path]
    server.answers = {path: 200}  # type: ignore[attr-defined]
    assert exit_status(check, server.server_port) == 0
    server.answers = {path: 503, "/": 200}  # type: ignore[attr-defined]
    assert exit_status(check, server.server_port) != 0


def test_healthcheck_fails_where_nobody_listens(server: HTTPServer) -> None:
    port = server.server_port
    server.server_close()
    for _, check in healthchecks().values():
        assert exit_status(check, port) != 0


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_compose_runs_this_version_locked_down(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["image"].partition(":")[2].removesuffix("-gpu") == PROJECT["version"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [tmpfs.partition(":")[0] for tmpfs in service["tmpfs"]] == ["/tmp"]
    assert [port for port in service["ports"] if not port.startswith("127.0.0.1:")] == []
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_compose_sets_settings_that_exist_and_waits_for_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = COMPOSE["services"][name]
    for setting, value in service.get("environment", {}).items():
        monkeypatch.setenv(setting, value)
    settings = read_settings()
    assert float(service["stop_grace_period"].removesuffix("s")) > settings.drain_delay_s + settings.shutdown_timeout_s
