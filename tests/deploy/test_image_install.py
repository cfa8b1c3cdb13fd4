"""The steps of docker/service.Dockerfile in a clean environment: wheels are fetched, and nothing else needs a network.

The one test that asks PyPI, as `make test` itself does for its environment. The image as an image: `make stress`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import httpx
import pytest
from checkout import ROOT
from serving import Served
from test_docker import environment, healthchecks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MAX_BYTES = 300_000_000
#: pip finds no index: what is installed afterwards came from the folder of wheels.
OFFLINE = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}


def _clean() -> dict[str, str]:
    """This environment without what would lead Python or pip elsewhere than an image's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "MARROWLENS_"))}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the CPU image has in /opt/marrowlens."""
    folder = tmp_path_factory.mktemp("image")
    version = "{}.{}".format(*sys.version_info[:2])
    own = {"PYTHON": sys.executable, "IMAGE_PYTHON": version, "MACHINE": os.uname().machine}
    fetched = subprocess.run(
        ["docker/wheels.sh", "cpu", str(folder / "wheels")],
        cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    if fetched.returncode and "connection" in fetched.stderr.lower():
        pytest.skip("PyPI is not reached, and the wheels are there")
    assert fetched.returncode == 0, fetched.stderr
    own |= {"WHEELS": str(folder / "wheels"), "ENVIRONMENT": str(folder / "env"), "TOOLS": str(folder / "tools")}
    for step in (["dependencies", "cpu"], ["project"]):
        subprocess.run(
            ["sh", "docker/install.sh", *step],
            cwd=ROOT, env={**_clean(), **OFFLINE, **own}, capture_output=True, text=True, timeout=250, check=True,
        )  # fmt: skip
    return folder / "env"


@pytest.fixture
def running(installed: Path) -> Iterator[Served]:
    """The image's command, with the settings that the image has, on a free port of loopback."""
    own = {"PATH": f"{installed}/bin", "MARROWLENS_HOST": "127.0.0.1", "MARROWLENS_PORT": "0", "PYTHONUNBUFFERED": "1"}
    settings = {name: value for name, value in environment("service").items() if name.startswith("MARROWLENS_")}
    process = subprocess.Popen(
        [installed / "bin/marrowlens", "serve"],
        env={**_clean(), **settings, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=installed,
    )  # fmt: skip
    started = Served(process)
    try:
        started.wait_listening()
        yield started
    finally:
        process.kill()
        started.wait_ended()
        assert process.stdout is not None
        process.stdout.close()


def test_the_environment_is_small_and_has_nothing_to_install_with(installed: Path) -> None:
    found = [path for path in installed.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.lstat().st_size for path in found) <= MAX_BYTES
    (packages,) = installed.glob("lib/python3.*/site-packages")
    names = {each.metadata["Name"].lower() for each in distributions(path=[str(packages)])}
    assert {"marrowlens", "onnxruntime", "cryptography"} <= names
    assert not names & {"pip", "setuptools", "wheel", "hatchling", "torch"}


def test_it_answers_and_its_health_check_passes(running: Served, installed: Path) -> None:
    with (ROOT / "examples/cell.png").open("rb") as picture:
        answer = httpx.post(f"{running.url}/classify", files={"image": picture}, timeout=60)
    assert answer.status_code == 200, answer.text
    _, check = healthchecks()["image"]
    for port, status in ((running.url.rpartition(":")[2], 0), ("9", 1)):
        env = {**_clean(), "PATH": f"{installed}/bin", "MARROWLENS_PORT": port}
        assert subprocess.run(check, env=env, capture_output=True, timeout=60, check=False).returncode == status
