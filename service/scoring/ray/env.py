"""What Ray reads from the environment when it is imported, and whether anything listens where a cluster should be.

Knows names and sockets. Does not import Ray: it comes after.
"""

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.scoring.ray.errors import CannotScore

_PATIENCE_S = 10.0
#: A path of a socket has at most 107 bytes (unix(7)), of which Ray's own part takes up to 76.
_LONGEST_FOLDER = 30


def prepare(address: str | None) -> None:
    """Set up for a cluster of this machine alone, or for one that is joined; whatever is set already stays.

    Args:
        address: as asked for; None is RAY_ADDRESS, and without that a cluster of this run's own
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody outside
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # actors without a GPU see none; else it warns
    where = address or os.environ.get("RAY_ADDRESS") or "127.0.0.1"
    if _is_loopback(where.rpartition(":")[0] or where):
        # Ray's name for "clusters of several machines": without, it listens and asks on 127.0.0.1, and with it even
        # that address is replaced by the one that other machines know.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A new folder for what a cluster of this machine writes, with Ray's own below it; gone after the block.

    Ray's default, `ray` in the system's temporary folder, is everybody's: it may be missing, another user's, or hold
    the address of another cluster. RAY_TMPDIR, where it is set, is where the new folder is made.

    Raises:
        CannotScore: no temporary folder has a path that is short enough and may be written
    """
    parents = (
        [os.environ["RAY_TMPDIR"]] if os.environ.get("RAY_TMPDIR") else [tempfile.gettempdir(), "/tmp", "/dev/shm"]
    )
    for parent in dict.fromkeys(parents):
        if len(os.fsencode(parent)) > _LONGEST_FOLDER - len("/ml12345678"):
            continue
        try:
            made = tempfile.TemporaryDirectory(prefix="ml", dir=parent, ignore_cleanup_errors=True)
        except OSError:
            continue
        with made as folder:
            Path(folder, "ray").mkdir()
            yield Path(folder)
        return
    raise CannotScore(
        f"Ray needs a temporary folder with a path of at most {_LONGEST_FOLDER - 11} bytes, which may be written; none "
        f"of {', '.join(parents)} is one: set RAY_TMPDIR"
    )


def check_listens(address: str) -> None:
    """Whether there is anything at host:port; Ray itself would ask for minutes.

    Raises:
        CannotScore: nobody listens there
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except OSError as error:
        raise CannotScore(
            f"no Ray cluster listens at {address} ({error.strerror or error}): start one, or name its head"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in ("localhost", "local")
