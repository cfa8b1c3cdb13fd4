"""The pictures of an NDJSON body, one a line, read while the body is still arriving.

Only one line and the pictures not yet answered are in memory, however many lines come. An unreadable line, or one
without memory left, fails in its own place.
"""

import asyncio
from codecs import BOM_UTF8, IncrementalDecoder, getincrementaldecoder
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from json import detect_encoding

from pydantic import ValidationError
from starlette.requests import Request

from model.image import PictureTooLarge
from service.api.problems import validation_message
from service.api.schemas import SentPicture
from service.api.uploads.archives import Upload, safe_text
from service.api.uploads.body import BodyPieces, TransferTimer
from service.api.uploads.json_text import MAX_OBJECT_MEMBERS, decode_base64, read_json
from service.api.uploads.memory_budget import MemoryReservation, TransferTimeouts
from service.concurrency.thread_pools import BODIES
from service.errors import MalformedBody, UploadMemoryExhausted

#: Braces, keys and a name around the picture in its line.
LINE_OVERHEAD_BYTES = 4096
#: Reserved by every stream: it covers one read of the connection, which is counted nowhere else.
MIN_RESERVED_BYTES = 256 * 1024
#: Longer lines are parsed in a thread, so that other requests do not wait.
INLINE_PARSE_BYTES = 256 * 1024
#: The first bytes that tell UTF-8, UTF-16 and UTF-32 apart.
_SIGNATURE_BYTES = 4

LineError = PictureTooLarge | UploadMemoryExhausted


@dataclass(slots=True)
class NdjsonPictures:
    """The pictures of one body, in order.

    Args:
        memory: grows and shrinks with what is held, from `MIN_RESERVED_BYTES` to two of the longest lines: one line
            that is arriving, and as many bytes of unanswered pictures. A picture waits in its line until it has room.
        timeouts: for each line.

    Raises:
        UploadMemoryExhausted: no memory left before the first line.
    """

    request: Request
    memory: MemoryReservation
    max_picture_bytes: int
    timeouts: TransferTimeouts
    _timer: TransferTimer = field(init=False)
    _line: bytearray = field(default_factory=bytearray)
    _line_bytes: int = 0  # reserved for the line
    _unanswered: deque[int] = field(default_factory=deque)  # sizes of the yielded pictures, in bytes
    _answer_sent: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._timer = TransferTimer(self.timeouts)
        self._reserve(0)

    @property
    def max_line_bytes(self) -> int:
        """The largest picture in base64, and what is around it."""
        return self.max_picture_bytes * 4 // 3 + LINE_OVERHEAD_BYTES

    def mark_answered(self) -> None:
        """Release the memory of the oldest unanswered picture."""
        self._unanswered.popleft()
        self._reserve(self._line_bytes)
        self._answer_sent.set()

    async def uploads(self) -> AsyncGenerator[Upload, None]:
        """One upload for each line that is not blank. A byte order mark at the start of a line is skipped.

        Raises:
            UploadTooSlow, ClientGone: before the end; the pictures yielded before are complete.
        """
        async with aclosing(self._lines()) as lines:
            async for line in lines:
                if not isinstance(line, bytes):
                    yield self._counted(Upload(None, line))
                elif (line := line.removeprefix(BOM_UTF8)).strip():
                    large = len(line) > INLINE_PARSE_BYTES
                    upload = await BODIES.run(self._parse, line) if large else self._parse(line)
                    yield self._counted(await self._when_it_fits(upload))

    async def _lines(self) -> AsyncGenerator[bytes | LineError, None]:
        """Lines without line breaks. For a line that cannot be kept, its error; the rest of that line is skipped."""
        error: LineError | None = None
        async with aclosing(self._text()) as pieces:
            async for piece in pieces:
                searched = len(self._line)
                self._line += piece
                while (end := self._line.find(b"\n", searched)) >= 0:
                    line = bytes(self._line[:end])
                    del self._line[: end + 1]
                    yield error or line
                    self._timer.restart()
                    searched, error = 0, None
                error = error or await self._keep()
                if error:
                    self._skip()
        if self._line or error:
            yield error or bytes(self._line)

    async def _text(self) -> AsyncGenerator[bytes, None]:
        """The body in UTF-8, piece by piece."""
        decoder = Utf8Transcoder()
        pieces = BodyPieces(self.request, self._timer)
        while pieces.more:
            yield decoder.transcode(await pieces.next())
        yield decoder.transcode(b"", last=True)

    def _skip(self) -> None:
        self._line.clear()
        self._line_bytes = 0
        self._reserve(0)

    async def _keep(self) -> LineError | None:
        """Reserve memory for the incomplete line; the error if it cannot be kept."""
        if len(self._line) > self.max_line_bytes:
            return PictureTooLarge(f"the line is longer than {self.max_line_bytes} bytes, which is the limit")
        try:
            await self._reserve_or_wait(len(self._line))
        except UploadMemoryExhausted as error:
            return error
        self._line_bytes = len(self._line)
        return None

    async def _when_it_fits(self, upload: Upload) -> Upload:
        while self._unanswered and sum(self._unanswered) + upload.size_bytes > self.max_line_bytes:
            await self._wait_for_answer()
        try:
            await self._reserve_or_wait(self._line_bytes + upload.size_bytes)
        except UploadMemoryExhausted as error:
            return Upload(upload.name, error)
        return upload

    async def _reserve_or_wait(self, count: int) -> None:
        """Reserve `count` bytes beside the unanswered pictures; wait for their answers while there is no room.

        Raises:
            UploadMemoryExhausted: no room, and every picture is answered.
        """
        while True:
            try:
                return self._reserve(count)
            except UploadMemoryExhausted:
                if not self._unanswered:
                    raise
            await self._wait_for_answer()

    def _reserve(self, count: int) -> None:
        self.memory.resize(max(min(MIN_RESERVED_BYTES, 2 * self.max_line_bytes), sum(self._unanswered) + count))

    async def _wait_for_answer(self) -> None:
        self._answer_sent.clear()
        await self._answer_sent.wait()

    def _counted(self, upload: Upload) -> Upload:
        self._unanswered.append(upload.size_bytes)
        return upload

    def _parse(self, line: bytes) -> Upload:
        name = None
        try:
            sent = _sent_picture(line)
            name = None if sent.name is None else safe_text(sent.name)
            data = decode_base64(sent.image)
        except MalformedBody as error:
            return Upload(name, MalformedBody(f"invalid line: {error}"))
        if len(data) > self.max_picture_bytes:
            return Upload(name, PictureTooLarge(f"{len(data)} bytes; {self.max_picture_bytes} are allowed"))
        return Upload(name, data)


