"""Folders on this machine and on every store that fsspec knows, alike: read a file, list, and put one there whole.

Knows addresses and how a file comes to stand whole or not at all. Knows no pictures, plans or Parquet.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.scoring.ray.errors import StoreError, speaking_of

#: Where an object is seen whole once its PUT has ended, and not before. Elsewhere it is written beside and renamed.
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "memory"}
_UNFINISHED = ".unfinished"


def opened_store(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path within it.

    Raises:
        StoreError: no such kind of store, or its package is not installed
    """
    with speaking_of(address):
        store, path = fsspec.core.url_to_fs(address)
        return store, path


def absolute(address: str) -> str:
    """The address as it can be used from another working directory: a path of this machine becomes a whole one."""
    local = "://" not in address and "::" not in address
    return os.path.abspath(os.path.expanduser(address)) if local else address


def is_local(store: Any) -> bool:
    """Whether it is this machine's file system, whose files need no fsspec."""
    return isinstance(store, LocalFileSystem)


class Folder:
    """The folder that a run writes into; every file in it is whole. Each process opens its own.

    Raises:
        StoreError: no such store, or nothing that can be written to
    """

    def __init__(self, address: str) -> None:
        if "::" in address:
            raise StoreError(address, "results need a folder of a store, not a place within another file")
        self.address = absolute(address)
        self._store, self._path = opened_store(self.address)
        self._renames = is_local(self._store) or not _WHOLE_PUTS & set(_protocols(self._store))

    def make(self) -> None:
        """Make the folder where stores have folders.

        Raises:
            StoreError: no permission, or a file is in its place
        """
        with speaking_of(self.address):
            self._store.makedirs(self._path, exist_ok=True)

    def check_no_link(self) -> None:
        """
        Raises:
            StoreError: the folder is a symbolic link on this machine.
        """
        if is_local(self._store) and os.path.islink(self._path.rstrip("/")):
            raise StoreError(self.address, "is a link; results are not written through links, name the folder itself")

    def names(self) -> list[str]:
        """Names of the files in it, without those being written; none where it is not there yet.

        Raises:
            StoreError: it cannot be listed
        """
        return [name for name in self._all_names() if not name.startswith(".")]

    def _all_names(self) -> list[str]:
        with speaking_of(self.address):
            self._store.invalidate_cache()
            try:
                found = self._store.ls(self._path, detail=True)
            except FileNotFoundError:
                return []
            return [entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file"]

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is none.

        Raises:
            StoreError: it cannot be read
        """
        with speaking_of(f"{self.address}/{name}"):
            try:
                return bytes(self._store.cat_file(self._of(name)))
            except FileNotFoundError:
                return None

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file to read from, here and there.

        Raises:
            StoreError: it cannot be read
        """
        with speaking_of(f"{self.address}/{name}"), self._store.open(self._of(name), "rb") as file:
            yield file

    def put(self, name: str, content: bytes) -> None:
        """Place a file. Whoever looks finds the old one, none, or this one whole.

        Raises:
            StoreError: it cannot be written
        """
        with self.placing(name) as unfinished:
            unfinished.write_bytes(content)

    @contextmanager
    def placing(self, name: str) -> Iterator[Path]:
        """A file on this machine to write to; it is placed under its name when the block has ended well.

        Raises:
            StoreError: it cannot be written
        """
        beside = f".{name}.{uuid.uuid4().hex}{_UNFINISHED}"  # two that write the same part must not share it
        with speaking_of(f"{self.address}/{name}"):
            if is_local(self._store):
                unfinished = Path(self._path, beside)
                try:
                    yield unfinished
                    _keep(unfinished, Path(self._path, name))
                finally:
                    unfinished.unlink(missing_ok=True)
                return
            with tempfile.TemporaryDirectory(prefix="marrowlens-") as here:
                unfinished = Path(here, name)
                yield unfinished
                self._upload(unfinished, name, beside)

    def sweep(self) -> None:
        """Remove what writers that were killed have left beside the files. None may be writing.

        Raises:
            StoreError: it cannot be removed
        """
        for name in self._all_names():
            if name.endswith(_UNFINISHED):
                with speaking_of(f"{self.address}/{name}"):
                    self._store.rm_file(self._of(name))

    def _upload(self, unfinished: Path, name: str, beside: str) -> None:
        if not self._renames:
            self._store.put_file(str(unfinished), self._of(name))
            return
        self._store.put_file(str(unfinished), self._of(beside))
        self._store.mv(self._of(beside), self._of(name))

    def _of(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"


def _keep(unfinished: Path, place: Path) -> None:
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the name, too, outlives a power cut
    finally:
        os.close(folder)


def _protocols(store: Any) -> tuple[str, ...]:
    protocol = store.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
