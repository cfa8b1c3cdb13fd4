"""The cache of rows: computed once, never stale, complete or absent, with killed and concurrent processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.image import UndecodablePicture
from training.data.cache import CHUNK, Recipe, Rows, cached_rows
from training.data.images import decoder_sources, decoder_version
from training.data.samples import DataError, Sample, Span

COUNT = 400  # more than a chunk


class _Counting:
    """A recipe that returns bytes of the file and counts its calls."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, _: Sample, data: bytes) -> NDArray[np.uint8]:
        self.made += 1
        if not data:
            raise UndecodablePicture("the picture is empty (0 bytes)")
        return np.frombuffer(data, np.uint8)


def _files(folder: Path, count: int = COUNT) -> list[Sample]:
    folder.mkdir()
    for n in range(count):
        (folder / f"{n}").write_bytes(n.to_bytes(2, "big"))
    return [Sample("set", "BLA", f"{n}", folder / f"{n}") for n in range(count)]


def _rows(samples: list[Sample], cache: Path | None, text: str = "two bytes") -> tuple[Rows, int]:
    counting = _Counting()
    return cached_rows(samples, Recipe(counting, (2,), np.uint8, text), cache, "reading"), counting.made


def _expected(kept: list[int]) -> list[list[int]]:
    return [[n // 256, n % 256] for n in kept]


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_are_in_order_and_what_gives_none_is_said(tmp_path: Path, in_memory: bool) -> None:
    samples = _files(tmp_path / "set")
    samples[3].path.write_bytes(b"")
    samples[5].path.unlink()
    rows, _ = _rows(samples, None if in_memory else tmp_path / "cache")
    assert rows.indices == [n for n in range(COUNT) if n not in (3, 5)]
    assert rows.array.tolist() == _expected(rows.indices)
    assert rows.errors[3] == "the picture is empty (0 bytes)"
    assert "No such file" in rows.errors[5]


def test_rows_are_made_once_and_mapped_not_loaded(tmp_path: Path) -> None:
    samples = _files(tmp_path / "set")
    samples[3].path.write_bytes(b"")
    first, made = _rows(samples, tmp_path / "cache")
    assert made == COUNT
    again, made = _rows(samples, tmp_path / "cache")
    assert made == 0
    assert (again.indices, again.errors) == (first.indices, first.errors)
    assert isinstance(again.array, np.memmap)
    again.array[:] = 0  # torch may write to the array; the file stays as it is
    assert _rows(samples, tmp_path / "cache")[0].array.tolist() == _expected(first.indices)


def test_where_no_picture_can_be_read_there_are_no_rows(tmp_path: Path) -> None:
    samples = _files(tmp_path / "set", 2)
    for sample in samples:
        sample.path.write_bytes(b"")
    for _ in range(2):
        rows, _made = _rows(samples, tmp_path / "cache")
        assert rows.array.shape == (0, 2)
        assert len(rows.errors) == 2


def test_what_changed_is_made_anew(tmp_path: Path) -> None:
    samples = _files(tmp_path / "set", 5)
    _rows(samples, tmp_path / "cache")
    samples[1].path.write_bytes(b"ab")
    os.utime(samples[1].path, ns=(0, samples[1].path.stat().st_mtime_ns + 1))  # also with coarse file times
    rows, made = _rows(samples, tmp_path / "cache")
    assert made == 5
    assert rows.array[1].tobytes() == b"ab"


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (slice(None, None, -1), "two bytes"),
        (slice(0, 4), "two bytes"),
        (slice(None), "two bytes, read otherwise"),
    ],
)
def test_another_list_or_recipe_has_rows_of_its_own(tmp_path: Path, samples: slice, text: str) -> None:
    files = _files(tmp_path / "set", 5)
    _rows(files, tmp_path / "cache")
    rows, made = _rows(files[samples], tmp_path / "cache", text)
    assert made == len(files[samples])
    assert rows.array.tolist() == _expected([int(sample.name) for sample in files[samples]])


