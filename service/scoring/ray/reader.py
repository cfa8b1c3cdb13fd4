"""The bytes of a part's pictures, block by block: a few files, a stretch of a tar, a few rows of a table at a time.

Knows stores, tar offsets and Parquet rows. Knows no model. What cannot be read is an error in that picture's place.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from model.image import PictureError, PictureTooLarge, UndecodablePicture
from model.tar_reader import WITHOUT_BYTES
from model.tar_reader import Kind as MemberKind
from service.scoring.image_files import read
from service.scoring.ray.inputs import Kind
from service.scoring.ray.listing import LINK, PIECES, Entry, is_bytes
from service.scoring.ray.store import is_local

_FILES_AT_ONCE = 32  # asked of a store together
_ROWS_AT_ONCE = 32
_STRETCH_BYTES = 8 << 20
_NO_BYTES = {LINK: WITHOUT_BYTES[MemberKind.SPECIAL], PIECES: WITHOUT_BYTES[MemberKind.PIECES]}
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError)


class Unreadable(Exception):
    """Bytes that a store did not give. `permanent`: to ask again would not help."""

    def __init__(self, error: Exception) -> None:
        words = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        super().__init__(f"cannot be read ({words})")
        self.permanent = isinstance(error, _PERMANENT) or str(error) == "not a file"


Content = bytes | PictureError | Unreadable
Stores = Callable[[int], Any]


def blocks(
    entries: Sequence[Entry], store_of: Stores, image_column: str, max_image_bytes: int
) -> Iterator[list[Content]]:
    """The pictures' bytes, or why there are none, in their order. Reading blocks: call it in a thread.

    Args:
        store_of: the fsspec file system of an input's number
    """
    for (source, kind), some in groupby(entries, lambda entry: (entry.source, entry.kind)):
        store, of_input = store_of(source), list(some)
        if kind is Kind.PICTURE:
            yield from _of_files(store, of_input, max_image_bytes)
            continue
        for path, in_file in groupby(of_input, lambda entry: entry.path):
            if kind is Kind.TAR:
                yield from _of_tar(store, path, list(in_file), max_image_bytes)
            else:
                yield from _of_table(store, path, list(in_file), image_column)


def _of_files(store: Any, entries: list[Entry], max_image_bytes: int) -> Iterator[list[Content]]:
    for at in range(0, len(entries), _FILES_AT_ONCE):
        some = entries[at : at + _FILES_AT_ONCE]
        if is_local(store):
            yield [_told(read(Path(entry.path), max_image_bytes)) for entry in some]
        else:
            yield _asked_for(store, some, max_image_bytes)


def _asked_for(store: Any, some: list[Entry], max_image_bytes: int) -> list[Content]:
    wanted = [entry.path for entry in some if entry.size <= max_image_bytes]
    try:
        found = store.cat(wanted, on_error="return") if wanted else {}
    except Exception as error:  # of whatever kind the store has
        found = dict.fromkeys(wanted, error)
    return [
        _told(found.get(entry.path, FileNotFoundError("gone")))
        if entry.size <= max_image_bytes
        else _large(entry, max_image_bytes)
        for entry in some
    ]


def _told(found: Any) -> Content:
    if isinstance(found, PictureError):
        return found
    return Unreadable(found) if isinstance(found, Exception) else bytes(found)


def _large(entry: Entry, max_image_bytes: int) -> PictureTooLarge:
    return PictureTooLarge(f"the picture has {entry.size} bytes; {max_image_bytes} are allowed")


def _of_tar(store: Any, path: str, entries: list[Entry], max_image_bytes: int) -> Iterator[list[Content]]:
    for some in _stretches(entries, max_image_bytes):
        read_now = [entry for entry in some if 0 <= entry.size <= max_image_bytes]
        start = read_now[0].offset if read_now else 0
        end = max((entry.offset + entry.size for entry in read_now), default=0)
        try:
            stretch: Any = memoryview(store.cat_file(path, start=start, end=end)) if end > start else memoryview(b"")
        except Exception as error:
            stretch = error
        yield [_member(entry, stretch, start, max_image_bytes) for entry in some]


def _stretches(entries: list[Entry], max_image_bytes: int) -> Iterator[list[Entry]]:
    some: list[Entry] = []
    for entry in entries:
        if some and (entry.offset - some[0].offset) + min(entry.size, max_image_bytes) > _STRETCH_BYTES:
            yield some
            some = []
        some.append(entry)
    if some:
        yield some


def _member(entry: Entry, stretch: Any, start: int, max_image_bytes: int) -> Content:
    if entry.size in _NO_BYTES:
        return UndecodablePicture(_NO_BYTES[entry.size])
    if entry.size > max_image_bytes:
        return _large(entry, max_image_bytes)
    if isinstance(stretch, Exception):
        return Unreadable(stretch)
    content = bytes(stretch[entry.offset - start : entry.offset - start + entry.size])
    return content if len(content) == entry.size else UndecodablePicture("cut off in the archive")


def _of_table(store: Any, path: str, entries: list[Entry], image_column: str) -> Iterator[list[Content]]:
    told = 0
    try:
        with store.open(path, "rb") as file:
            for some in _rows(pq.ParquetFile(file), [entry.offset for entry in entries], image_column):
                told += len(some)
                yield some
    except Exception as error:
        yield [Unreadable(error)] * (len(entries) - told)


def _rows(table: pq.ParquetFile, wanted: list[int], image_column: str) -> Iterator[list[Content]]:
    """The pictures of these rows, which ascend; of other row groups nothing is read."""
    first, at = 0, 0
    for group in range(table.num_row_groups):
        behind = first + table.metadata.row_group(group).num_rows
        if at < len(wanted) and wanted[at] < behind:
            row = first
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[image_column]):
                column = batch.column(0)
                pictures = column if is_bytes(column.type) else column.field("bytes")
                some: list[Content] = []
                while at < len(wanted) and wanted[at] < row + len(batch):
                    some.append(_cell(pictures[wanted[at] - row].as_py()))
                    at += 1
                row += len(batch)
                yield some
                if at == len(wanted):
                    return
        first = behind


def _cell(content: bytes | None) -> Content:
    return UndecodablePicture("its row has no picture") if content is None else content
