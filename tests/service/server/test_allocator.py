"""Memory that was freed leaves the process, and where there is no glibc nothing is asked for."""

import subprocess
import sys

import pytest

from service.server import allocator

GROWN = """
import sys
from pathlib import Path
from service.server import allocator as memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "bounded":
    memory.bound_what_is_kept()
before = resident()
bytearray(30_000_000)  # freed: from now on glibc by itself keeps blocks of this size
blocks = [bytearray(9_000_000) for _ in range(10)]
high = resident()
last = bytearray(9_000_000)  # at the end of the heap, which cannot shrink below it
del blocks
if sys.argv[1] == "given back":
    memory.give_back()
print(high - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
@pytest.mark.parametrize(("way", "kept"), [("by itself", True), ("bounded", False), ("given back", False)])
def test_large_blocks_leave_the_process(way: str, kept: bool) -> None:
    ran = subprocess.run([sys.executable, "-c", GROWN, way], capture_output=True, text=True, check=True)
    high, after = map(int, ran.stdout.split())
    assert high > 80_000_000
    assert (after > 40_000_000) is kept


def test_where_there_is_no_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_there(_: None) -> None:
        raise OSError("no such library")

    monkeypatch.setattr("ctypes.CDLL", nothing_there)
    allocator.bound_what_is_kept()
    allocator.give_back()


ASIDE = """
import gc, weakref
from service import app
from service.server import allocator as memory

class Ring:
    def __init__(self):
        self.itself = self

memory.set_aside()
left, aside = len(gc.get_objects()), gc.get_freeze_count()
ring = weakref.ref(Ring())
gc.collect()
print(left, aside, ring() is None)
"""


def test_what_the_start_made_is_looked_through_no_more_and_what_comes_later_is() -> None:
    ran = subprocess.run([sys.executable, "-c", ASIDE], capture_output=True, text=True, check=True)
    left, aside, collected = ran.stdout.split()
    assert int(left) < 100 and int(aside) > 50_000
    assert collected == "True"
