"""Rights of the laboratory's files: made for their owner alone, whatever the umask; told where others have rights."""

import os
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE, S_ISDIR

FILE_MODE, FOLDER_MODE = 0o600, 0o700
_OTHERS = 0o077


def make_file(path: Path) -> None:
    """Make an empty file, unless there is one; behind a link where the link says.

    One that is there is not even opened: to close it would end SQLite's locks of this process (fcntl, POSIX).

    Raises:
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        made = os.open(path.resolve(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE)
        try:
            os.fchmod(made, FILE_MODE)  # the umask may have taken even the owner's rights
        finally:
            os.close(made)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless there is one.

    Raises:
        OSError: it cannot be made, or is none.
    """
    try:
        path.mkdir(FOLDER_MODE, parents=True)
        path.chmod(FOLDER_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise


def rights_of_others(path: Path) -> str | None:
    """What is wrong with the rights of a file or folder, and what to do; None where others have none, or of none."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not mode & _OTHERS:
        return None
    wanted = FOLDER_MODE if S_ISDIR(mode) else FILE_MODE
    return f"{path}: others than its owner have rights (mode {S_IMODE(mode):04o}); run: chmod {wanted:o} {path}"
