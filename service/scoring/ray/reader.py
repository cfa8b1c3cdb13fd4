"""The bytes of a part's pictures, block by block: some files, a byte range of a tar, or some rows of a table.

A picture that cannot be read yields an error in its place.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from model.image import PictureError, PictureTooLarge, UndecodablePicture
from model.tar_reader import WITHOUT_BYTES
from model.tar_reader import Kind as MemberKind
from service.scoring.image_files import read_picture
from service.scoring.ray.inputs import FRAGMENTED, LINK, FileKind, PictureEntry, is_bytes
from service.scoring.ray.store import is_local

#: Files per request to a store.
_FILES_PER_BLOCK = 32
_ROWS_PER_BLOCK = 32
#: Bytes per request within a tar.
_RANGE_BYTES = 8 << 20
_NO_BYTES = {LINK: WITHOUT_BYTES[MemberKind.SPECIAL], FRAGMENTED: WITHOUT_BYTES[MemberKind.PIECES]}
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError)


class UnreadablePicture(Exception):
    """A store did not return a picture's bytes. `permanent`: a retry would fail too."""

    def __init__(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        super().__init__(f"cannot be read ({reason})")
        self.permanent = isinstance(error, _PERMANENT) or str(error) == "not a file"


Content = bytes | PictureError | UnreadablePicture


def read_blocks(
    entries: Sequence[PictureEntry], store_of: Callable[[int], Any], image_column: str, max_image_bytes: int
) -> Iterator[list[Content]]:
    """The bytes or the error of each picture, in their order. Blocks on I/O: call it in a thread.

    Args:
        store_of: the fsspec file system of an input, by its index.
    """
    for (source, kind), group in groupby(entries, lambda entry: (entry.source, entry.kind)):
        store, of_input = store_of(source), list(group)
        if kind is FileKind.PICTURE:
            yield from _read_files(store, of_input, max_image_bytes)
            continue
        for path, in_file in groupby(of_input, lambda entry: entry.path):
            if kind is FileKind.TAR:
                yield from _read_tar(store, path, list(in_file), max_image_bytes)
            else:
                yield from _read_table(store, path, list(in_file), image_column)


def _read_files(store: Any, entries: list[PictureEntry], max_image_bytes: int) -> Iterator[list[Content]]:
    for at in range(0, len(entries), _FILES_PER_BLOCK):
        block = entries[at : at + _FILES_PER_BLOCK]
        if is_local(store):
            yield [_as_content(read_picture(Path(entry.path), max_image_bytes)) for entry in block]
        else:
            yield _fetch(store, block, max_image_bytes)


def _fetch(store: Any, block: list[PictureEntry], max_image_bytes: int) -> list[Content]:
    wanted = [entry.path for entry in block if entry.size <= max_image_bytes]
    try:
        found = store.cat(wanted, on_error="return") if wanted else {}
    except Exception as error:  # stores raise exceptions of any kind
        found = dict.fromkeys(wanted, error)
    return [
        _as_content(found.get(entry.path, FileNotFoundError("gone")))
        if entry.size <= max_image_bytes
        else _too_large(entry, max_image_bytes)
        for entry in block
    ]


def _as_content(found: Any) -> Content:
    if isinstance(found, PictureError):
        return found
    return UnreadablePicture(found) if isinstance(found, Exception) else bytes(found)


def _too_large(entry: PictureEntry, max_image_bytes: int) -> PictureTooLarge:
    return PictureTooLarge(f"the picture has {entry.size} bytes; {max_image_bytes} are allowed")


def _read_tar(store: Any, path: str, entries: list[PictureEntry], max_image_bytes: int) -> Iterator[list[Content]]:
    for block in _ranges(entries, max_image_bytes):
        wanted = [entry for entry in block if 0 <= entry.size <= max_image_bytes]
        start = wanted[0].offset if wanted else 0
        end = max((entry.offset + entry.size for entry in wanted), default=0)
        try:
            found: Any = memoryview(store.cat_file(path, start=start, end=end)) if end > start else memoryview(b"")
        except Exception as error:
            found = error
        yield [_member(entry, found, start, max_image_bytes) for entry in block]


def _ranges(entries: list[PictureEntry], max_image_bytes: int) -> Iterator[list[PictureEntry]]:
    """The entries in groups of at most `_RANGE_BYTES`."""
    group: list[PictureEntry] = []
    for entry in entries:
        if group and (entry.offset - group[0].offset) + min(entry.size, max_image_bytes) > _RANGE_BYTES:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _member(entry: PictureEntry, found: Any, start: int, max_image_bytes: int) -> Content:
    if entry.size in _NO_BYTES:
        return UndecodablePicture(_NO_BYTES[entry.size])
    if entry.size > max_image_bytes:
        return _too_large(entry, max_image_bytes)
    if isinstance(found, Exception):
        return UnreadablePicture(found)
    content = bytes(found[entry.offset - start : entry.offset - start + entry.size])
    return content if len(content) == entry.size else UndecodablePicture("truncated in the archive")


def _read_table(store: Any, path: str, entries: list[PictureEntry], image_column: str) -> Iterator[list[Content]]:
    count = 0
    try:
        with store.open(path, "rb") as file:
            for block in _rows(pq.ParquetFile(file), [entry.offset for entry in entries], image_column):
                count += len(block)
                yield block
    except Exception as error:
        yield [UnreadablePicture(error)] * (len(entries) - count)


def _rows(table: pq.ParquetFile, wanted: list[int], image_column: str) -> Iterator[list[Content]]:
    """The pictures of the given rows, ascending; row groups without any are not read."""
    first, at = 0, 0
    for group in range(table.num_row_groups):
        end = first + table.metadata.row_group(group).num_rows
        if at < len(wanted) and wanted[at] < end:
            row = first
            for batch in table.iter_batches(_ROWS_PER_BLOCK, row_groups=[group], columns=[image_column]):
                column = batch.column(0)
                pictures = column if is_bytes(column.type) else column.field("bytes")
                block: list[Content] = []
                while at < len(wanted) and wanted[at] < row + len(batch):
                    content: bytes | None = pictures[wanted[at] - row].as_py()
                    block.append(UndecodablePicture("its row has no picture") if content is None else content)
                    at += 1
                row += len(batch)
                yield block
                if at == len(wanted):
                    return
        first = end
