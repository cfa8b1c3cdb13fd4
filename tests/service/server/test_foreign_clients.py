"""Java's HTTP client and curl: upgrade offers to HTTP/2 with each request, and unsolicited HTTP/2."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import PEERS
from conftest import Draw
from serving import Served, served

pytestmark = pytest.mark.slow


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: apt-get install {package}")
    return found


@pytest.fixture(scope="module")
def service(artefact: Path) -> Iterator[Served]:
    with served(artefact) as started:
        started.wait_listening()
        yield started


@pytest.fixture
def picture(tmp_path: Path, draw: Draw) -> Path:
    path = tmp_path / "cell.png"
    path.write_bytes(draw(1, size=(300, 300)))
    return path


def test_every_post_of_java_is_answered(service: Served, picture: Path, tmp_path: Path) -> None:
    compiler = program("javac", "default-jdk-headless")
    subprocess.run([compiler, "-d", tmp_path, PEERS / "Post.java"], check=True, timeout=200)
    target = f"{service.url}/classify?maps=none"
    command = [program("java", "default-jdk-headless"), "-cp", tmp_path, "Post", target, picture]
    done = subprocess.run(command, check=True, timeout=200, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 24 + 2
    assert [line for line in lines if not line.endswith(" 200")] == []


def curl(service: Served, *options: str) -> "subprocess.CompletedProcess[str]":
    target = f"{service.url}/classify?maps=none"
    command = [program("curl", "curl"), "--silent", "--show-error", "--max-time", "60", *options, target]
    return subprocess.run(command, check=False, timeout=100, capture_output=True, text=True)


@pytest.mark.parametrize("more", [(), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")])
def test_curl_may_ask_for_http_2(service: Served, picture: Path, more: tuple[str, ...]) -> None:
    for sent in (("-F", f"image=@{picture}"), ("-H", "Content-Type: image/png", "--data-binary", f"@{picture}")):
        done = curl(service, "--http2", *sent, *more)
        assert done.returncode == 0, done.stderr
        assert "prediction" in json.loads(done.stdout)


def test_curl_that_speaks_http_2_unasked_does_not_wait(service: Served, picture: Path) -> None:
    done = curl(service, "--http2-prior-knowledge", "-F", f"image=@{picture}")
    assert done.returncode not in (0, 28), done.stderr  # 28: timeout
