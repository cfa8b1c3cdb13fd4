"""Files in local folders and in every store that fsspec supports: reading, listing, and atomic writing."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.scoring.tables import ScoringError

#: Stores in which an object appears when its PUT has ended. In others a file is written beside and renamed.
_ATOMIC_PUT = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "memory"}
_UNFINISHED = ".unfinished"
NOT_FOUND = "does not exist, or this machine cannot see it"


class StoreError(ScoringError):
    """A file, folder or store cannot be read or written."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}")
        self.address = address
        self.reason = reason


@contextmanager
def store_errors(address: str) -> Iterator[None]:
    """Turn every error of a store within the block into a StoreError with its address.

    All exceptions are caught: each store has its own (botocore's are no OSErrors).

    Raises:
        StoreError: in place of any exception but a ScoringError.
    """
    try:
        yield
    except ScoringError:
        raise
    except ImportError as error:
        raise StoreError(address, f"{error}; install it on every node") from error
    except FileNotFoundError as error:
        raise StoreError(address, NOT_FOUND) from error
    except PermissionError as error:
        raise StoreError(address, f"no permission ({error.strerror or error})") from error
    except Exception as error:
        raise StoreError(address, f"{type(error).__name__}: {error}") from error


def open_store(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises:
        StoreError: unknown kind of store, or its package is not installed.
    """
    with store_errors(address):
        store, path = fsspec.core.url_to_fs(address)
        return store, path


def absolute_address(address: str) -> str:
    """The address, with a local path made absolute."""
    local = "://" not in address and "::" not in address
    return os.path.abspath(os.path.expanduser(address)) if local else address


def is_local(store: Any) -> bool:
    """Whether a store is the local file system."""
    return isinstance(store, LocalFileSystem)


class OutputFolder:
    """The folder of a run's results. Every file in it is complete. Each process opens its own.

    Raises:
        StoreError: from every method, if the store cannot be read or written.
    """

    def __init__(self, address: str) -> None:
        if "::" in address:
            raise StoreError(address, "results need a folder of a store, not a place inside another file")
        self.address = absolute_address(address)
        self._store, self._path = open_store(self.address)
        self._needs_rename = is_local(self._store) or not _ATOMIC_PUT & set(_protocols(self._store))

    def create(self) -> None:
        """Create the folder, where the store has folders."""
        with store_errors(self.address):
            self._store.makedirs(self._path, exist_ok=True)

    def check_no_link(self) -> None:
        """Raise StoreError if the folder is a local symbolic link."""
        if is_local(self._store) and os.path.islink(self._path.rstrip("/")):
            raise StoreError(self.address, "is a link; results are not written through links, name the folder itself")

    def names(self) -> list[str]:
        """Names of the complete files; empty if the folder does not exist."""
        return [name for name in self._all_names() if not name.startswith(".")]

    def _all_names(self) -> list[str]:
        with store_errors(self.address):
            self._store.invalidate_cache()
            try:
                found = self._store.ls(self._path, detail=True)
            except FileNotFoundError:
                return []
            return [entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file"]

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist."""
        with store_errors(f"{self.address}/{name}"):
            try:
                return bytes(self._store.cat_file(self._path_of(name)))
            except FileNotFoundError:
                return None

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file opened for reading at any position."""
        with store_errors(f"{self.address}/{name}"), self._store.open(self._path_of(name), "rb") as file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically."""
        with self.atomic_file(name) as unfinished:
            unfinished.write_bytes(content)

    @contextmanager
    def atomic_file(self, name: str) -> Iterator[Path]:
        """A local file to write to; it gets its name in the folder when the block ends without an exception."""
        temporary = f".{name}.{uuid.uuid4().hex}{_UNFINISHED}"  # unique: two actors may write the same part
        with store_errors(f"{self.address}/{name}"):
            if is_local(self._store):
                unfinished = Path(self._path, temporary)
                try:
                    yield unfinished
                    _replace(unfinished, Path(self._path, name))
                finally:
                    unfinished.unlink(missing_ok=True)
                return
            with tempfile.TemporaryDirectory(prefix="marrowlens-") as folder:
                unfinished = Path(folder, name)
                yield unfinished
                self._upload(unfinished, name, temporary)

    def remove_unfinished(self) -> None:
        """Remove the temporary files of writers that were killed. No writer may be active."""
        for name in self._all_names():
            if name.endswith(_UNFINISHED):
                with store_errors(f"{self.address}/{name}"):
                    self._store.rm_file(self._path_of(name))

    def _upload(self, unfinished: Path, name: str, temporary: str) -> None:
        if not self._needs_rename:
            self._store.put_file(str(unfinished), self._path_of(name))
            return
        self._store.put_file(str(unfinished), self._path_of(temporary))
        self._store.mv(self._path_of(temporary), self._path_of(name))

    def _path_of(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"


def _replace(unfinished: Path, path: Path) -> None:
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the new name durable
    finally:
        os.close(folder)


def _protocols(store: Any) -> tuple[str, ...]:
    protocol = store.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
