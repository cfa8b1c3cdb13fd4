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
#: What a record may hold: LIS02-A2 takes Latin-1 without 127 and 255; of it no control character, in either half.
_ALLOWED: Final = frozenset(chr(code) for code in (*range(32, 127), *range(160, 255)))
#: Compatibility forms of a whole alphabet for East Asian text: the same characters in another width (UAX #44, 5.7.3).
_WIDTHS: Final = ("<wide> ", "<narrow> ", "<small> ")


def frames(message: str) -> Iterator[bytes]:
    """Every record of a message in a frame of its own, or in as many as it needs; numbered 1, 2, … 7, 0, 1, …"""
    numbers = count(1)
    for record in message.removesuffix("\r").split("\r"):
        # `latin` was there before the delimiters were written: here a letter that became one would break the record.
        text = "".join(char if char in _ALLOWED else "?" for char in record).encode("latin-1") + CR
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
    """Text in the characters that a record may hold. It comes before the escapes: "｜" becomes "|", a delimiter.

    A letter loses its marks (ř becomes r), a character of another width becomes the usual one, a control character a
    space. Everything else is a question mark: a digit or a sign that looks alike would be another value (10⁴, ≠).
    """
    return "".join(_nearest(char) for char in unicodedata.normalize("NFC", text))


def _nearest(char: str) -> str:
    if char in _ALLOWED:
        return char
    if unicodedata.category(char) in ("Cc", "Zl", "Zp"):
        return " "
    found = unicodedata.decomposition(char)
    if found.startswith(_WIDTHS):
        usual = unicodedata.normalize("NFKC", char)
    else:
        usual = "" if found.startswith("<") else unicodedata.normalize("NFD", char)[0]
        usual = usual if usual.isalpha() else ""
    return usual if usual in _ALLOWED else "?"
