"""Lines of text in whichever of Unicode's encodings they come, to UTF-8, piece by piece.

Knows byte order marks, and that a line of JSON begins with an ASCII character. Does not know the lines.
"""

from codecs import IncrementalDecoder, getincrementaldecoder
from json import detect_encoding

#: So many bytes tell UTF-8, UTF-16 and UTF-32 apart.
_TELLING_BYTES = 4


class LineEncoding:
    """The encoding of one body, told by its first bytes. PowerShell writes UTF-16, other programs UTF-8."""

    def __init__(self) -> None:
        self._start = b""
        self._told = False
        self._decoder: IncrementalDecoder | None = None

    def as_utf8(self, piece: bytes, *, last: bool) -> bytes:
        """The next piece in UTF-8; what belongs to a character that has not ended is kept for the piece after it."""
        if not self._told:
            self._start += piece
            if not (last or len(self._start) >= _TELLING_BYTES or _is_ascii(self._start)):
                return b""
            piece, self._start, self._told = self._start, b"", True
            encoding = detect_encoding(piece)
            if not encoding.startswith("utf-8"):
                self._decoder = getincrementaldecoder(encoding)("replace")
        if self._decoder is None:
            return piece
        return self._decoder.decode(piece, last).encode("utf-8")


def _is_ascii(start: bytes) -> bool:
    return len(start) > 1 and start.isascii() and b"\0" not in start
