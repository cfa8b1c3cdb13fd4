"""Strict decoding of the JSON and base64 that clients send.

Ambiguous input is rejected: of two members with one name, parsers take the first, the last, or both.
"""

import json
import re
from binascii import Error, a2b_base64
from typing import Any

import orjson

from service.errors import MalformedBody

#: Larger texts are parsed in a thread, so that other requests do not wait.
INLINE_PARSE_BYTES = 64 * 1024
#: Members of one object. No document of this API has more.
MAX_OBJECT_MEMBERS = 64
#: Every member name in a text, and anything in a string that looks like one.
_MEMBER = re.compile(rb'"[ \t\r\n]*:')
#: Texts with more brackets than one in seven bytes, beyond the first 1024, are rejected. `[0,0,0],` has one in eight.
_BYTES_PER_BRACKET, _FREE_BRACKETS = 7, 1024
_DATA_URL = re.compile(rb"data:[^,]{0,200}?(;base64)?,", re.IGNORECASE)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=_-]")
_PERCENT = re.compile(rb"%(2B|2F|3D)", re.IGNORECASE)
_BLANKS = b" \t"


def read_json(text: bytes, *, max_members: int) -> Any:
    """The value of one JSON text (RFC 8259) in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        max_members: limit for all objects together

    Raises:
        MalformedBody: not JSON, more members than allowed, or a member name twice in one object.
    """
    text = as_utf8(text)
    if text.count(b"[") + text.count(b"{") > len(text) // _BYTES_PER_BRACKET + _FREE_BRACKETS:
        raise MalformedBody("the JSON cannot be read: it consists almost entirely of brackets")
    members = len(_MEMBER.findall(text))
    if members > max_members:
        raise MalformedBody(f"the JSON has {members} members; at most {max_members} are allowed")
    try:
        found = orjson.loads(text)
        if members and _count_members(found) != members:  # a duplicate name, or a string that looks like a member
            json.loads(text, object_pairs_hook=_object_without_duplicates)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the JSON cannot be read: {error}") from error
    return found


def as_utf8(text: bytes) -> bytes:
    """A JSON text in UTF-8, without a byte order mark.

    Raises:
        MalformedBody: invalid in the encoding that its first bytes show.
    """
    encoding = json.detect_encoding(text)
    if encoding == "utf-8":
        return text
    try:
        return text.decode(encoding).encode("utf-8")
    except UnicodeError as error:
        raise MalformedBody(f"the JSON cannot be read: it starts like {encoding}, but is invalid in it") from error


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedBody("the JSON has a member name twice in one object")
    _check_size(found)
    return found


def _count_members(value: Any) -> int:
    """Members of all objects. Long arrays that do not begin with an object are skipped: they are rows of numbers."""
    members, remaining = 0, [value]
    while remaining:
        found = remaining.pop()
        if isinstance(found, dict):
            _check_size(found)
            members += len(found)
            remaining.extend(each for each in found.values() if isinstance(each, dict | list))
        elif found and (isinstance(found[0], dict) or len(found) <= MAX_OBJECT_MEMBERS):
            remaining.extend(each for each in found if isinstance(each, dict | list))
    return members


def _check_size(found: dict[str, Any]) -> None:
    if len(found) > MAX_OBJECT_MEMBERS:
        raise MalformedBody(f"the JSON has an object of {len(found)} members; {MAX_OBJECT_MEMBERS} are allowed")


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 text (RFC 4648, section 4).

    Accepts line breaks with spaces around them (MIME), a `data:` prefix, and the URL-safe alphabet (section 5), padded
    or not. Rejects a space within a line: it may have replaced a plus sign.

    Raises:
        MalformedBody: not base64; the message says why.
    """
    try:
        encoded = _without_line_breaks(text.encode("ascii"))
    except UnicodeEncodeError as error:
        raise MalformedBody(f"not base64: character {error.start + 1} is not ASCII") from None
    if encoded[:5].lower() == b"data:":
        prefix = _DATA_URL.match(encoded)
        if prefix is None or not prefix[1]:
            raise MalformedBody("not base64: a data: URL without ;base64")
        encoded = encoded[prefix.end() :]
    if encoded.startswith((b"b'", b'b"')):
        raise MalformedBody("not base64: a Python bytes literal (b'…'); send the result of .decode('ascii')")
    return _decode(encoded)


def _without_line_breaks(encoded: bytes) -> bytes:
    lines = [line.strip(_BLANKS) for line in encoded.splitlines()] if b"\n" in encoded or b"\r" in encoded else None
    whole = b"".join(lines) if lines is not None else encoded.strip(_BLANKS)
    if b" " in whole or b"\t" in whole:
        raise MalformedBody("not base64: a space within a line; perhaps a + was decoded as a space")
    return whole


def _decode(encoded: bytes) -> bytes:
    if b"-" in encoded or b"_" in encoded:
        if b"+" in encoded or b"/" in encoded:
            raise MalformedBody("not base64: it mixes the standard alphabet (+ /) with the URL-safe one (- _)")
        encoded = encoded.translate(bytes.maketrans(b"-_", b"+/"))
        if b"=" not in encoded:
            encoded += b"=" * (-len(encoded) % 4)
    try:
        return a2b_base64(encoded, strict_mode=True)
    except Error:
        raise MalformedBody(f"not base64: {_base64_error(encoded)}") from None


def _base64_error(encoded: bytes) -> str:
    """Why a text is not base64, as a clause."""
    if _PERCENT.search(encoded):
        return "it is percent-encoded (%2B, %2F, %3D), as in a URL; decode that first"
    if wrong := _NOT_BASE64.search(encoded):
        return f"character {wrong.start() + 1} is not in its alphabet (RFC 4648, section 4)"
    padding = encoded.find(b"=")
    if 0 <= padding < len(encoded.rstrip(b"=")):
        return "padding in the middle; were several texts joined?"
    return "its length is not a multiple of four; it was cut off, or its padding is missing"
