"""What was freed goes back to the system, and what stays is not looked through again and again.

Knows Python's collector, and the C library of Linux (glibc); elsewhere nothing is given back.

By itself glibc keeps up to 64 MB in every thread for blocks like those that it has freed: after a few large bodies a
service would stay at several times its size.
"""

import ctypes
import gc
from collections.abc import Callable
from typing import Any

# Parameters of mallopt(3), from malloc.h. Setting one of them also ends glibc's own adjusting of both.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Blocks of this size and more come from the system and go back to it alone. A decoded picture of a cell is smaller.
LARGE_BYTES = 1024 * 1024
#: What a thread keeps free at the end of its part.
KEPT_BYTES = 1024 * 1024


def bound_what_is_kept() -> None:
    """To be called once, before threads start."""
    for parameter, count in ((_TRIM_THRESHOLD, KEPT_BYTES), (_MMAP_THRESHOLD, LARGE_BYTES)):
        _of_the_c_library("mallopt")(parameter, count)


def set_aside() -> None:
    """What the start has made lives as long as the process: the collector need not look through it any more.

    To be called once, when all is made. Each full collection would stop everybody for 0.1 s, in the middle of requests.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Pages that hold nothing, also between others. Takes milliseconds: call it in a thread, now and then."""
    _of_the_c_library("malloc_trim")(0)


def _of_the_c_library(name: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another C library, or Windows, which has no CDLL(None)
        return lambda *_: None
    return found
