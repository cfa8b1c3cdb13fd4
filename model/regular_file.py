"""Files read whole: regular ones alone, up to a size, and never a wait for somebody who writes the other end."""

import os
import stat
from pathlib import Path

#: A file of settings, keys, hashes or signatures.
SMALL_BYTES = 16 * 1024 * 1024
#: Protobuf's own limit: no ONNX file in one piece is larger.
LARGE_BYTES = 2**31 - 1

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotReadable(OSError):
    """No regular file, or one that is too large; `strerror` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(None, reason, str(path))


def read_regular_file(path: Path, limit_bytes: int = SMALL_BYTES) -> bytes:
    """The content of a regular file, also behind a link.

    Raises:
        OSError: it cannot be read.
        NotReadable: it is a FIFO, a device, a socket or a folder, or has more bytes than the limit.
    """
    check_regular_file(path)
    # The name may lead elsewhere by now. O_NONBLOCK: opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        _check(path, os.fstat(descriptor))
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise NotReadable(path, f"larger than {limit_bytes} bytes")
    return content


def check_regular_file(path: Path) -> None:
    """Return when the path leads to a regular file.

    Raises:
        OSError: it leads nowhere, or is not allowed.
        NotReadable: to something else.
    """
    _check(path, os.stat(path))


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no file")
        raise NotReadable(path, f"{kind}, not a regular file")
