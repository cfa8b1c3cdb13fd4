"""Permissions of the laboratory's files: created for their owner only, and checked for others."""

import os
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE, S_ISDIR

FILE_MODE, FOLDER_MODE = 0o600, 0o700
_OTHERS = 0o077


def create_private_file(path: Path) -> None:
    """Create an empty file for its owner only, unless it exists. Follows links.

    An existing file is not opened: closing it would release this process's SQLite locks (fcntl, POSIX).

    Raises:
        OSError: it cannot be created.
    """
    with suppress(FileExistsError):
        made = os.open(path.resolve(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE)
        try:
            os.fchmod(made, FILE_MODE)  # the umask can remove the owner's permissions
        finally:
            os.close(made)


def create_private_folder(path: Path) -> None:
    """Create a folder for its owner only, and its parents, unless it exists.

    Raises:
        OSError: it cannot be created, or is not a folder.
    """
    try:
        path.mkdir(FOLDER_MODE, parents=True)
        path.chmod(FOLDER_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise


def permission_warning(path: Path) -> str | None:
    """A warning, with the command to run, if other users have permissions; else None, also for a missing path."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not mode & _OTHERS:
        return None
    wanted = FOLDER_MODE if S_ISDIR(mode) else FILE_MODE
    return f"{path}: other users have permissions (mode {S_IMODE(mode):04o}); run: chmod {wanted:o} {path}"
