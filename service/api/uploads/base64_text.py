"""Base64 as clients write it, to bytes: what can mean one thing alone is read, everything else is refused by its cause.

Knows RFC 4648, and what libraries, mail and browsers make of it. Does not know what the bytes are.
"""

import re
from binascii import Error, a2b_base64

from service.errors import MalformedBody

_DATA_URL = re.compile(rb"data:[^,]{0,200}?(;base64)?,", re.IGNORECASE)
_FOREIGN = re.compile(rb"[^A-Za-z0-9+/=_-]")
_PERCENT = re.compile(rb"%(2B|2F|3D)", re.IGNORECASE)
_BLANKS = b" \t"


def decode_base64(text: str) -> bytes:
    """The bytes of a text in base64 (RFC 4648, section 4).

    Line breaks with the blanks around them (MIME), a `data:` prefix, and the URL-safe alphabet (section 5), padded or
    not, are read too. A blank within a line is not: it may stand where a plus sign was.

    Raises:
        MalformedBody: not base64; the sentence ends with why.
    """
    try:
        written = _without_line_breaks(text.encode("ascii"))
    except UnicodeEncodeError as error:
        raise MalformedBody(f"not base64: character {error.start + 1} is not ASCII") from None
    if written[:5].lower() == b"data:":
        prefix = _DATA_URL.match(written)
        if prefix is None or not prefix[1]:
            raise MalformedBody("not base64: a data: URL without ;base64")
        written = written[prefix.end() :]
    if written.startswith((b"b'", b'b"')):
        raise MalformedBody("not base64: Python's notation for bytes (b'…'); send what .decode('ascii') gives")
    return _decoded(written)


def _without_line_breaks(written: bytes) -> bytes:
    lines = [line.strip(_BLANKS) for line in written.splitlines()] if b"\n" in written or b"\r" in written else None
    whole = b"".join(lines) if lines is not None else written.strip(_BLANKS)
    if b" " in whole or b"\t" in whole:
        raise MalformedBody("not base64: a blank within a line; was a + lost on the way?")
    return whole


def _decoded(written: bytes) -> bytes:
    if b"-" in written or b"_" in written:
        if b"+" in written or b"/" in written:
            raise MalformedBody("not base64: characters of the standard alphabet (+ /) and the URL-safe one (- _)")
        written = written.translate(bytes.maketrans(b"-_", b"+/"))
        if b"=" not in written:
            written += b"=" * (-len(written) % 4)
    try:
        return a2b_base64(written, strict_mode=True)
    except Error:
        raise MalformedBody(f"not base64: {_fault(written)}") from None


def _fault(written: bytes) -> str:
    if _PERCENT.search(written):
        return "it is percent-encoded (%2B, %2F, %3D), as in a URL; decode that first"
    if foreign := _FOREIGN.search(written):
        return f"character {foreign.start() + 1} is not of its alphabet (RFC 4648, section 4)"
    padding = written.find(b"=")
    if 0 <= padding < len(written.rstrip(b"=")):
        return "padding in the middle; was more than one text joined?"
    return "its length is no multiple of four; it was cut off, or its padding is missing"
