"""Cache of arrays computed from pictures, one row per picture, memory-mapped from disk.

    FOLDER/<key>/rows.npy      rows in the order of the samples
    FOLDER/<key>/refused.json  index of each sample without a row → error
    FOLDER/<key>.unfinished/   being written; unusable

The key is a digest of path, size and modification time of every file, and of the recipe, so stale rows are never read.
A finished folder appears by a rename. Processes that need the same rows take turns by a lock file (filelock, a
dependency of torch), which the operating system releases when its holder dies.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike, NDArray
from rich import get_console
from rich.progress import track

from model.image import PictureError
from training.data.samples import DataError, Sample, read_image_bytes

#: Pictures submitted to the threads at once, which bounds the rows in memory.
CHUNK = 256
#: Kept free on the disk.
SPARE_BYTES = 100_000_000
_MISSING = " -1"


@dataclass(frozen=True)
class Recipe:
    """Computation of a row from a picture's bytes.

    `text` names everything that the row depends on besides the bytes: parameters and the version of the code.
    """

    make: Callable[[Sample, bytes], NDArray[Any]]  # raises PictureError
    shape: tuple[int, ...]
    dtype: DTypeLike
    text: str


@dataclass(frozen=True)
class Rows:
    """Row i of `array` (N', *shape) belongs to sample `indices[i]`; `errors` has the samples without a row."""

    array: NDArray[Any]
    indices: list[int]
    errors: dict[int, str]


def cached_rows(samples: Sequence[Sample], recipe: Recipe, folder: Path | None, title: str) -> Rows:
    """The rows of samples, from the cache or computed and stored there.

    Args:
        folder: the cache; None: compute in memory.
        title: title of the progress bar.

    Raises:
        DataError: the disk is too full, or files changed while they were read.
    """
    if folder is None:
        return _in_memory(samples, recipe, title)
    stamps = _file_stamps(samples)
    key = _key(samples, recipe, stamps)
    finished = folder / key
    if not finished.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{key}.lock"):
            if not finished.is_dir():  # unless another process has written it meanwhile
                _remove_unfinished(folder)
                errors = _write(samples, recipe, folder / f"{key}.unfinished", title)
                finished = folder / _key(samples, recipe, _stamps_as_read(samples, stamps, errors, folder))
                if not finished.is_dir():
                    (folder / f"{key}.unfinished").rename(finished)
    return _open(finished, len(samples), recipe)


def _stamps_as_read(
    samples: Sequence[Sample], before: Sequence[str], errors: Container[int], folder: Path
) -> list[str]:
    """The file stamps that describe the rows just computed; a file deleted before it was read counts as missing.

    Raises:
        DataError: a file was changed.
    """
    now = _file_stamps(samples)
    changed = {at for at, (old, new) in enumerate(zip(before, now, strict=True)) if old != new}
    if any(not now[at].endswith(_MISSING) for at in changed):
        raise DataError(folder, "pictures changed while they were read; run the command again")
    return [now[at] if at in changed and at in errors else stamp for at, stamp in enumerate(before)]


def _in_memory(samples: Sequence[Sample], recipe: Recipe, title: str) -> Rows:
    array = np.empty((len(samples), *recipe.shape), recipe.dtype)
    errors: dict[int, str] = {}
    for at, made in _made(samples, recipe, title):
        if isinstance(made, str):
            errors[at] = made
        else:
            array[at] = made
    indices = _readable(len(samples), errors)
    return Rows(array[indices] if errors else array, indices, errors)


def _readable(count: int, errors: Container[int]) -> list[int]:
    return [at for at in range(count) if at not in errors]


def _made(samples: Sequence[Sample], recipe: Recipe, title: str) -> Iterator[tuple[int, NDArray[Any] | str]]:
    """(index, row or error) of each sample, in the order of their position on disk."""

    def one(at: int) -> tuple[int, NDArray[Any] | str]:
        try:
            return at, recipe.make(samples[at], read_image_bytes(samples[at]))
        except (PictureError, OSError) as error:
            return at, str(error)

    def all_of_them() -> Iterator[tuple[int, NDArray[Any] | str]]:
        order = sorted(range(len(samples)), key=lambda at: _position(samples[at]))
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(samples), CHUNK):
                yield from pool.map(one, order[start : start + CHUNK])

    yield from track(all_of_them(), description=title, total=len(samples))