def test_two_pictures_of_one_tar_are_two(tmp_path: Path) -> None:
    (tmp_path / "tar").write_bytes(b"abcd")
    first, second = (Sample("set", "BLA", f"{at}", tmp_path / "tar", span=Span(at, 2)) for at in (0, 2))
    assert _rows([first], tmp_path / "cache")[0].array.tobytes() == b"ab"
    assert _rows([second], tmp_path / "cache")[0].array.tobytes() == b"cd"


@pytest.mark.parametrize("in_memory", [True, False])
def test_shards_are_read_as_they_lie_whatever_the_order_of_the_samples(tmp_path: Path, in_memory: bool) -> None:
    """Three tars whose pictures alternate in the list, as classes do; one picture of the second tar is broken."""
    for tar in range(3):
        (tmp_path / f"{tar}.tar").write_bytes(bytes(2 * COUNT))
    lying = [(tar, 2 * n) for tar in range(3) for n in range(COUNT)]
    asked = sorted(lying, key=lambda place: (place[1] % 7, place[1], place[0]))
    samples = [
        Sample("set", "BLA", f"{tar}/{offset}", tmp_path / f"{tar}.tar", span=Span(offset, 2)) for tar, offset in asked
    ]
    made: list[tuple[int, int]] = []

    def make(sample: Sample, _: bytes) -> NDArray[np.uint8]:
        tar, _, offset = sample.name.partition("/")
        made.append((int(tar), int(offset)))
        if made[-1] == (1, 6):
            raise UndecodablePicture("broken")
        return np.array([int(tar), int(offset) % 251], np.uint8)

    rows = cached_rows(
        samples, Recipe(make, (2,), np.uint8, "place"), None if in_memory else tmp_path / "cache", "reading"
    )
    for start in range(0, len(lying), CHUNK):  # within a chunk, threads may change the order
        assert sorted(made[start : start + CHUNK]) == lying[start : start + CHUNK]
    assert rows.array.tolist() == [[tar, offset % 251] for tar, offset in asked if (tar, offset) != (1, 6)]
    assert rows.errors == {asked.index((1, 6)): "broken"}


def test_pictures_that_change_while_they_are_read_leave_nothing(tmp_path: Path) -> None:
    samples = _files(tmp_path / "set", 5)

    def meddling(sample: Sample, data: bytes) -> NDArray[np.uint8]:
        sample.path.write_bytes(data + b"more")
        return np.frombuffer(data, np.uint8)

    with pytest.raises(DataError, match="changed while they were read"):
        cached_rows(samples, Recipe(meddling, (2,), np.uint8, "two bytes"), tmp_path / "cache", "reading")
    assert not [folder for folder in (tmp_path / "cache").iterdir() if folder.is_dir() and not folder.suffix]


def test_pictures_that_vanish_while_they_are_read_end_nothing(tmp_path: Path) -> None:
    samples = _files(tmp_path / "set", 5)

    def meddling(sample: Sample, data: bytes) -> NDArray[np.uint8]:
        sample.path.unlink(missing_ok=True)
        return np.frombuffer(data, np.uint8)

    recipe = Recipe(meddling, (2,), np.uint8, "two bytes")
    samples[3].path.unlink()
    rows = cached_rows(samples, recipe, tmp_path / "cache", "reading")
    assert rows.indices == [0, 1, 2, 4] and list(rows.errors) == [3]
    again = cached_rows(samples, recipe, tmp_path / "cache", "reading")
    assert again.indices == [] and len(again.errors) == 5, (
        "what was read before it was gone is not taken for what is there"
    )


def test_a_picture_that_vanished_before_it_was_read_costs_no_second_reading(tmp_path: Path) -> None:
    samples, count = _files(tmp_path / "set", CHUNK + 1), _Counting()

    def vanishing(sample: Sample, data: bytes) -> NDArray[np.uint8]:
        samples[-1].path.unlink(missing_ok=True)  # read with the next chunk
        return count(sample, data)

    recipe = Recipe(vanishing, (2,), np.uint8, "two bytes")
    for _ in range(2):
        rows = cached_rows(samples, recipe, tmp_path / "cache", "reading")
        assert list(rows.errors) == [CHUNK] and count.made == CHUNK


