"""The pictures of a run's inputs: folders, tar shards and Parquet files, listed in a fixed order.

Only names and headers are read. A shard with a damaged index is an error: its pictures would be missing silently.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from model import tar_reader
from model.tar_reader import DamagedTar
from model.tar_reader import Kind as MemberKind
from service.scoring.image_files import GONE, SUFFIXES, Skipped, escaped_name, find_pictures, is_picture_name
from service.scoring.ray.store import NOT_FOUND, StoreError, is_local, open_store, store_errors

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
_ROWS_PER_BATCH = 4096
#: Read-ahead of remote stores: skipping small pictures is faster than a request for each header.
_BLOCK_BYTES = 4 << 20
#: Values of `PictureEntry.size` for tar members without bytes of their own.
LINK, FRAGMENTED = -2, -3


class FileKind(IntEnum):
    """What an input file holds; stored in the plan."""

    PICTURE = 0
    TAR = 1
    TABLE = 2


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of an input.

    Attributes:
        path: in the input's store.
        key: of a picture file; empty for shards, which contain the keys.
        version: size and ETag or time of a shard, to notice changes; empty for a picture, which its name identifies.
    """

    kind: FileKind
    path: str
    key: str = ""
    size: int = -1
    version: str = ""


@dataclass(frozen=True, slots=True)
class PictureEntry:
    """One picture of a plan: its key and the location of its bytes.

    Attributes:
        source: index of the input.
        path: of the file in the input's store.
        offset: in bytes in a tar, in rows in a Parquet file.
        size: in bytes; -1 if unknown before reading, LINK or FRAGMENTED for tar members without bytes of their own.
    """

    key: str
    source: int
    kind: FileKind
    path: str
    offset: int = 0
    size: int = -1


def list_files(address: str, skipped: Skipped) -> Iterator[InputFile]:
    """The files of one input, sorted by name within each folder: the same order at every call.

    Hidden files and folders are left out, as in a local run.

    Args:
        skipped: counts the files that are left out.

    Raises:
        StoreError: it does not exist, cannot be listed, or holds no supported file.
    """
    store, path = open_store(address)
    with store_errors(address):
        store.invalidate_cache()
        if store.isdir(path):
            yield from _list_pictures(store, path, address, skipped)
        elif store.isfile(path):
            yield _shard(store.info(path), address)
        elif any(mark in path for mark in "*?["):
            yield from _list_matches(store, path, address)
        else:
            raise StoreError(address, NOT_FOUND)


def _list_matches(store: Any, pattern: str, address: str) -> Iterator[InputFile]:
    found = store.glob(pattern, detail=True)
    if not found:
        raise StoreError(address, "no file matches this pattern")
    for path in sorted(found):
        yield _shard(found[path], address)


def _shard(info: dict[str, Any], address: str) -> InputFile:
    path = info["name"]
    kind = {".tar": FileKind.TAR, ".parquet": FileKind.TABLE}.get(path[path.rfind(".") :].lower())
    if path.lower().endswith(_COMPRESSED):
        raise StoreError(address, f"{path} is compressed, so it has no random access; decompress it to .tar")
    if kind is None or info["type"] != "file":
        raise StoreError(address, f"{path} is neither a folder of pictures nor a .tar or .parquet file")
    version = next((str(info[name]) for name in ("ETag", "etag", "md5Hash", "mtime", "created") if info.get(name)), "")
    return InputFile(kind, path, size=int(info["size"] or 0), version=f"{info['size']} {version}")


def _list_pictures(store: Any, path: str, address: str, skipped: Skipped) -> Iterator[InputFile]:
    any_found = False
    for file in _walk_local(path, skipped) if is_local(store) else _walk_store(store, path, skipped):
        any_found = True
        yield file
    if not any_found:
        hint = "; for shards use a pattern: FOLDER/*.tar or FOLDER/*.parquet"
        note = f"; {skipped}" if skipped else ""
        raise StoreError(address, f"holds no pictures ({' '.join(SUFFIXES)}){note}{hint}")


def _walk_local(folder: str, skipped: Skipped) -> Iterator[InputFile]:
    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError) or error.filename == folder:
            raise error  # its pictures would be missing silently
        skipped[GONE] += 1

    for name, path in find_pictures(Path(folder), unreadable, skipped):
        yield InputFile(FileKind.PICTURE, str(path), name)


