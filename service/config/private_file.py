"""A file that decides who may come in: read once, and only where nobody else could have written it."""

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotPrivate(Exception):
    """The file cannot be used: its path, why, and what to do. Nothing of what it holds."""


def read_private(path: Path, max_bytes: int) -> bytes:
    """The whole file. A FIFO or a device is refused without being waited for.

    Raises:
        NotPrivate: it cannot be read, is no regular file or too large, or others may write it or replace it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise NotPrivate(f"{path} is not a regular file")
            if fault := _fault(path, found) or _fault_of_folders(path):
                raise NotPrivate(f"{path}: {fault}")
            with os.fdopen(os.dup(descriptor), "rb") as file:
                content = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotPrivate(f"{path}: {error.strerror}") from None
    if len(content) > max_bytes:
        raise NotPrivate(f"{path} is larger than {max_bytes} bytes")
    return content


def _fault(path: Path, found: os.stat_result) -> str | None:
    if found.st_mode & _OTHERS_WRITE:
        return f"others may write it (mode {stat.S_IMODE(found.st_mode):04o}); chmod go-w"
    return _fault_of_owner(path, found)


def _fault_of_folders(path: Path) -> str | None:
    """Why others could put another file in its place: in the folder of the name, or of what a link leads to."""
    for folder in {path.absolute().parent, path.resolve().parent}:
        found = folder.stat()
        others = found.st_mode & stat.S_IWOTH
        # A group of the owner's number is the owner's own (user private groups), and has no other member.
        group = found.st_mode & stat.S_IWGRP and found.st_gid != found.st_uid
        if (others or group) and not found.st_mode & stat.S_ISVTX:
            return f"others may write its folder {folder} (mode {stat.S_IMODE(found.st_mode):04o}); chmod go-w"
        if fault := _fault_of_owner(folder, found):
            return f"its folder {folder}: {fault}"
    return None


def _fault_of_owner(path: Path, found: os.stat_result) -> str | None:
    """Root and this process's user may own it; a container's read-only mount keeps its owner outside."""
    if found.st_uid in (0, os.geteuid()) or os.statvfs(path).f_flag & os.ST_RDONLY:
        return None
    return f"owned by user {found.st_uid}, neither root nor the user of this process; chown, or mount it read-only"
