"""Check `image`: build the service's image without a network and run it as docker/compose.yaml does."""

import asyncio
import os
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from stress.processes.engine import DEBIAN, Engine, missing
from stress.results import Result, Shown, Table

ROOT = Path(__file__).parents[2]
IMAGE, NAME = "localhost/marrowlens:stress", "marrowlens-stress"
MAX_ENVIRONMENT_BYTES = 300_000_000
READY_WITHIN_S = 60.0
_SIZE = (
    "import pathlib; print(sum(f.lstat().st_size for f in pathlib.Path('/opt/marrowlens').rglob('*') if f.is_file() "
    "and not f.is_symlink()))"
)
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp:size=64m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    # No systemd is wanted for timers, and no limit that this machine does not allow; its network is loopback's.
    *("--health-interval", "disable", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
    *("--cgroups", "disabled", "--network", "host"),
)


async def image(shown: Shown) -> Result:
    """Run the check. Needs root, Debian's podman and debootstrap, and a network for wheels and packages."""
    return await asyncio.to_thread(_image, shown)


def _image(shown: Shown) -> Result:
    shown.total(5)
    began_s = time.monotonic()
    rows: list[list[str]] = []
    faults = [f"{name} is not here" for name in missing()] + (["not root"] if os.geteuid() else [])
    if not faults:
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(Path(folder))
            try:
                rows, faults = _built_and_run(engine, shown)
            except RuntimeError as error:
                faults = [str(error)]
            finally:
                engine.close()
    said = (
        f"The Dockerfile, built by podman without a network from the wheels of `docker/wheels.sh`; the base is Debian "
        f"{DEBIAN} with its Python (debootstrap); the image that runs contains no other program, so no shell. "
        f"Run with a read-only root, no capabilities and no new privileges. Required: a Python environment of at most "
        f"{MAX_ENVIRONMENT_BYTES / 1e6:.0f} MB, an answer, a passing health "
        "check, exit status 0 when it is stopped."
    )
    return Result("image", "The image", said, [Table(["what", "found"], rows)], faults, time.monotonic() - began_s)


def _built_and_run(engine: Engine, shown: Shown) -> tuple[list[list[str]], list[str]]:
    build, bare = engine.bases()
    shown.step()
    wheels = engine.folder / "wheels"
    fetched = subprocess.run(
        ["docker/wheels.sh", "cpu", str(wheels)], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    if fetched.returncode:
        raise RuntimeError(f"docker/wheels.sh: {fetched.stderr[-2000:]}")
    shown.step()
    seconds = _build(engine, build, bare, wheels)
    shown.step()
    environment_bytes = int(engine.done("run", "--rm", *LOCKED_DOWN, "--entrypoint", "python", IMAGE, "-c", _SIZE))
    total, base = (int(engine.done("image", "inspect", each, "--format", "{{.Size}}")) for each in (IMAGE, bare))
    rows = [
        ["built in", f"{seconds:.0f} s"],
        ["Python environment", f"{environment_bytes / 1e6:.0f} MB"],
        ["image", f"{total / 1e6:.0f} MB, of which the base {base / 1e6:.0f} MB"],
    ]
    faults = [] if environment_bytes <= MAX_ENVIRONMENT_BYTES else [f"the environment has {environment_bytes} bytes"]
    shown.step()
    found, more = _run(engine)
    shown.step()
    return rows + found, faults + more


def _build(engine: Engine, build: str, bare: str, wheels: Path) -> float:
    began_s = time.monotonic()
    engine.done(
        *("build", "--isolation", "chroot", "--format", "docker", "--tag", IMAGE),
        *("--build-arg", f"PYTHON_IMAGE={build}", "--build-arg", f"RUN_IMAGE={bare}"),
        *("--build-context", f"wheels={wheels}", "--file", str(ROOT / "docker/service.Dockerfile"), str(ROOT)),
        offline=True,
    )
    return time.monotonic() - began_s


def _run(engine: Engine) -> tuple[list[list[str]], list[str]]:
    """Start, request and stop the image; returns findings and faults."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ("--env", "MARROWLENS_HOST=127.0.0.1", "--env", f"MARROWLENS_PORT={port}")
    engine.done("run", "--detach", "--name", NAME, *LOCKED_DOWN, *settings, IMAGE)
    ready_s = _ready(f"http://127.0.0.1:{port}")
    if ready_s is None:
        return [], [f"not ready after {READY_WITHIN_S:.0f} s: {engine.tried('logs', NAME).stderr[-2000:]}"]
    status = _classified(f"http://127.0.0.1:{port}")
    checked = engine.tried("healthcheck", "run", NAME).returncode
    process = int(engine.done("inspect", NAME, "--format", "{{.State.Pid}}"))
    user, capabilities, root = _rights(process)
    shell = engine.tried("exec", NAME, "/bin/sh", "-c", "true").returncode
    engine.done("stop", "--time", "30", NAME)
    ended = int(engine.done("inspect", NAME, "--format", "{{.State.ExitCode}}"))
    wanted = [
        ("POST /classify", str(status), status == 200),
        ("health check of the image", f"status {checked}", checked == 0),
        ("user", user, user == "10001"),
        ("capabilities", capabilities, int(capabilities, 16) == 0),
        ("root file system", root, root == "read-only"),
        ("a shell", "there is one" if shell == 0 else "there is none", shell != 0),
        ("stopped", f"status {ended}", ended == 0),
    ]
    faults = [f"{what}: {found}" for what, found, sound in wanted if not sound]
    return [["ready after", f"{ready_s:.1f} s"], *([what, found] for what, found, _ in wanted)], faults


def _ready(url: str) -> float | None:
    began_s = time.monotonic()
    while (waited_s := time.monotonic() - began_s) < READY_WITHIN_S:
        try:
            if httpx.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return waited_s
        except httpx.TransportError:
            time.sleep(0.05)
    return None


def _classified(url: str) -> int:
    with (ROOT / "examples/cell.png").open("rb") as picture:
        return httpx.post(f"{url}/classify", files={"image": picture}, timeout=30).status_code


def _rights(process: int) -> tuple[str, str, str]:
    """User, capabilities and write access of a process."""
    said = Path(f"/proc/{process}/status").read_text()
    user, capabilities = (re.search(rf"^{name}:\t(\w+)", said, re.MULTILINE) for name in ("Uid", "CapEff"))
    assert user is not None and capabilities is not None, said
    mounts = [line.split() for line in Path(f"/proc/{process}/mounts").read_text().splitlines()]
    (options,) = (mount[3] for mount in mounts if mount[1] == "/")
    return user[1], capabilities[1], "read-only" if "ro" in options.split(",") else "writable"