def _walk_store(store: Any, root: str, skipped: Skipped) -> Iterator[InputFile]:
    root = root.rstrip("/")
    for parent, folders, found in store.walk(root, detail=True, on_error="raise"):
        hidden = [name for name in folders if name.startswith(".")]
        for name in hidden:
            del folders[name]
            skipped["hidden"] += 1
        for name in sorted(found):
            if is_picture_name(name):
                path = f"{parent.rstrip('/')}/{name}"
                size = found[name].get("size")
                key = escaped_name(path[len(root) :].lstrip("/"))
                yield InputFile(FileKind.PICTURE, path, key, -1 if size is None else size)
            else:
                skipped.add(name)


def list_pictures(
    store: Any, source: int, file: InputFile, key_column: str, image_column: str, skipped: Skipped
) -> Iterator[PictureEntry]:
    """The pictures of one file, in its order.

    Args:
        skipped: counts a tar's other members.

    Raises:
        FileNotFoundError: the file is gone; raised before the first picture.
        StoreError: a damaged shard, or a table without these columns.
        Exception: any other error of the store.
    """
    if file.kind is FileKind.PICTURE:
        yield PictureEntry(file.key, source, file.kind, file.path, 0, file.size)
        return
    with store.open(file.path, "rb", block_size=_BLOCK_BYTES) as opened:
        if file.kind is FileKind.TAR:
            yield from _pictures_of_tar(opened, source, file, skipped)
        else:
            yield from _pictures_of_table(opened, source, file, key_column, image_column)


def _pictures_of_tar(opened: BinaryIO, source: int, file: InputFile, skipped: Skipped) -> Iterator[PictureEntry]:
    count = 0
    try:
        for member in tar_reader.members(opened):
            if member.kind is MemberKind.FOLDER:
                continue
            hidden = _hidden_part(member.name)
            if not hidden and is_picture_name(member.name.rpartition("/")[2]):
                size = {MemberKind.FILE: member.size, MemberKind.PIECES: FRAGMENTED}.get(member.kind, LINK)
                key = escaped_name(member.name.removeprefix("./"))
                yield PictureEntry(key, source, FileKind.TAR, file.path, member.offset, size)
                count += 1
            else:
                skipped.add(hidden or member.name.rpartition("/")[2])
    except DamagedTar as error:
        reason = f"is damaged, truncated or not an uncompressed tar: {error}; pictures before that: {count}"
        raise StoreError(file.path, f"{reason}; repair it or leave it out") from error


def _hidden_part(name: str) -> str:
    """The first hidden folder of a path, or its hidden file name; empty if nothing is hidden."""
    return next((part for part in name.removeprefix("./").split("/") if part.startswith(".")), "")


def _pictures_of_table(
    opened: BinaryIO, source: int, file: InputFile, key_column: str, image_column: str
) -> Iterator[PictureEntry]:
    try:
        table = pq.ParquetFile(opened)
    except pa.ArrowInvalid as error:
        raise StoreError(file.path, f"is not a Parquet file ({error})") from error
    _check_columns(table.schema_arrow, file, key_column, image_column)
    row = 0
    for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=[key_column]):
        for key in batch.column(0).to_pylist():
            if key is None:
                raise StoreError(file.path, f"row {row} has no key in column {key_column}")
            yield PictureEntry(escaped_name(str(key)), source, FileKind.TABLE, file.path, row)
            row += 1


def _check_columns(schema: pa.Schema, file: InputFile, key_column: str, image_column: str) -> None:
    for option, name in (("--key-column", key_column), ("--image-column", image_column)):
        if name not in schema.names:
            raise StoreError(file.path, f"has no column {name}; choose with {option}: {', '.join(schema.names)}")
    key, image = schema.field(key_column).type, schema.field(image_column).type
    if not (pa.types.is_string(key) or pa.types.is_large_string(key) or pa.types.is_integer(key)):
        raise StoreError(file.path, f"column {key_column} has type {key}; keys must be text or whole numbers")
    if not (is_bytes(image) or (pa.types.is_struct(image) and "bytes" in image.names)):
        raise StoreError(file.path, f"column {image_column} has type {image}; pictures must be bytes")


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds the bytes of pictures; else they are in its field `bytes`."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
