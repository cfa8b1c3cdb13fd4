"""What a Ray run is asked to do, and the environment variables that Ray reads when it is imported.

Imported by every `marrowlens score`, so it imports neither Ray nor fsspec.
"""

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from service.scoring.tables import ScoringError

#: Default number of pictures per part, that is, per file of results.
PART_SIZE = 2000
_CONNECT_TIMEOUT_S = 10.0
#: A socket's path has at most 107 bytes (unix(7)); Ray's own part takes up to 76 of them.
_MAX_FOLDER_BYTES = 30
_FOLDER_NAME_BYTES = len("/ml12345678")


class Duplicates(StrEnum):
    """What to do if the inputs contain a key more than once."""

    REFUSE = "refuse"
    FIRST = "first"


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Inputs and output of a run. `part_size` None: that of the plan to resume, else PART_SIZE."""

    inputs: tuple[str, ...]
    out: str
    part_size: int | None = None
    duplicates: Duplicates = Duplicates.REFUSE
    key_column: str = "key"
    image_column: str = "image"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The cluster, the number of actors and the CPUs and GPUs of each. None: chosen automatically."""

    address: str | None = None
    actors: int | None = None
    cpus: int | None = None
    gpus: float | None = None


def prepare_environment(address: str | None) -> None:
    """Set Ray's environment variables for a local or a remote cluster; existing values are kept.

    Args:
        address: of the cluster; None: RAY_ADDRESS, or without it a cluster of this run.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # hides GPUs from actors without one
    where = address or os.environ.get("RAY_ADDRESS") or "127.0.0.1"
    if _is_loopback(where.rpartition(":")[0] or where):
        # Ray's flag for clusters of several machines. Set to 0, Ray listens on 127.0.0.1 only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A temporary folder for the files of a local cluster, removed after the block.

    Ray's default, `ray` in the system's temporary folder, is shared: it may be missing, belong to another user, or hold
    the address of another cluster. If RAY_TMPDIR is set, the folder is created there.

    Raises:
        ScoringError: no temporary folder is writable and has a path that is short enough.
    """
    configured = os.environ.get("RAY_TMPDIR")
    parents = [configured] if configured else [tempfile.gettempdir(), "/tmp", "/dev/shm"]
    for parent in dict.fromkeys(parents):
        if len(os.fsencode(parent)) > _MAX_FOLDER_BYTES - _FOLDER_NAME_BYTES:
            continue
        try:
            made = tempfile.TemporaryDirectory(prefix="ml", dir=parent, ignore_cleanup_errors=True)
        except OSError:
            continue
        with made as folder:
            Path(folder, "ray").mkdir()
            yield Path(folder)
        return
    raise ScoringError(
        f"no temporary folder for Ray: it must be writable, with a path of at most "
        f"{_MAX_FOLDER_BYTES - _FOLDER_NAME_BYTES} bytes, unlike {', '.join(parents)}; set RAY_TMPDIR"
    )


def check_reachable(address: str) -> None:
    """Check that host:port accepts connections; Ray itself would retry for minutes.

    Raises:
        ScoringError: it does not.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ScoringError(
            f"no Ray cluster listens at {address} ({error.strerror or error}); start one, or give its head's address"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in ("localhost", "local")
