"""Leased memory for the members of one archive: a small body unpacks to much more than was leased for it.

Counts bytes. Does not unpack.
"""

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial

from service.api.uploads.archives import Upload
from service.api.uploads.memory_budget import Lease
from service.errors import UploadMemoryExhausted


@dataclass(slots=True)
class ArchiveMemory:
    """Members that are unpacked and not yet answered, and the one that is unpacked next.

    One of the largest size has room from the start, so that every archive that was begun is read to its end; more of
    them at a time where there is memory, up to twice that size.

    Raises:
        UploadMemoryExhausted: there is no room for one.
    """

    lease: Lease
    max_picture_bytes: int
    _held_bytes: int = 0
    _leased_bytes: int = 0
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._resize(self.max_picture_bytes)

    async def room(self) -> None:
        """Return once there is room for the next member."""
        while self._held_bytes and not self._has_room():
            self._settled.clear()
            await self._settled.wait()

    def hold(self, upload: Upload) -> Upload:
        """The member that was unpacked; it is held until it is settled."""
        size_bytes = len(upload.content) if isinstance(upload.content, bytes) else 0
        self._held_bytes += size_bytes
        self._shrink()
        return replace(upload, settled=partial(self._settle, size_bytes))

    def _has_room(self) -> bool:
        if self._held_bytes > self.max_picture_bytes:
            return False
        try:
            self._resize(self._held_bytes + self.max_picture_bytes)
        except UploadMemoryExhausted:
            return False
        return True

    def _settle(self, size_bytes: int) -> None:
        self._held_bytes -= size_bytes
        self._shrink()
        self._settled.set()

    def _shrink(self) -> None:
        self._resize(min(self._leased_bytes, max(self._held_bytes, self.max_picture_bytes)))

    def _resize(self, count: int) -> None:
        self.lease.take(count - self._leased_bytes)
        self._leased_bytes = count
