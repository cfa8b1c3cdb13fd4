"""The plan of a run: which picture is in which part. Written once beside the results, and checked when a run resumes.

_plan.parquet    one row per picture, one row group per part, in the order of the inputs
_plan.json       inputs, model and counts; written last
"""

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from model.contract import Manifest
from service.config.settings import Settings
from service.scoring.image_files import GONE, Skipped
from service.scoring.ray.inputs import FileKind, InputFile, PictureEntry, list_files, list_pictures
from service.scoring.ray.options import PART_SIZE, Duplicates, ScoreRequest
from service.scoring.ray.store import OutputFolder, StoreError, absolute_address, open_store, store_errors
from service.scoring.tables import ScoringError

PLAN, ENTRIES = "_plan.json", "_plan.parquet"
_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "source": pa.int32(),
        "kind": pa.int8(),
        "path": pa.binary(),  # may not be valid UTF-8
        "offset": pa.int64(),
        "size": pa.int64(),
    }
)
_DIGEST_BYTES = 16  # a collision among 10^9 keys has a probability of 1e-21


class Plan(BaseModel):
    """Inputs, model and number of parts of a run. They cannot change when the run resumes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    inputs: tuple[str, ...]
    files_sha256: str
    key_column: str
    image_column: str
    duplicates: Duplicates
    part_size: int
    model_name: str
    model_version: str
    model_sha256: str
    manifest_sha256: str
    max_image_bytes: int
    max_pixels: int
    review_classes: str = ""
    pictures: int
    repeated: int
    parts: int
    skipped: dict[str, int] = {}

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the plan; every file of results contains it."""
        return hashlib.sha256(self.model_dump_json(exclude={"skipped"}).encode()).hexdigest()

    def size_of(self, part: int) -> int:
        """Number of pictures in a part; the last part may be smaller."""
        return min(self.part_size, self.pictures - part * self.part_size)


def load_or_create_plan(request: ScoreRequest, out: OutputFolder, manifest: Manifest, settings: Settings) -> Plan:
    """The plan in the output folder if it matches the request; a new one, written there, if the folder has none.

    Raises:
        ScoringError: the folder has results of another plan, a key occurs twice, or there is nothing to score.
        StoreError: inputs or output cannot be read or written.
    """
    out.check_no_link()
    requested = _plan_fields(request, manifest, settings)
    existing = out.read(PLAN)
    if existing is not None:
        return _resume(existing, requested, request.part_size, out)
    out.create()
    if names := [name for name in out.names() if name != ENTRIES]:
        raise StoreError(out.address, f"contains other files ({names[0]}); choose another --out")
    plan = _create(requested | {"part_size": request.part_size or PART_SIZE}, out)
    out.write(PLAN, plan.model_dump_json(indent=2).encode())
    return plan


def _plan_fields(request: ScoreRequest, manifest: Manifest, settings: Settings) -> dict[str, Any]:
    return {
        "inputs": tuple(absolute_address(address) for address in request.inputs),
        "key_column": request.key_column,
        "image_column": request.image_column,
        "duplicates": request.duplicates,
        "model_name": manifest.name,
        "model_version": manifest.version,
        "model_sha256": manifest.sha256,
        "manifest_sha256": manifest.digest,
        "max_image_bytes": settings.max_image_bytes,
        "max_pixels": settings.max_pixels,
        "review_classes": settings.review_classes,
    }


def _resume(existing: bytes, requested: dict[str, Any], part_size: int | None, out: OutputFolder) -> Plan:
    try:
        plan = Plan.model_validate_json(existing)
    except ValidationError as error:
        raise StoreError(f"{out.address}/{PLAN}", "is not a plan of this version; choose another --out") from error
    requested |= {"part_size": part_size or plan.part_size}
    for name, now in requested.items():
        if (before := getattr(plan, name)) != now:
            raise ScoringError(
                f"{out.address} was started with {name} {_as_text(before)}, not {_as_text(now)}; choose another --out"
            )
    digest = hashlib.sha256()
    for source, _, file in _files(plan.inputs, Skipped()):
        _add_to_digest(digest, source, file)
    if digest.hexdigest() != plan.files_sha256:
        raise ScoringError(
            f"the input files have changed since {out.address} was started; restore them or choose another --out"
        )
    return plan


