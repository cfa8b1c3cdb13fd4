"""Reading of complete regular files up to a size limit, without blocking on FIFOs or devices."""

import os
import stat
from pathlib import Path

#: Limit for files of settings, keys, hashes or signatures.
SMALL_BYTES = 16 * 1024 * 1024
#: Limit for ONNX files: protobuf allows no larger message.
LARGE_BYTES = 2**31 - 1

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotReadable(OSError):
    """Not a regular file, or too large; `strerror` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(None, reason, str(path))


def read_regular_file(path: Path, limit_bytes: int = SMALL_BYTES) -> bytes:
    """The content of a regular file or a link to one.

    Raises:
        OSError: it cannot be read.
        NotReadable: a FIFO, device, socket or folder, or larger than the limit.
    """
    check_regular_file(path)
    # The path may point to another file by now. O_NONBLOCK: opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        _check(path, os.fstat(descriptor))
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise NotReadable(path, f"larger than {limit_bytes} bytes")
    return content


def check_regular_file(path: Path) -> None:
    """Check that the path is a regular file or a link to one.

    Raises:
        OSError: it does not exist, or permission is denied.
        NotReadable: it is something else.
    """
    _check(path, os.stat(path))


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no file")
        raise NotReadable(path, f"{kind}, not a regular file")
