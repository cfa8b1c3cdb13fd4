"""JSON as clients send it, to plain values: bounded before it is parsed, and each member name once in its object.

Knows text and RFC 8259. Does not know what a document means. What would have more than one reading is refused: of two
members with one name, parsers take the first, the last, or both.
"""

import json
import re
from typing import Any

import orjson

from service.errors import MalformedBody

#: Work on a longer text is done in a thread, where it keeps no other request waiting.
PARSED_AT_ONCE_BYTES = 64 * 1024
#: Members of one object: no document here has as many.
MAX_OBJECT_MEMBERS = 64
#: Every member name in a text, and whatever within a string looks like one.
_MEMBER = re.compile(rb'"[ \t\r\n]*:')
#: A text in which more than every seventh byte opens a bracket, these apart, holds hardly anything else: [0,0,0], are
#: eight bytes.
_BYTES_PER_BRACKET, _FREE_BRACKETS = 7, 1024


def read_json(text: bytes, *, max_members: int) -> Any:
    """The value of one JSON text, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        max_members: of all objects together

    Raises:
        MalformedBody: not JSON, more members than allowed, or a member name twice in one object.
    """
    text = as_utf8(text)
    if text.count(b"[") + text.count(b"{") > len(text) // _BYTES_PER_BRACKET + _FREE_BRACKETS:
        raise MalformedBody("the JSON cannot be read: it holds hardly anything but brackets")
    members = len(_MEMBER.findall(text))
    if members > max_members:
        raise MalformedBody(f"the JSON has {members} members; at most {max_members} are read")
    try:
        found = orjson.loads(text)
        if members and _counted(found) != members:  # a name came twice, or a string holds what looks like a name
            json.loads(text, object_pairs_hook=_object)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the JSON cannot be read: {error}") from error
    return found


def as_utf8(text: bytes) -> bytes:
    """A JSON text in UTF-8, without a byte order mark.

    Raises:
        MalformedBody: in none of Unicode's encodings.
    """
    encoding = json.detect_encoding(text)
    if encoding == "utf-8":
        return text
    try:
        return text.decode(encoding).encode("utf-8")
    except UnicodeError as error:
        raise MalformedBody(f"the JSON cannot be read: it begins like {encoding} and is not") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedBody("the JSON has a member name twice in one object")
    _check_size(found)
    return found


def _counted(value: Any) -> int:
    """Members of all objects, but for those within long arrays that do not begin with one: rows of numbers."""
    members, waiting = 0, [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            _check_size(found)
            members += len(found)
            waiting.extend(each for each in found.values() if isinstance(each, dict | list))
        elif found and (isinstance(found[0], dict) or len(found) <= MAX_OBJECT_MEMBERS):
            waiting.extend(each for each in found if isinstance(each, dict | list))
    return members


def _check_size(found: dict[str, Any]) -> None:
    if len(found) > MAX_OBJECT_MEMBERS:
        raise MalformedBody(f"the JSON has an object of {len(found)} members; {MAX_OBJECT_MEMBERS} are read")
