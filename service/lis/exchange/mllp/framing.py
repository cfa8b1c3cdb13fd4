"""MLLP frames on a stream of bytes: 0x0B, a message, 0x1C 0x0D (HL7 v2 transport, release 1). No HL7, no sockets.

Knows where a frame begins and ends, and how much is kept of one that never ends. Does not know how long to wait.
"""

from asyncio import StreamReader

START, END = b"\x0b", b"\x1c\x0d"
CHUNK_BYTES = 64 * 1024
#: Bytes between two frames that are passed over: line ends, keep-alives. More is no MLLP.
MAX_NOISE_BYTES = 4096


class FrameTooLarge(Exception):
    """More bytes than allowed before the end of a frame; `start` are the first of them."""

    def __init__(self, start: bytes, limit_bytes: int) -> None:
        super().__init__(f"a message of more than {limit_bytes} bytes")
        self.start = start
        self.limit_bytes = limit_bytes


class BrokenFrame(Exception):
    """The other side ended in the middle of a frame, or what it sends is none."""


def framed(message: bytes) -> bytes:
    """A message as a frame."""
    return START + message + END


class Frames:
    """The frames of one connection, one after another. Holds at most a frame's limit and one chunk."""

    def __init__(self, reader: StreamReader, max_bytes: int) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._held = bytearray()

    async def begun(self) -> bool:
        """Wait for the first byte of a frame. False once the other side has ended.

        Raises:
            BrokenFrame: what comes is no MLLP.
        """
        noise = 0
        while (start := self._held.find(START)) < 0:
            noise += len(self._held)
            self._held.clear()
            if noise > MAX_NOISE_BYTES:
                raise BrokenFrame(f"more than {MAX_NOISE_BYTES} bytes outside a frame")
            if not await self._more():
                return False
        del self._held[: start + 1]
        return True

    async def rest(self) -> bytes:
        """What is in the frame that has begun. Half a frame that was begun anew is forgotten: nobody can end it.

        Raises:
            FrameTooLarge: it has no end within the limit. The connection is of no more use but to say so.
            BrokenFrame: the other side ended before the frame did.
        """
        searched = 0
        while (end := self._held.find(END, max(0, searched - 1))) < 0:
            searched = len(self._held)
            if searched > self._max_bytes:
                break
            if not await self._more():
                raise BrokenFrame("the connection ended in the middle of a frame")
        if not 0 <= end <= self._max_bytes:
            raise FrameTooLarge(bytes(self._held[: self._max_bytes]), self._max_bytes)
        frame = bytes(self._held[:end])
        del self._held[: end + len(END)]
        return frame.rpartition(START)[2]

    async def pass_over(self, limit_bytes: int) -> None:
        """Drop what still comes, up to a limit or the end: who is not read never reads the answer."""
        self._held.clear()
        passed = 0
        while passed < limit_bytes and await self._more():
            passed += len(self._held)
            self._held.clear()

    async def _more(self) -> bool:
        chunk = await self._reader.read(CHUNK_BYTES)
        self._held += chunk
        return bool(chunk)
