"""What Ray reads from the environment when it is imported, and whether anything listens where a cluster should be.

Knows names and sockets. Does not import Ray: it comes after.
"""

import ipaddress
import os
import socket

from service.parts.faults import CannotScore

_PATIENCE_S = 10.0


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
