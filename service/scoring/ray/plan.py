"""A run's plan: which picture stands in which part. Made once from the inputs, kept beside the results, and held to.

Knows keys, parts and what may not change between a run and its continuation. Knows no pictures and no Ray.

    _plan.parquet    a row a picture, a row group a part, in the order of the inputs
    _plan.json       what it was made of and for; there once all of the plan is
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from model.contract import Manifest
from service.config.settings import Settings
from service.scoring.image_files import GONE, Skipped
from service.scoring.ray.errors import CannotScore, StoreError, speaking_of
from service.scoring.ray.inputs import File, Kind, files
from service.scoring.ray.key_index import Seen
from service.scoring.ray.listing import Entry, entries
from service.scoring.ray.request import PART_SIZE, Duplicates, Request
from service.scoring.ray.store import Folder, absolute, opened_store

PLAN, LISTING = "_plan.json", "_plan.parquet"
_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "source": pa.int32(),
        "kind": pa.int8(),
        "path": pa.binary(),  # a name may be no Unicode
        "offset": pa.int64(),
        "size": pa.int64(),
    }
)


class Plan(BaseModel):
    """What a run scores, with what and in how many parts; all of it is the same when the run is gone on with."""

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
    pictures: int
    repeated: int
    parts: int
    skipped: dict[str, int] = {}

    @property
    def digest(self) -> str:
        """What every part of the results carries."""
        return hashlib.sha256(self.model_dump_json(exclude={"skipped"}).encode()).hexdigest()

    def size_of(self, part: int) -> int:
        """Pictures in a part: the last may be smaller."""
        return min(self.part_size, self.pictures - part * self.part_size)


def planned(request: Request, out: Folder, manifest: Manifest, settings: Settings) -> Plan:
    """The plan that stands at the output, if it is this one; where there is none, a new one, which is kept there.

    Raises:
        CannotScore: another plan's results, a key that comes twice, nothing to score
        StoreError: inputs or output that cannot be read or written
    """
    out.check_no_link()
    asked = _asked(request, manifest, settings)
    kept = out.read(PLAN)
    if kept is not None:
        return _continued(kept, asked, request.part_size, out)
    out.make()
    if names := [name for name in out.names() if name != LISTING]:
        raise StoreError(out.address, f"has no plan but other files ({names[0]}); choose another --out")
    plan = _listed(asked | {"part_size": request.part_size or PART_SIZE}, out)
    out.put(PLAN, plan.model_dump_json(indent=2).encode())
    return plan


def _asked(request: Request, manifest: Manifest, settings: Settings) -> dict[str, Any]:
    return {
        "inputs": tuple(absolute(address) for address in request.inputs),
        "key_column": request.key_column,
        "image_column": request.image_column,
        "duplicates": request.duplicates,
        "model_name": manifest.name,
        "model_version": manifest.version,
        "model_sha256": manifest.sha256,
        "manifest_sha256": manifest.digest,
        "max_image_bytes": settings.max_image_bytes,
        "max_pixels": settings.max_pixels,
    }


def _continued(kept: bytes, asked: dict[str, Any], part_size: int | None, out: Folder) -> Plan:
    try:
        plan = Plan.model_validate_json(kept)
    except ValidationError as error:
        raise StoreError(f"{out.address}/{PLAN}", "is not a plan of this version; choose another --out") from error
    asked |= {"part_size": part_size or plan.part_size}
    for name, now in asked.items():
        if (before := getattr(plan, name)) != now:
            raise CannotScore(
                f"{out.address} was begun with {name} {_short(before)}, this is {_short(now)}; choose another --out"
            )
    digest = hashlib.sha256()
    for source, _, file in _files(plan.inputs, Skipped()):
        _note(digest, source, file)
    if digest.hexdigest() != plan.files_sha256:
        raise CannotScore(
            f"the inputs hold other files than when {out.address} was begun; put them back, or choose another --out"
        )
    return plan


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _files(inputs: Iterable[str], skipped: Skipped) -> Iterator[tuple[int, Any, File]]:
    """Number and store of the input, and each of its files."""
    for source, address in enumerate(inputs):
        store, _ = opened_store(address)
        for file in files(address, skipped):
            yield source, store, file


def _note(digest: Any, source: int, file: File) -> None:
    for word in (str(source), file.path, file.version):
        digest.update(os.fsencode(word) + b"\0")


def _listed(asked: dict[str, Any], out: Folder) -> Plan:
    digest = hashlib.sha256()
    counts = {"pictures": 0, "repeated": 0, "parts": 0}
    skipped = Skipped()
    with Seen() as seen, out.placing(LISTING) as place, pq.ParquetWriter(place, _SCHEMA, compression="zstd") as writer:
        unique = _unique(_entries(asked, digest, skipped), seen, asked["duplicates"], counts)
        while some := list(islice(unique, asked["part_size"])):
            writer.write_table(_table(some), row_group_size=len(some))
            counts["pictures"] += len(some)
            counts["parts"] += 1
    if not counts["pictures"]:
        raise CannotScore(f"{', '.join(asked['inputs'])}: no pictures{'; ' * bool(skipped)}{skipped or ''}")
    return Plan(files_sha256=digest.hexdigest(), skipped=dict(skipped), **asked, **counts)


def _entries(asked: dict[str, Any], digest: Any, skipped: Skipped) -> Iterator[Entry]:
    for source, store, file in _files(asked["inputs"], skipped):
        with speaking_of(file.path):
            found = entries(store, source, file, asked["key_column"], asked["image_column"], skipped)
            try:
                first = next(found, None)
            except FileNotFoundError:  # as if it had gone before the listing: of thousands of shards one is no end
                skipped[GONE] += 1
                continue
            _note(digest, source, file)
            yield from found if first is None else chain((first,), found)


def _unique(found: Iterable[Entry], seen: Seen, duplicates: Duplicates, counts: dict[str, int]) -> Iterator[Entry]:
    for entry in found:
        earlier = seen.earlier(entry.key, entry.path)
        if earlier is None:
            yield entry
        elif duplicates is Duplicates.FIRST:
            counts["repeated"] += 1
        else:
            raise CannotScore(
                f"the key {entry.key} stands in {earlier} and again in {entry.path}; give each picture a key of its "
                "own, or take the first of each with --duplicates first"
            )


def _table(some: list[Entry]) -> pa.Table:
    columns = {
        "key": [entry.key for entry in some],
        "source": [entry.source for entry in some],
        "kind": [int(entry.kind) for entry in some],
        "path": [os.fsencode(entry.path) for entry in some],
        "offset": [entry.offset for entry in some],
        "size": [entry.size for entry in some],
    }
    return pa.table(columns, schema=_SCHEMA)


class Listing:
    """The entries of a plan, part by part. Safe to call from several threads."""

    def __init__(self, out: Folder) -> None:
        self._out = out
        self._lock = Lock()

    def part(self, number: int) -> list[Entry]:
        """The pictures of one part, in their order.

        Raises:
            StoreError: the plan cannot be read
        """
        with self._lock, self._out.open(LISTING) as file:
            rows = pq.ParquetFile(file).read_row_group(number).to_pylist()
        return [
            Entry(row["key"], row["source"], Kind(row["kind"]), os.fsdecode(row["path"]), row["offset"], row["size"])
            for row in rows
        ]