def _as_text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _files(inputs: Iterable[str], skipped: Skipped) -> Iterator[tuple[int, Any, InputFile]]:
    """Index and store of each input, with each of its files."""
    for source, address in enumerate(inputs):
        store, _ = open_store(address)
        for file in list_files(address, skipped):
            yield source, store, file


def _add_to_digest(digest: Any, source: int, file: InputFile) -> None:
    for word in (str(source), file.path, file.version):
        digest.update(os.fsencode(word) + b"\0")


def _create(fields: dict[str, Any], out: OutputFolder) -> Plan:
    digest = hashlib.sha256()
    counts = {"pictures": 0, "repeated": 0, "parts": 0}
    skipped = Skipped()
    with (
        KeyIndex() as keys,
        out.atomic_file(ENTRIES) as path,
        pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer,
    ):
        unique = _unique(_entries(fields, digest, skipped), keys, fields["duplicates"], counts)
        while part := list(islice(unique, fields["part_size"])):
            writer.write_table(_as_table(part), row_group_size=len(part))
            counts["pictures"] += len(part)
            counts["parts"] += 1
    if not counts["pictures"]:
        note = f"; {skipped}" if skipped else ""
        raise ScoringError(f"{', '.join(fields['inputs'])}: no pictures{note}")
    return Plan(files_sha256=digest.hexdigest(), skipped=dict(skipped), **fields, **counts)


def _entries(fields: dict[str, Any], digest: Any, skipped: Skipped) -> Iterator[PictureEntry]:
    for source, store, file in _files(fields["inputs"], skipped):
        with store_errors(file.path):
            found = list_pictures(store, source, file, fields["key_column"], fields["image_column"], skipped)
            try:
                first = next(found, None)
            except FileNotFoundError:  # deleted since it was listed; that does not end a run over thousands of shards
                skipped[GONE] += 1
                continue
            _add_to_digest(digest, source, file)
            yield from found if first is None else chain((first,), found)


def _unique(
    entries: Iterable[PictureEntry], keys: "KeyIndex", duplicates: Duplicates, counts: dict[str, int]
) -> Iterator[PictureEntry]:
    for entry in entries:
        earlier = keys.add(entry.key, entry.path)
        if earlier is None:
            yield entry
        elif duplicates is Duplicates.FIRST:
            counts["repeated"] += 1
        else:
            raise ScoringError(
                f"the key {entry.key} is in {earlier} and again in {entry.path}; give each picture its own key, or use "
                "the first of each with --duplicates first"
            )


def _as_table(entries: list[PictureEntry]) -> pa.Table:
    columns = {
        "key": [entry.key for entry in entries],
        "source": [entry.source for entry in entries],
        "kind": [int(entry.kind) for entry in entries],
        "path": [os.fsencode(entry.path) for entry in entries],
        "offset": [entry.offset for entry in entries],
        "size": [entry.size for entry in entries],
    }
    return pa.table(columns, schema=_SCHEMA)


class KeyIndex:
    """The keys seen so far, with the file of each; on disk, for millions of keys. A context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="marrowlens-")
        self._database = sqlite3.connect(Path(self._folder.name, "keys.db"), isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()

    def add(self, key: str, path: str) -> str | None:
        """Add a key; returns None, or the path of an earlier picture with the same key."""
        digest = hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest()
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, path)).rowcount
        if added:
            return None
        (found,) = self._database.execute("SELECT place FROM seen WHERE digest = ?", (digest,)).fetchone()
        return str(found)


class PlanEntries:
    """The pictures of a plan, part by part. Thread-safe."""

    def __init__(self, out: OutputFolder) -> None:
        self._out = out
        self._lock = Lock()

    def part(self, number: int) -> list[PictureEntry]:
        """The pictures of one part, in their order.

        Raises:
            StoreError: the plan cannot be read.
        """
        with self._lock, self._out.open(ENTRIES) as file:
            rows = pq.ParquetFile(file).read_row_group(number).to_pylist()
        return [
            PictureEntry(
                row["key"], row["source"], FileKind(row["kind"]), os.fsdecode(row["path"]), row["offset"], row["size"]
            )
            for row in rows
        ]