def _position(sample: Sample) -> tuple[Path, int]:
    return sample.path, sample.span.offset if sample.span else 0


def _key(samples: Sequence[Sample], recipe: Recipe, stamps: Sequence[str]) -> str:
    """Digest of files and recipe; a missing file counts as one of size -1."""
    digest = hashlib.sha256(f"{recipe.text} {recipe.shape} {np.dtype(recipe.dtype)}".encode())
    for sample, stamp in zip(samples, stamps, strict=True):
        digest.update(f"\n{stamp} {sample.span} {sample.source}".encode())
    return digest.hexdigest()[:32]


def _file_stamps(samples: Sequence[Sample]) -> list[str]:
    known: dict[Path, str] = {}  # one stat for all pictures of a tar
    for sample in samples:
        if sample.path not in known:
            known[sample.path] = _stamp(sample.path)
    return [known[sample.path] for sample in samples]


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return f"{path.absolute()}{_MISSING}"
    return f"{path.absolute()} {found.st_size} {found.st_mtime_ns}"


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold a lock file; shows a status while waiting for another process."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        with get_console().status("waiting for another process that reads the same pictures"):
            held.acquire()
    try:
        yield
    finally:
        held.release()


def _remove_unfinished(folder: Path) -> None:
    """Delete folders of interrupted processes, whose locks are free."""
    for unfinished in folder.glob("*.unfinished"):
        lock = FileLock(unfinished.with_suffix(".lock"))  # the lock of the current key is already held
        with suppress(Timeout), lock.acquire(timeout=0):
            shutil.rmtree(unfinished, ignore_errors=True)


def _write(samples: Sequence[Sample], recipe: Recipe, folder: Path, title: str) -> dict[int, str]:
    _check_room(len(samples), recipe, folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    errors: dict[int, str] = {}
    row = _row_bytes(recipe)
    with (folder / "rows.npy").open("w+b") as file:
        start = _write_header(file, len(samples), recipe)
        for at, made in _made(samples, recipe, title):
            if isinstance(made, str):
                errors[at] = made
            else:
                file.seek(start + at * row)  # a memory map would crash on a full disk
                file.write(np.ascontiguousarray(made, recipe.dtype).tobytes())
        if errors:
            _close_gaps(file, start, row, _readable(len(samples), errors))
            file.seek(0)
            again = _write_header(file, len(samples) - len(errors), recipe)
            assert again == start, "numpy pads the header for a growing first axis"
        file.flush()
        os.fsync(file.fileno())  # before the rename, which may reach the disk first
    (folder / "refused.json").write_text(json.dumps(errors), encoding="utf-8")
    return errors


def _row_bytes(recipe: Recipe) -> int:
    return int(np.prod(recipe.shape)) * np.dtype(recipe.dtype).itemsize


def _close_gaps(file: BinaryIO, start: int, row: int, indices: Sequence[int]) -> None:
    """Move rows up over those of unreadable pictures."""
    for to, at in enumerate(indices):
        if to != at:
            file.seek(start + at * row)
            moved = file.read(row)
            file.seek(start + to * row)
            file.write(moved)
    file.truncate(start + len(indices) * row)


def _write_header(file: BinaryIO, count: int, recipe: Recipe) -> int:
    descr = np.lib.format.dtype_to_descr(np.dtype(recipe.dtype))
    header = {"descr": descr, "fortran_order": False, "shape": (count, *recipe.shape)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _check_room(count: int, recipe: Recipe, folder: Path) -> None:
    needed = count * _row_bytes(recipe) + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            folder, f"the cache needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; choose another --cache"
        )


def _open(folder: Path, count: int, recipe: Recipe) -> Rows:
    stored = json.loads((folder / "refused.json").read_text(encoding="utf-8"))
    errors = {int(at): reason for at, reason in stored.items()}
    indices = _readable(count, errors)
    if not indices:
        return Rows(np.empty((0, *recipe.shape), recipe.dtype), indices, errors)
    # Copy on write: torch needs a writable array; the file stays unchanged.
    return Rows(np.load(folder / "rows.npy", mmap_mode="c"), indices, errors)