def test_rows_that_the_disk_cannot_hold_are_said_before_they_are_made(tmp_path: Path) -> None:
    huge = Recipe(_Counting(), (10**9, 10**6), np.uint8, "huge")
    with pytest.raises(DataError, match=r"the cache needs [0-9.]+ GB, [0-9.]+ GB are free; choose another --cache"):
        cached_rows(_files(tmp_path / "set", 1), huge, tmp_path / "cache", "reading")


#: Another process that makes the same rows; at row 300 it says so and waits for a line. It ends by saying how many.
OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_cache import COUNT, _Counting, _expected
from training.data.cache import Recipe, cached_rows
from training.data.samples import Sample
import numpy as np

class Waiting(_Counting):
    def __call__(self, sample, data):
        if sample.name == "300":
            print("reached", flush=True)
            sys.stdin.readline()
        return super().__call__(sample, data)

folder, waiting = Path(sys.argv[2]), Waiting()
samples = [Sample("set", "BLA", f"{n}", folder / "set" / f"{n}") for n in range(COUNT)]
rows = cached_rows(samples, Recipe(waiting, (2,), np.uint8, "two bytes"), folder / "cache", "reading")
assert rows.array.tolist() == _expected(list(range(COUNT)))
print("made", waiting.made, flush=True)
"""


def _another(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OTHER, str(Path(__file__).parent), str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:  # there is output of the progress bar
        if line.startswith(word):
            return line
    raise AssertionError(f"ended without {word!r}")


def test_a_process_killed_in_the_middle_leaves_nothing_that_is_believed(tmp_path: Path) -> None:
    samples = _files(tmp_path / "set")
    with _another(tmp_path) as process:
        _until(process, "reached")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list((tmp_path / "cache").glob("*.unfinished"))
    rows, made = _rows(samples, tmp_path / "cache")
    assert made == COUNT
    assert rows.array.tolist() == _expected(list(range(COUNT)))
    assert not list((tmp_path / "cache").glob("*.unfinished"))


def test_what_a_killed_process_left_goes_with_the_next_rows_whichever_they_are(tmp_path: Path) -> None:
    samples = _files(tmp_path / "set")
    with _another(tmp_path) as process:
        _until(process, "reached")
        process.kill()
        process.wait()
    _rows(samples[:2], tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.unfinished"))


def test_two_processes_make_the_rows_once(tmp_path: Path) -> None:
    _files(tmp_path / "set")
    with _another(tmp_path) as first:
        _until(first, "reached")
        with _another(tmp_path) as second:
            assert first.stdin is not None
            first.stdin.write("go on\n")
            first.stdin.flush()
            assert _until(first, "made") == f"made {COUNT}\n"
            assert _until(second, "made") == "made 0\n"
    assert (first.returncode, second.returncode) == (0, 0)


def test_what_another_process_is_writing_is_not_swept_away(tmp_path: Path) -> None:
    samples = _files(tmp_path / "set")
    with _another(tmp_path) as process:
        _until(process, "reached")
        _rows(samples[:2], tmp_path / "cache")
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert _until(process, "made") == f"made {COUNT}\n"


def test_the_decoders_version_covers_its_sources_and_libraries() -> None:
    names = {path.name for path in decoder_sources()}
    assert {"image.py", "resize.py", "jpeg.py", "errors.py"} <= names
    assert all(name in decoder_version() for name in ("pillow", "simplejpeg", "cykooz.resizer"))


def test_a_changed_source_is_another_decoder(tmp_path: Path) -> None:
    source = tmp_path / "computing.py"
    source.write_text("1")
    before = decoder_version(source)
    source.write_text("2")
    assert decoder_version(source) != before
