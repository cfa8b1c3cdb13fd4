"""Atomic writing of files: a file is replaced completely or not at all.

Symbolic links and devices are refused. Hard links to the old file keep the old content.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

#: Errors of a write, which name no file: the disk or the quota is full, a limit on files, the device.
_WHILE_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends, and is deleted on an exception.

    Raises:
        OSError: no space or permission, or `path` is a symbolic link or not a regular file.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.ELOOP, "is a link or not a regular file; remove it or choose another path", str(path))
    unfinished = path.with_name(f".{path.name}.unfinished")
    with suppress(FileNotFoundError):
        unfinished.unlink()  # left by a killed process
    try:
        with unfinished.open("xb") as file:  # O_EXCL: fails if there is a link
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno in _WHILE_WRITING and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes."""
    with replacing(path) as file:
        file.write(content)


def is_link(path: Path) -> bool:
    """Whether writing in place would change another name too: a symbolic or hard link, or a device."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_nlink > 1
