"""What was computed from pictures, one row a picture, kept on disk: decoded once, then mapped into memory.

Knows files, their sizes and times, and how to survive an interruption. Knows nothing of what a row means.

    FOLDER/<key>/rows.npy      the rows, uint8 or whatever they are, in the order of the samples
    FOLDER/<key>/refused.json  which samples gave no row, and why
    FOLDER/<key>.unfinished/   being written; worth nothing

The key is a digest of every file's path, size and time of change, and of the recipe: what has changed has another key,
so that nothing stale is ever read. A finished folder appears by a rename, whole or not at all. Two processes that want
the same rows take turns (filelock, in torch's own dependencies; its locks end with the process that holds them).
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

#: Pictures handed to the threads at once: what is computed and not yet stored stays small.
CHUNK = 256
#: Left free on the disk beside what is written.
SPARE_BYTES = 100_000_000
_GONE = " -1"


@dataclass(frozen=True)
class Recipe:
    """How a picture's bytes become a row.

    `text` says all that the row depends on besides the bytes: sizes, and the version of what computes it.
    """

    make: Callable[[Sample, bytes], NDArray[Any]]  # raises PictureError
    shape: tuple[int, ...]
    dtype: DTypeLike
    text: str


@dataclass(frozen=True)
class Rows:
    """Row i of `array` (N', *shape) belongs to the sample at `kept[i]`; `refused` are the others, with the reason."""

    array: NDArray[Any]
    kept: list[int]
    refused: dict[int, str]


def cached_rows(samples: Sequence[Sample], recipe: Recipe, folder: Path | None, title: str) -> Rows:
    """The rows of samples, from the cache in `folder` where they are there; without a folder, in memory.

    Args:
        title: what the progress bar says.

    Raises:
        DataError: the disk has no room for them, or files changed while they were read.
    """
    if folder is None:
        return _in_memory(samples, recipe, title)
    stamps = _stamps(samples)
    key = _key(samples, recipe, stamps)
    finished = folder / key
    if not finished.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with _turn(folder / f"{key}.lock"):
            if not finished.is_dir():  # another process may have written it meanwhile
                _sweep(folder)
                refused = _write(samples, recipe, folder / f"{key}.unfinished", title)
                finished = folder / _key(samples, recipe, _as_read(samples, stamps, refused, folder))
                if not finished.is_dir():
                    (folder / f"{key}.unfinished").rename(finished)
    return _open(finished, len(samples), recipe)


def _as_read(samples: Sequence[Sample], before: Sequence[str], refused: Container[int], folder: Path) -> list[str]:
    """The stamps of what was read. A file that is gone is so at once where it gave no row, else at the next reading.

    Raises:
        DataError: a file was changed.
    """
    now = _stamps(samples)
    changed = {at for at, (old, new) in enumerate(zip(before, now, strict=True)) if old != new}
    if any(not now[at].endswith(_GONE) for at in changed):
        raise DataError(folder, "pictures changed while they were read; begin again")
    return [now[at] if at in changed and at in refused else stamp for at, stamp in enumerate(before)]


def _in_memory(samples: Sequence[Sample], recipe: Recipe, title: str) -> Rows:
    array = np.empty((len(samples), *recipe.shape), recipe.dtype)
    refused: dict[int, str] = {}
    for at, made in _made(samples, recipe, title):
        if isinstance(made, str):
            refused[at] = made
        else:
            array[at] = made
    kept = _kept(len(samples), refused)
    return Rows(array[kept] if refused else array, kept, refused)


def _kept(count: int, refused: Container[int]) -> list[int]:
    return [at for at in range(count) if at not in refused]


def _made(samples: Sequence[Sample], recipe: Recipe, title: str) -> Iterator[tuple[int, NDArray[Any] | str]]:
    """Which sample, and its row or the reason why it has none; as they lie on the disk, each tar from end to end."""

    def one(at: int) -> tuple[int, NDArray[Any] | str]:
        try:
            return at, recipe.make(samples[at], read_image_bytes(samples[at]))
        except (PictureError, OSError) as error:
            return at, str(error)

    def all_of_them() -> Iterator[tuple[int, NDArray[Any] | str]]:
        order = sorted(range(len(samples)), key=lambda at: _lies(samples[at]))
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(samples), CHUNK):
                yield from pool.map(one, order[start : start + CHUNK])

    yield from track(all_of_them(), description=title, total=len(samples))


