"""Files that stand at their name whole or not at all, and are never written through a link.

A symbolic link at the name, or a device, is refused. Other names of the same file (hard links) keep the old content.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file beside this one that takes its name when all has gone well, and leaves nothing behind when not.

    Raises:
        OSError: no place, no permission, or the name is a symbolic link or no ordinary file.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.ELOOP, "is a link or no ordinary file; results are not written through links", str(path))
    unfinished = path.with_name(f".{path.name}.unfinished")
    with suppress(FileNotFoundError):
        unfinished.unlink()  # of a writer that was killed
    try:
        with unfinished.open("xb") as file:  # O_EXCL: fails where there is a link
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def write_text(path: Path, text: str) -> None:
    """Place a text in UTF-8 at a name."""
    with replacing(path) as file:
        file.write(text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Place bytes at a name."""
    with replacing(path) as file:
        file.write(content)


def is_link(path: Path) -> bool:
    """Whether what is written to a name in place would be seen under another: a symbolic or hard link, or a device."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_nlink > 1
