"""Token buckets that all workers of a service share: a memory-mapped table, exact for each caller.

A caller's bucket is in one set of eight, by the hash of its account. In a full set a new caller replaces the one that
was not seen for longest. A record lock of the file guards a set, so the kernel frees it when its holder is killed.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from struct import Struct

#: 32,768 callers in one megabyte.
SETS, WAYS = 4096, 8
#: Hash of the account, tokens, and time of the last request on the system's monotonic clock, which processes share.
_ENTRY = Struct("16sdd")
_SET_BYTES = WAYS * _ENTRY.size


class TokenBuckets:
    """The table; the first process to open it creates it."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, SETS * _SET_BYTES)
        self._table = mmap.mmap(self._file, SETS * _SET_BYTES)

    def take(self, account: str, rate_per_s: float, burst: int) -> float:
        """Take a token; returns 0.0, or the seconds to wait if there is none. A rate of 0 is no limit."""
        if rate_per_s <= 0:
            return 0.0
        key = blake2b(account.encode(), digest_size=16).digest()
        offset = int.from_bytes(key[:4], "little") % SETS * _SET_BYTES
        with self._locked(offset):
            now_s = self._clock()
            place, tokens, at_s = self._find(offset, key, burst, now_s)
            tokens, wait_s = take_token(tokens, now_s - at_s, rate_per_s, burst)
            _ENTRY.pack_into(self._table, place, key, tokens, now_s)
        return wait_s

    def _find(self, offset: int, key: bytes, burst: int, now_s: float) -> tuple[int, float, float]:
        """Place, tokens and time of a caller's bucket; a full bucket in the oldest place of the set if it has none."""
        places = range(offset, offset + _SET_BYTES, _ENTRY.size)
        entries = [(place, *_ENTRY.unpack_from(self._table, place)) for place in places]
        for place, found, tokens, at_s in entries:
            if found == key:
                return place, tokens, at_s
        oldest = min(entries, key=lambda entry: entry[3])
        return oldest[0], float(burst), now_s

    @contextmanager
    def _locked(self, offset: int) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX, _SET_BYTES, offset)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _SET_BYTES, offset)


def take_token(tokens: float, elapsed_s: float, rate_per_s: float, burst: int) -> tuple[float, float]:
    """The tokens left after a request, and the seconds to wait if there was none to take."""
    tokens = min(burst, tokens + elapsed_s * rate_per_s)
    return (tokens - 1, 0.0) if tokens >= 1 else (tokens, (1 - tokens) / rate_per_s)