def _lies(sample: Sample) -> tuple[Path, int]:
    return sample.path, sample.span.offset if sample.span else 0


def _key(samples: Sequence[Sample], recipe: Recipe, stamps: Sequence[str]) -> str:
    """Digest of the files and the recipe; a file that is not there counts as one of size -1."""
    digest = hashlib.sha256(f"{recipe.text} {recipe.shape} {np.dtype(recipe.dtype)}".encode())
    for sample, stamp in zip(samples, stamps, strict=True):
        digest.update(f"\n{stamp} {sample.span} {sample.source}".encode())
    return digest.hexdigest()[:32]


def _stamps(samples: Sequence[Sample]) -> list[str]:
    known: dict[Path, str] = {}  # of a tar that holds many
    for sample in samples:
        if sample.path not in known:
            known[sample.path] = _stamp(sample.path)
    return [known[sample.path] for sample in samples]


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return f"{path.absolute()}{_GONE}"
    return f"{path.absolute()} {found.st_size} {found.st_mtime_ns}"


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """Hold a lock, saying so while another process has it."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        with get_console().status("another process reads the same pictures; waiting for it"):
            held.acquire()
    try:
        yield
    finally:
        held.release()


def _sweep(folder: Path) -> None:
    """Remove what an interrupted process left unfinished: its lock is free."""
    for unfinished in folder.glob("*.unfinished"):
        lock = FileLock(unfinished.with_suffix(".lock"))  # of the key in hand this process has it already
        with suppress(Timeout), lock.acquire(timeout=0):
            shutil.rmtree(unfinished, ignore_errors=True)


def _write(samples: Sequence[Sample], recipe: Recipe, folder: Path, title: str) -> dict[int, str]:
    _check_room(len(samples), recipe, folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    refused: dict[int, str] = {}
    row = _row_bytes(recipe)
    with (folder / "rows.npy").open("w+b") as file:
        start = _write_header(file, len(samples), recipe)
        for at, made in _made(samples, recipe, title):
            if isinstance(made, str):
                refused[at] = made
            else:
                file.seek(start + at * row)  # and not a map of the file, which a full disk would make a crash
                file.write(np.ascontiguousarray(made, recipe.dtype).tobytes())
        if refused:
            _close_gaps(file, start, row, _kept(len(samples), refused))
            file.seek(0)
            again = _write_header(file, len(samples) - len(refused), recipe)
            assert again == start, "numpy leaves room for the first axis to change"
        file.flush()
        os.fsync(file.fileno())  # a rename may reach the disk before what is renamed
    (folder / "refused.json").write_text(json.dumps(refused), encoding="utf-8")
    return refused


def _row_bytes(recipe: Recipe) -> int:
    return int(np.prod(recipe.shape)) * np.dtype(recipe.dtype).itemsize


def _close_gaps(file: BinaryIO, start: int, row: int, kept: Sequence[int]) -> None:
    """Move up the rows that are there, so that they follow each other."""
    for to, at in enumerate(kept):
        if to != at:
            file.seek(start + at * row)
            moved = file.read(row)
            file.seek(start + to * row)
            file.write(moved)
    file.truncate(start + len(kept) * row)


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
            folder, f"the cache needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; give another --cache"
        )


def _open(folder: Path, count: int, recipe: Recipe) -> Rows:
    told = json.loads((folder / "refused.json").read_text(encoding="utf-8"))
    refused = {int(at): reason for at, reason in told.items()}
    kept = _kept(count, refused)
    if not kept:
        return Rows(np.empty((0, *recipe.shape), recipe.dtype), kept, refused)
    # Copy on write: torch wants an array that may be written to, the file must not be.
    return Rows(np.load(folder / "rows.npy", mmap_mode="c"), kept, refused)
