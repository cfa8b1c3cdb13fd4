"""MLLP frames on a byte stream: 0x0B, message, 0x1C 0x0D (HL7 v2 transport, release 1)."""

from asyncio import StreamReader

START, END = b"\x0b", b"\x1c\x0d"
CHUNK_BYTES = 64 * 1024
#: Bytes ignored between two frames: line ends, keep-alives. More is not MLLP.
MAX_NOISE_BYTES = 4096


class FrameTooLarge(Exception):
    """A frame is longer than allowed; `start` is its beginning."""

    def __init__(self, start: bytes, limit_bytes: int) -> None:
        super().__init__(f"a message of more than {limit_bytes} bytes")
        self.start = start
        self.limit_bytes = limit_bytes


class BrokenFrame(Exception):
    """The peer closed the connection within a frame, or sends no MLLP."""


def _check_noise(noise: bytes | bytearray) -> None:
    """Check bytes outside a frame. Any web page can let a browser post a frame as the body of an HTTP request.

    Raises:
        BrokenFrame: they are too many, or an HTTP request.
    """
    if len(noise) > MAX_NOISE_BYTES:
        raise BrokenFrame(f"more than {MAX_NOISE_BYTES} bytes outside a frame")
    if b"HTTP/" in noise:
        raise BrokenFrame("an HTTP request, not MLLP")


def framed(message: bytes) -> bytes:
    """A message as a frame."""
    return START + message + END


class Frames:
    """Reads the frames of one connection. Buffers at most the frame limit and one chunk."""

    def __init__(self, reader: StreamReader, max_bytes: int) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    async def begun(self) -> bool:
        """Wait for the start of a frame. False when the peer has closed the connection.

        Raises:
            BrokenFrame: the peer sends no MLLP.
        """
        noise = bytearray()
        while (start := self._buffer.find(START)) < 0:
            noise += self._buffer
            self._buffer.clear()
            _check_noise(noise)
            if not await self._more():
                return False
        _check_noise(noise + self._buffer[:start])
        del self._buffer[: start + 1]
        return True

    async def rest(self) -> bytes:
        """The content of the frame that has begun. If a new frame starts within it, only the new one counts.

        Raises:
            FrameTooLarge: it is longer than the limit. Send the error and close the connection.
            BrokenFrame: the peer closed the connection within the frame.
        """
        searched = 0
        while (end := self._buffer.find(END, max(0, searched - 1))) < 0:
            searched = len(self._buffer)
            if searched > self._max_bytes:
                break
            if not await self._more():
                raise BrokenFrame("the connection ended within a frame")
        if not 0 <= end <= self._max_bytes:
            raise FrameTooLarge(bytes(self._buffer[: self._max_bytes]), self._max_bytes)
        frame = bytes(self._buffer[:end])
        del self._buffer[: end + len(END)]
        return frame.rpartition(START)[2]

    async def discard(self, limit_bytes: int) -> None:
        """Discard incoming bytes, up to a limit: a sender that still sends would not read the answer."""
        self._buffer.clear()
        discarded = 0
        while discarded < limit_bytes and await self._more():
            discarded += len(self._buffer)
            self._buffer.clear()

    async def _more(self) -> bool:
        chunk = await self._reader.read(CHUNK_BYTES)
        self._buffer += chunk
        return bool(chunk)
