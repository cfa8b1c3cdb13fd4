"""Which files an input holds: pictures of a folder, tar shards, Parquet. Streams them, folder by folder, in one order.

Knows addresses, suffixes and patterns. Does not know what is inside a shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from service.scoring.image_files import GONE, SUFFIXES, Skipped, counts, pictures, printable
from service.scoring.ray.errors import StoreError, speaking_of
from service.scoring.ray.store import is_local, opened_store

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


class Kind(IntEnum):
    """What a file holds, as a plan notes it."""

    PICTURE = 0
    TAR = 1
    TABLE = 2


@dataclass(frozen=True, slots=True)
class File:
    """One file of an input. `path` is its store's; `key` is empty where the keys stand inside.

    `version` is what changes when a shard is written again: its size and its ETag or time. A picture has none: its
    name stands for it, as in a folder's table.
    """

    kind: Kind
    path: str
    key: str = ""
    size: int = -1
    version: str = ""


def files(address: str, skipped: Skipped) -> Iterator[File]:
    """The files of one input, folder by folder, sorted by name: the same ones in the same order at every call.

    Hidden files and folders are left out, as in a plain folder's table.

    Args:
        skipped: counts what is left out.

    Raises:
        StoreError: it is not there, cannot be listed, or holds nothing that is read
    """
    store, path = opened_store(address)
    with speaking_of(address):
        store.invalidate_cache()
        if store.isdir(path):
            yield from _pictures(store, path, address, skipped)
        elif store.isfile(path):
            yield _shard(store.info(path), address)
        elif any(mark in path for mark in "*?["):
            yield from _matching(store, path, address)
        else:
            raise StoreError(address, "is not there, or not seen from here")


def _matching(store: Any, pattern: str, address: str) -> Iterator[File]:
    found = store.glob(pattern, detail=True)
    if not found:
        raise StoreError(address, "nothing has such a name")
    for path in sorted(found):
        yield _shard(found[path], address)


def _shard(found: dict[str, Any], address: str) -> File:
    path = found["name"]
    kind = {".tar": Kind.TAR, ".parquet": Kind.TABLE}.get(path[path.rfind(".") :].lower())
    if path.lower().endswith(_PACKED):
        raise StoreError(address, f"{path} is packed, so nothing in it can be found again; unpack it to .tar first")
    if kind is None or found["type"] != "file":
        raise StoreError(address, f"{path} is neither a folder of pictures nor a .tar or .parquet file")
    version = next(
        (str(found[name]) for name in ("ETag", "etag", "md5Hash", "mtime", "created") if found.get(name)), ""
    )
    return File(kind, path, size=int(found["size"] or 0), version=f"{found['size']} {version}")


def _pictures(store: Any, path: str, address: str, skipped: Skipped) -> Iterator[File]:
    any_found = False
    for file in _of_this_machine(path, skipped) if is_local(store) else _walked(store, path, skipped):
        any_found = True
        yield file
    if not any_found:
        hint = "; shards are given by a pattern: FOLDER/*.tar or FOLDER/*.parquet"
        found = f"; {skipped}" if skipped else ""
        raise StoreError(address, f"holds no pictures ({' '.join(SUFFIXES)}){found}{hint}")


def _of_this_machine(folder: str, skipped: Skipped) -> Iterator[File]:
    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError) or error.filename == folder:
            raise error  # what is in there would be missing without a word
        skipped[GONE] += 1

    for name, path in pictures(Path(folder), unreadable, skipped):
        yield File(Kind.PICTURE, str(path), name)


def _walked(store: Any, root: str, skipped: Skipped) -> Iterator[File]:
    root = root.rstrip("/")
    for parent, folders, found in store.walk(root, detail=True, on_error="raise"):
        hidden = [name for name in folders if name.startswith(".")]
        for name in hidden:
            del folders[name]
            skipped["hidden"] += 1
        for name in sorted(found):
            if counts(name):
                path = f"{parent.rstrip('/')}/{name}"
                size = found[name].get("size")
                yield File(Kind.PICTURE, path, printable(path[len(root) :].lstrip("/")), -1 if size is None else size)
            else:
                skipped.add(name)
