"""Tar shards: the pictures in a tar file with their offsets, labels and patients.

WebDataset keys: `a/b.jpg`, `a/b.cls` and `a/b.json` belong together, because their paths agree up to the first dot of
the file name. Nothing is unpacked.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from model.tar_reader import WITHOUT_BYTES, DamagedTar, Kind, Member, members
from training.data.samples import IMAGE_SUFFIXES, DataError, Span
from training.data.tables import CLASS_COLUMNS, GROUP_COLUMNS, PATIENT_COLUMNS
from training.split_config import Columns

LABELS = frozenset({".cls", ".json"})
MAX_LABEL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ShardPicture:
    """One picture of a shard; `label`, `patient` and `group` are empty where neither .cls nor .json has them."""

    name: str  # path in the tar
    span: Span
    label: str
    patient: str
    group: str = ""


@dataclass
class _Label:
    code: str = ""
    patient: str = ""
    group: str = ""


def read_shard(shard: Path, columns: Columns) -> Iterator[ShardPicture]:
    """Every picture of a shard, in its order.

    Args:
        columns: keys of class, patient and group in key.json.

    Raises:
        DataError: a compressed or damaged tar; a picture or label that is a link or sparse; two pictures with one label
            (a mask beside the cell); or an unreadable label. Names the member.
    """
    pictures: list[tuple[str, Member]] = []
    labels: dict[str, _Label] = {}
    try:
        with shard.open("rb") as file:
            for member in _files(file, shard):
                key, suffix = _key_and_suffix(member.name)
                if suffix in IMAGE_SUFFIXES:
                    pictures.append((key, member))
                else:
                    _read_label(labels.setdefault(key, _Label()), file, member, columns, shard)
    except DamagedTar as error:
        raise DataError(shard, f"not an intact, uncompressed tar: {error} (after {len(pictures)} pictures)") from error
    except OSError as error:
        raise DataError(shard, f"cannot be read ({error.strerror or error})") from error
    first: dict[str, str] = {}
    for key, member in pictures:
        if key in labels and first.setdefault(key, member.name) != member.name:
            raise DataError(shard, f"{first[key]} and {member.name} share a key; expected one picture per key")
        label = labels.get(key, _Label())
        yield ShardPicture(member.name, Span(member.offset, member.size), label.code, label.patient, label.group)


def _files(file: BinaryIO, shard: Path) -> Iterator[Member]:
    """Pictures and labels; skips other files and hidden ones, which macOS adds."""
    for member in members(file):
        wanted = _key_and_suffix(member.name)[1] in IMAGE_SUFFIXES | LABELS
        if member.kind is Kind.FOLDER or not wanted or PurePosixPath(member.name).name.startswith("."):
            continue
        if member.kind is not Kind.FILE:
            raise DataError(shard, f"{member.name}: {WITHOUT_BYTES[member.kind]}")
        yield member


def _key_and_suffix(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return (path.parent / path.name.partition(".")[0]).as_posix(), path.suffix.lower()


def _read_label(label: _Label, file: BinaryIO, member: Member, columns: Columns, shard: Path) -> None:
    name = member.name
    if member.size > MAX_LABEL_BYTES:
        raise DataError(shard, f"{name}: {member.size} bytes; labels may have at most {MAX_LABEL_BYTES}")
    file.seek(member.offset)
    data = file.read(member.size)
    try:
        if name.lower().endswith(".cls"):
            label.code = data.decode("utf-8").strip()
            return
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8
        raise DataError(shard, f"{name}: cannot be read: {error}") from error
    if not isinstance(entries, Mapping):
        raise DataError(shard, f"{name}: expected a JSON object")
    values = {str(key).lower(): str(value) for key, value in entries.items() if value is not None}
    label.code = label.code or _entry(values, columns.code, CLASS_COLUMNS)
    label.patient = _entry(values, columns.patient, PATIENT_COLUMNS)
    label.group = _entry(values, columns.group, GROUP_COLUMNS)


def _entry(values: Mapping[str, str], named: str, usual: Sequence[str]) -> str:
    keys = (named.lower(),) if named else usual
    return next((values[key] for key in keys if key in values), "")
