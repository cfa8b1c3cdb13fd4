"""An NDJSON body to pictures while it is still arriving: one line, one picture.

However many lines come, only one of them and the pictures not yet answered are in memory. Knows lines, base64 and their
bounds. Does not decode pictures; a line that cannot be read is an error in its picture's place.
"""

import asyncio
import binascii
from base64 import b64decode
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from pydantic import ValidationError
from starlette.requests import Request

from model.image import PictureTooLarge
from service.archives import Upload, printable
from service.errors import ClientGone, MalformedBody, UploadTooSlow
from service.schemas import SentPicture
from service.uploads import MIN_UPLOAD_BYTES_PER_S, Lease

#: What stands around the picture in its line: braces, keys and a name.
LINE_OVERHEAD_BYTES = 4096
#: A longer line is parsed in a thread, so that others do not wait for it.
PARSED_AT_ONCE_BYTES = 256 * 1024


@dataclass(slots=True)
class StreamedPictures:
    """The pictures of one body, in their order.

    Args:
        lease: of it two of the longest lines are taken, before the first is read, and no more is held: a picture waits
            in its line until there is room for it.
        timeout_s: for each line, in addition to its bytes at `MIN_UPLOAD_BYTES_PER_S`; only waiting for the client
            counts.

    Raises:
        UploadMemoryExhausted: other requests hold the memory.
    """

    request: Request
    lease: Lease
    max_picture_bytes: int
    timeout_s: float
    _line: bytearray = field(default_factory=bytearray)
    _held: deque[int] = field(default_factory=deque)  # bytes of the pictures that are not answered yet
    _room: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.lease.take(2 * self.max_line_bytes)

    @property
    def max_line_bytes(self) -> int:
        """Of a picture of the largest size in base64, and what stands around it."""
        return self.max_picture_bytes * 4 // 3 + LINE_OVERHEAD_BYTES

    def answered(self) -> None:
        """The first of the pictures that were given and not yet answered is."""
        self._held.popleft()
        self._room.set()

    async def uploads(self) -> AsyncGenerator[Upload, None]:
        """One for each line that is not empty.

        Raises:
            UploadTooSlow, ClientGone: in the middle; the pictures given before are whole.
        """
        async for line in self._lines():
            if line is None:
                yield self._given(Upload(None, PictureTooLarge(f"a line may have {self.max_line_bytes} bytes")))
            elif line.strip():
                large = len(line) > PARSED_AT_ONCE_BYTES
                upload = await asyncio.to_thread(self._parsed, line) if large else self._parsed(line)
                await self._wait_for_room(len(upload.content) if isinstance(upload.content, bytes) else 0)
                yield self._given(upload)

    async def _lines(self) -> AsyncGenerator[bytes | None, None]:
        """Lines without their ends; None for one that is too long, whose rest is passed over."""
        more, waited_s, too_long = True, 0.0, False
        while more:
            searched = len(self._line)
            piece, more, took_s = await self._piece(waited_s)
            self._line += piece
            waited_s += took_s
            while (end := self._line.find(b"\n", searched)) >= 0:
                line = bytes(self._line[:end])
                del self._line[: end + 1]
                yield None if too_long else line
                searched, waited_s, too_long = 0, 0.0, False
            if len(self._line) > self.max_line_bytes:
                self._line.clear()
                too_long = True
        if self._line or too_long:
            yield None if too_long else bytes(self._line)

    async def _piece(self, waited_s: float) -> tuple[bytes, bool, float]:
        clock = asyncio.get_running_loop().time
        patience_s = self.timeout_s + len(self._line) / MIN_UPLOAD_BYTES_PER_S - waited_s
        began = clock()
        try:
            async with asyncio.timeout(patience_s):
                message = await self.request.receive()
        except TimeoutError as error:
            raise UploadTooSlow(self.timeout_s) from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message.get("body", b""), message.get("more_body", False), clock() - began

    async def _wait_for_room(self, count: int) -> None:
        while self._held and sum(self._held) + count > self.max_line_bytes:
            self._room.clear()
            await self._room.wait()

    def _given(self, upload: Upload) -> Upload:
        self._held.append(len(upload.content) if isinstance(upload.content, bytes) else 0)
        return upload

    def _parsed(self, line: bytes) -> Upload:
        try:
            sent = SentPicture.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in fault["loc"])
            return Upload(None, MalformedBody(f"the line is no picture: {place + ': ' if place else ''}{fault['msg']}"))
        name = None if sent.name is None else printable(sent.name)
        try:
            data = b64decode(sent.image, validate=True)
        except binascii.Error:
            return Upload(name, MalformedBody("the line's image is not base64 (RFC 4648, section 4)"))
        if len(data) > self.max_picture_bytes:
            too_large = PictureTooLarge(f"{len(data)} bytes; {self.max_picture_bytes} are allowed")
            return Upload(name, too_large)
        return Upload(name, data)
