"""Whether a file is still the one that was read."""

from pathlib import Path

FileStamp = tuple[int, int, int, int]


def file_stamp(path: Path) -> FileStamp | None:
    """Changes with the file's content, mode or owner, and when another file takes its name; None for no file.

    A link is followed.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