def _sent_picture(line: bytes) -> SentPicture:
    text = line.strip()
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise MalformedBody("it is not JSON; each line is one whole object, {…}, without a line break inside")
    try:
        return SentPicture.model_validate(read_json(text, max_members=MAX_OBJECT_MEMBERS))
    except ValidationError as error:
        raise MalformedBody(validation_message(error.errors(include_url=False, include_input=False))) from error


class Utf8Transcoder:
    """Converts a body to UTF-8, piece by piece. Its first bytes show the encoding; PowerShell, for one, sends UTF-16.

    A line of JSON begins with an ASCII character, so the encoding is known without a byte order mark too.
    """

    def __init__(self) -> None:
        self._start = b""
        self._detected = False
        self._decoder: IncrementalDecoder | None = None

    def transcode(self, piece: bytes, *, last: bool = False) -> bytes:
        """The piece in UTF-8. The bytes of an incomplete character are kept for the next piece."""
        if not self._detected:
            self._start += piece
            if not (last or len(self._start) >= _SIGNATURE_BYTES or _is_ascii(self._start)):
                return b""
            piece, self._start, self._detected = self._start, b"", True
            encoding = detect_encoding(piece)
            if not encoding.startswith("utf-8"):
                self._decoder = getincrementaldecoder(encoding)("replace")
        if self._decoder is None:
            return piece
        return self._decoder.decode(piece, last).encode("utf-8")


def _is_ascii(start: bytes) -> bool:
    return len(start) > 1 and start.isascii() and b"\0" not in start
