"""The allocator's variables of the images: freed memory leaves a service and stays with a training."""

import os
import subprocess
import sys
from typing import Literal

import pytest
from test_docker import environment

pytestmark = pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's variables")

GROWN = """
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
bytearray(30_000_000)  # freed: from now on glibc by itself keeps blocks of this size
blocks = [bytearray(9_000_000) for _ in range(10)]
high = resident()
last = bytearray(9_000_000)  # at the end of the heap, which cannot shrink below it
del blocks
print(high - before, resident() - before)
"""


@pytest.mark.parametrize(("image", "kept"), [(None, True), ("service", False), ("training", True)])
def test_large_blocks_leave_a_service(image: Literal["service", "training"] | None, kept: bool) -> None:
    own = {} if image is None else {k: v for k, v in environment(image).items() if k.startswith("MALLOC_")}
    assert bool(own) is (image is not None)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ran = subprocess.run([sys.executable, "-c", GROWN], env=clean | own, capture_output=True, text=True, check=True)
    high, after = map(int, ran.stdout.split())
    assert high > 80_000_000
    assert (after > 40_000_000) is kept
