"""What a file holds, picture by picture: its key and where its bytes stand. Reads names and headers, never a picture.

Knows tar and Parquet. A shard whose index is damaged is an error: what it hides would be missing without a word.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from model import tar_reader
from model.tar_reader import DamagedTar
from model.tar_reader import Kind as MemberKind
from service.scoring.image_files import Skipped, counts, printable
from service.scoring.ray.errors import StoreError
from service.scoring.ray.inputs import File, Kind

_ROWS_AT_ONCE = 4096
_BLOCK_BYTES = 4 << 20  # read ahead by stores: small pictures are passed over faster than asked for one by one


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a plan: its key, and where its bytes stand.

    `source` is the number of the input, `path` of the file in that input's store. `offset` is in bytes for a tar, in
    rows for Parquet; `size` in bytes, -1 where only reading tells, LINK where a tar names another file, PIECES where it
    holds one in pieces.
    """

    key: str
    source: int
    kind: Kind
    path: str
    offset: int = 0
    size: int = -1


LINK, PIECES = -2, -3


def entries(
    store: Any, source: int, file: File, key_column: str, image_column: str, skipped: Skipped
) -> Iterator[Entry]:
    """The pictures of a file, in its order.

    Args:
        skipped: counts a tar's other members.

    Raises:
        FileNotFoundError: it is gone; before the first picture.
        StoreError: a damaged shard, or a table without these columns
        Exception: whatever else the store raises
    """
    if file.kind is Kind.PICTURE:
        yield Entry(file.key, source, file.kind, file.path, 0, file.size)
        return
    with store.open(file.path, "rb", block_size=_BLOCK_BYTES) as opened:
        if file.kind is Kind.TAR:
            yield from _of_tar(opened, source, file, skipped)
        else:
            yield from _of_table(opened, source, file, key_column, image_column)


def _of_tar(opened: BinaryIO, source: int, file: File, skipped: Skipped) -> Iterator[Entry]:
    pictures = 0
    try:
        for member in tar_reader.members(opened):
            if member.kind is MemberKind.FOLDER:
                continue
            if _is_shown(member.name):
                size = {MemberKind.FILE: member.size, MemberKind.PIECES: PIECES}.get(member.kind, LINK)
                name = printable(member.name.removeprefix("./"))
                yield Entry(name, source, Kind.TAR, file.path, member.offset, size)
                pictures += 1
            else:
                skipped.add(_hidden_part(member.name) or member.name.rpartition("/")[2])
    except DamagedTar as error:
        reason = f"is damaged, cut off or no plain tar: {error}; pictures read before that: {pictures}"
        raise StoreError(file.path, f"{reason}; mend it or leave it out") from error


def _is_shown(name: str) -> bool:
    return counts(name.rpartition("/")[2]) and not _hidden_part(name)


def _hidden_part(name: str) -> str:
    """The first hidden folder of a path, or its hidden name; empty where nothing is hidden."""
    return next((part for part in name.removeprefix("./").split("/") if part.startswith(".")), "")


def _of_table(opened: BinaryIO, source: int, file: File, key_column: str, image_column: str) -> Iterator[Entry]:
    try:
        table = pq.ParquetFile(opened)
    except pa.ArrowInvalid as error:
        raise StoreError(file.path, f"is no Parquet file ({error})") from error
    _check_columns(table.schema_arrow, file, key_column, image_column)
    row = 0
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[key_column]):
        for key in batch.column(0).to_pylist():
            if key is None:
                raise StoreError(file.path, f"row {row} has no key in column {key_column}")
            yield Entry(printable(str(key)), source, Kind.TABLE, file.path, row)
            row += 1


def _check_columns(schema: pa.Schema, file: File, key_column: str, image_column: str) -> None:
    for option, name in (("--key-column", key_column), ("--image-column", image_column)):
        if name not in schema.names:
            raise StoreError(file.path, f"has no column {name}; say which with {option}: {', '.join(schema.names)}")
    key, image = schema.field(key_column).type, schema.field(image_column).type
    if not (pa.types.is_string(key) or pa.types.is_large_string(key) or pa.types.is_integer(key)):
        raise StoreError(file.path, f"column {key_column} is of {key}; keys are text or whole numbers")
    if not (is_bytes(image) or (pa.types.is_struct(image) and "bytes" in image.names)):
        raise StoreError(file.path, f"column {image_column} is of {image}; pictures are bytes")


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds pictures as they are; else they stand in a field `bytes`."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
