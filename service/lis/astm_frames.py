"""Records of ASTM in frames: CLSI LIS01-A2 (once ASTM E1381). Pure, no I/O.

Knows control characters, frame numbers, checksums and which characters may travel. Does not know what records say
(`astm`) nor when a frame is sent (`astm_wire`).
"""

import unicodedata
from collections.abc import Iterator
from itertools import count
from typing import Final

STX, ETX, EOT, ENQ, ACK, NAK, ETB = b"\x02", b"\x03", b"\x04", b"\x05", b"\x06", b"\x15", b"\x17"
CR, CRLF = b"\r", b"\r\n"
#: Most characters of a record in one frame (LIS01-A2).
TEXT_BYTES: Final = 240
#: What LIS02-A2 lets a record hold: of Latin-1 no control character, and not 127 nor 255.
_ALLOWED: Final = frozenset(chr(code) for code in (*range(32, 127), *range(128, 255)))


def frames(message: str) -> Iterator[bytes]:
    """Every record of a message in a frame of its own, or in as many as it needs; numbered 1, 2, … 7, 0, 1, …"""
    numbers = count(1)
    for record in message.removesuffix("\r").split("\r"):
        text = latin(record).encode("latin-1") + CR
        parts = [text[start : start + TEXT_BYTES] for start in range(0, len(text), TEXT_BYTES)]
        for part in parts[:-1]:
            yield frame(next(numbers), part, ETB)
        yield frame(next(numbers), parts[-1], ETX)


def frame(number: int, text: bytes, end: bytes) -> bytes:
    """One frame: `end` is ETB when the record goes on in the next one, ETX when it ends here."""
    checked = str(number % 8).encode() + text + end
    return STX + checked + checksum(checked) + CRLF


def checksum(checked: bytes) -> bytes:
    """The sum, modulo 256, of everything from the frame's number to its end character, in two digits of hex."""
    return b"%02X" % (sum(checked) % 256)


def latin(text: str) -> str:
    """Text in the characters that a record may hold: ř becomes r, and what has no letter in Latin-1 a question mark."""
    return "".join(char if char in _ALLOWED else _nearest(char) for char in text)


def _nearest(char: str) -> str:
    first = unicodedata.normalize("NFKD", char)[0]
    return first if first in _ALLOWED else "?"
