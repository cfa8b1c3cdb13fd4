"""The C library's allocator, told to keep what a training step frees for the next one.

Every step frees and asks for the same large tensors. glibc gives each back to the kernel at once, and the kernel clears
its pages again: a fifth to a third of a step on CPUs. Knows glibc alone; elsewhere it does nothing.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
KEPT_BYTES = 2**31 - 1
GROWTH_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Serve large tensors from the heap and do not shrink it (mallopt(3)); false where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: KEPT_BYTES, M_TOP_PAD: GROWTH_BYTES}
    set_ = {option: mallopt(option, value) for option, value in wanted.items()}
    return set(set_.values()) == {1}
