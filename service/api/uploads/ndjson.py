"""An NDJSON body to pictures while it is still arriving: one line, one picture.

However many lines come, only one of them and the pictures not yet answered are in memory, and what they take is leased
as they come. Knows lines, base64 and their bounds. Does not decode pictures; a line that cannot be read, or for which
other requests leave no memory, is an error in its picture's place.
"""

import asyncio
from codecs import BOM_UTF8
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from pydantic import ValidationError
from starlette.requests import Request

from model.image import PictureTooLarge
from service.api.problems import faults_told
from service.api.schemas import SentPicture
from service.api.uploads.archives import Upload, printable
from service.api.uploads.base64_text import decode_base64
from service.api.uploads.json_text import MAX_OBJECT_MEMBERS, read_json
from service.api.uploads.line_encoding import LineEncoding
from service.api.uploads.memory_budget import Lease
from service.api.uploads.transfer_pace import Pace, Patience
from service.concurrency.thread_pools import BODIES
from service.errors import MalformedBody, UploadMemoryExhausted

#: What stands around the picture in its line: braces, keys and a name.
LINE_OVERHEAD_BYTES = 4096
#: Leased by every stream, whatever it holds: what one read of a connection may bring stands in no other account.
FLOOR_BYTES = 256 * 1024
#: A longer line is parsed in a thread, so that others do not wait for it.
PARSED_AT_ONCE_BYTES = 256 * 1024

Unkept = PictureTooLarge | UploadMemoryExhausted


@dataclass(slots=True)
class StreamedPictures:
    """The pictures of one body, in their order.

    Args:
        lease: grows and shrinks with what is held, between `FLOOR_BYTES` and two of the longest lines: one that comes
            in, and as much of pictures not yet answered. A picture waits in its line until there is room for it.
        patience: for each line.

    Raises:
        UploadMemoryExhausted: other requests hold the memory already before the first line.
    """

    request: Request
    lease: Lease
    max_picture_bytes: int
    patience: Patience
    _pace: Pace = field(init=False)
    _encoding: LineEncoding = field(default_factory=LineEncoding)
    _line: bytearray = field(default_factory=bytearray)
    _line_bytes: int = 0  # leased for it
    _held: deque[int] = field(default_factory=deque)  # bytes of the pictures that are not answered yet
    _answered: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._pace = Pace(self.patience)
        self._resize(0)

    @property
    def max_line_bytes(self) -> int:
        """Of a picture of the largest size in base64, and what stands around it."""
        return self.max_picture_bytes * 4 // 3 + LINE_OVERHEAD_BYTES

    def answered(self) -> None:
        """The first of the pictures that were given and not yet answered is."""
        self._held.popleft()
        self._resize(self._line_bytes)
        self._answered.set()

    async def uploads(self) -> AsyncGenerator[Upload, None]:
        """One for each line that is not blank. A byte order mark, as some editors write one, is no part of a line.

        Raises:
            UploadTooSlow, ClientGone: in the middle; the pictures given before are whole.
        """
        async for line in self._lines():
            if not isinstance(line, bytes):
                yield self._given(Upload(None, line))
            elif (line := line.removeprefix(BOM_UTF8)).strip():
                large = len(line) > PARSED_AT_ONCE_BYTES
                upload = await BODIES.run(self._parsed, line) if large else self._parsed(line)
                yield self._given(await self._with_room(upload))

    async def _lines(self) -> AsyncGenerator[bytes | Unkept, None]:
        """Lines without their ends; why one could not be kept, whose rest is passed over."""
        more, unkept = True, None
        while more:
            searched = len(self._line)
            message = await self._pace.message(self.request)
            more = message.get("more_body", False)
            self._line += self._encoding.as_utf8(message.get("body", b""), last=not more)
            while (end := self._line.find(b"\n", searched)) >= 0:
                line = bytes(self._line[:end])
                del self._line[: end + 1]
                yield unkept or line
                self._pace.restart()
                searched, unkept = 0, None
            unkept = unkept or await self._kept()
            if unkept:
                self._pass_over()
        if self._line or unkept:
            yield unkept or bytes(self._line)

    def _pass_over(self) -> None:
        self._line.clear()
        self._line_bytes = 0
        self._resize(0)

    async def _kept(self) -> Unkept | None:
        """Lease what has come of a line that has not ended; why it cannot be kept, where it cannot."""
        if len(self._line) > self.max_line_bytes:
            return PictureTooLarge(f"a line may have {self.max_line_bytes} bytes")
        try:
            await self._lease(len(self._line))
        except UploadMemoryExhausted as error:
            return error
        self._line_bytes = len(self._line)
        return None

    async def _with_room(self, upload: Upload) -> Upload:
        count = _size_bytes(upload)
        while self._held and sum(self._held) + count > self.max_line_bytes:
            await self._next_answer()
        try:
            await self._lease(self._line_bytes + count)
        except UploadMemoryExhausted as error:
            return Upload(upload.name, error)
        return upload

    async def _lease(self, count: int) -> None:
        """Lease so much beside the pictures that are held; while there is not so much, wait for those to be answered.

        Raises:
            UploadMemoryExhausted: and none is held any more.
        """
        while True:
            try:
                return self._resize(count)
            except UploadMemoryExhausted:
                if not self._held:
                    raise
            await self._next_answer()

    def _resize(self, count: int) -> None:
        self.lease.resize(max(min(FLOOR_BYTES, 2 * self.max_line_bytes), sum(self._held) + count))

    async def _next_answer(self) -> None:
        self._answered.clear()
        await self._answered.wait()

    def _given(self, upload: Upload) -> Upload:
        self._held.append(_size_bytes(upload))
        return upload

    def _parsed(self, line: bytes) -> Upload:
        name = None
        try:
            sent = _sent_picture(line)
            name = None if sent.name is None else printable(sent.name)
            data = decode_base64(sent.image)
        except MalformedBody as error:
            return Upload(name, MalformedBody(f"the line is no picture: {error}"))
        if len(data) > self.max_picture_bytes:
            too_large = PictureTooLarge(f"{len(data)} bytes; {self.max_picture_bytes} are allowed")
            return Upload(name, too_large)
        return Upload(name, data)


def _sent_picture(line: bytes) -> SentPicture:
    text = line.strip()
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise MalformedBody("it is not JSON; each line is one whole object, {…}, without a line break inside")
    try:
        return SentPicture.model_validate(read_json(text, max_members=MAX_OBJECT_MEMBERS))
    except ValidationError as error:
        raise MalformedBody(faults_told(error.errors(include_url=False, include_input=False))) from error


def _size_bytes(upload: Upload) -> int:
    return len(upload.content) if isinstance(upload.content, bytes) else 0
