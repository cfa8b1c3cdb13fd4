"""Container engine in its own folder: podman as root, with base images from debootstrap instead of a registry."""

import shutil
import subprocess
from pathlib import Path

#: Debian 13's Python is 3.13, as the Dockerfiles' base has it.
DEBIAN = "trixie"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
PROGRAMS = ("podman", "debootstrap", "crun", "unshare")
_LEFT_OUT = ("./var/cache/apt/*", "./proc/*", "./sys/*", "./dev/*")
# crun takes cgroups of the second version alone; where both are mounted it is shown the second, in a view of its own.
_ONE_CGROUP = 'umount -l /sys/fs/cgroup/* /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'


def missing() -> list[str]:
    """Required programs that are not installed; all are in Debian."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Engine:
    """podman with images and containers in `folder`, which is removed at the end."""

    def __init__(self, folder: Path) -> None:
        own = ["--root", f"{folder}/store", "--runroot", f"{folder}/run", "--cgroup-manager", "cgroupfs"]
        self.folder = folder
        self._command = [*_view(), "podman", *own]

    def tried(self, *words: str, offline: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run podman and return the result, also on failure. Offline, only loopback exists."""
        alone = ["unshare", "--net"] if offline else []
        return subprocess.run(
            [*alone, *self._command, *words], capture_output=True, text=True, timeout=900, check=False, errors="replace"
        )

    def done(self, *words: str, offline: bool = False) -> str:
        """Run podman and return its output.

        Raises:
            RuntimeError: it failed; holds the end of its output.
        """
        ended = self.tried(*words, offline=offline)
        if ended.returncode:
            raise RuntimeError(f"podman {words[0]} ended with {ended.returncode}: {ended.stderr[-2000:]}")
        return ended.stdout.strip()

    def bases(self) -> tuple[str, str]:
        """Two Debian images with Python: one to build in, one with no other program."""
        root = self.folder / "debian"
        _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", DEBIAN, str(root), _mirror())
        programs = [f"./{each.relative_to(root)}" for each in _programs(root) if not each.name.startswith("python")]
        return self._imported(root, "build", ()), self._imported(root, "bare", programs)

    def _imported(self, root: Path, name: str, without: "list[str] | tuple[str, ...]") -> str:
        archive, listed = self.folder / f"{name}.tar", self.folder / f"{name}.txt"
        listed.write_text("\n".join((*_LEFT_OUT, *without)))
        _run("tar", "--directory", str(root), f"--exclude-from={listed}", "--create", f"--file={archive}", ".")
        image = f"localhost/debian-{name}:1"
        self.done("import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", str(archive), image)
        archive.unlink()
        return image

    def close(self) -> None:
        """Remove every container and image."""
        self.tried("rm", "--all", "--force")
        self.tried("rmi", "--all", "--force")


def _programs(root: Path) -> list[Path]:
    return [each for folder in ("usr/bin", "usr/sbin") for each in (root / folder).iterdir()]


def _view() -> list[str]:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return []
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ONE_CGROUP, "sh"]


def _mirror() -> str:
    """The Debian mirror of this machine."""
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, timeout=60, check=False
    )
    return next(iter(said.stdout.splitlines()), "http://deb.debian.org/debian")


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if ended.returncode:
        raise RuntimeError(f"{command[0]} ended with {ended.returncode}: {(ended.stderr or ended.stdout)[-2000:]}")
