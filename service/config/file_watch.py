"""Detection of changed files."""

from pathlib import Path

#: Modification and status-change times in ns, inode, size in bytes.
FileStamp = tuple[int, int, int, int]


def file_stamp(path: Path) -> FileStamp | None:
    """A value that differs after each change of the file's content, mode, owner or inode; None without a file.

    Symbolic links are followed.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
