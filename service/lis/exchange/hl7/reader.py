"""Messages that come in, taken apart: header, segments, fields. Pure, no I/O.

Knows delimiters, character sets and what makes a message unreadable. Does not know what is asked for in it. Everything
read is free text of a stranger: it is never part of an error's text. python-hl7 splits; it is asked for nothing else,
since its own errors and its log quote what they read.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import hl7

from service.lis.exchange.hl7.encoding import CODECS, Delimiters, unescape
from service.lis.exchange.orders import OrderRefused

#: Delimiters in the segments that are read; an order has hundreds. python-hl7 makes an object of 400 bytes of each.
MAX_PARTS = 10_000
_MSH = re.compile(r"MSH([^\w\s])([^\w\s]{4})(?=\1)", re.ASCII)


class MessageRejected(OrderRefused):
    """Nothing of this kind is taken, whatever it says: answered with AR or CR, and sending it again is useless."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment. Fields, components and subcomponents count from 1, as HL7 does; what is not there is empty."""

    name: str
    number: int
    fields: Any = field(repr=False)
    delimiters: Delimiters
    codec: str

    def get(self, field: int, component: int = 1, subcomponent: int = 1, repetition: int = 1) -> str:
        """One value, unescaped, without spaces around it. HL7's null ("") is empty too."""
        node = self.fields
        for index in (field, repetition - 1, component - 1, subcomponent - 1):
            if isinstance(node, str):  # python-hl7 nests only as deep as there are delimiters
                node = node if index == 0 else ""
            else:
                node = node[index] if index < len(node) else ""
        value = unescape(str(node), self.delimiters, self.codec).strip()
        return "" if value == '""' else value

    def repetitions(self, field: int) -> range:
        """The numbers of a field's repetitions."""
        return range(1, len(self.fields[field]) + 1) if field < len(self.fields) else range(0)

    def components(self, field: int) -> tuple[str, ...]:
        """The first components of a field, as many as a universal name may have."""
        return tuple(self.get(field, component) for component in (1, 2, 3))

    def location(self, *position: int) -> str:
        """An ERL (ERR-2): where in the message."""
        return "^".join([self.name, str(self.number), *map(str, position)])


@dataclass(frozen=True, slots=True)
class Header:
    """What MSH says, as far as an answer needs it."""

    application: tuple[str, ...] = ()
    facility: tuple[str, ...] = ()
    to_application: tuple[str, ...] = ()
    to_facility: tuple[str, ...] = ()
    sent_at: str = ""
    code: str = ""
    event: str = ""
    control_id: str = ""
    processing_id: str = ""
    version: str = ""
    accept_ack: str = ""
    application_ack: str = ""
    charset: str = ""


def read_header(raw: bytes) -> Header:
    """MSH alone, whatever else is wrong with the message. Characters that its set does not have are "?".

    Raises:
        MessageRejected: there is none.
    """
    line = re.split(rb"[\r\n]", raw, maxsplit=1)[0]
    latin = line.decode("latin-1")
    charset = _segments(latin, {"MSH"}, "latin-1")[0].get(18)
    codec = CODECS.get(charset, "latin-1")
    msh = _segments(line.decode(codec, "replace").replace("\ufffd", "?"), {"MSH"}, codec)[0]
    return Header(
        application=msh.components(3),
        facility=msh.components(4),
        to_application=msh.components(5),
        to_facility=msh.components(6),
        sent_at=msh.get(7),
        code=msh.get(9, 1),
        event=msh.get(9, 2),
        control_id=msh.get(10),
        processing_id=msh.get(11),
        version=msh.get(12),
        accept_ack=msh.get(15),
        application_ack=msh.get(16),
        charset=charset,
    )


def read_segments(raw: bytes, charset: str, wanted: Collection[str]) -> list[Segment]:
    """The segments of a message whose names are wanted, in their order, MSH first.

    Args:
        charset: MSH-18, or what the laboratory has agreed on when that is empty.

    Raises:
        MessageRejected: another character set, bytes that are none of its characters, no MSH or a second one, or more
            delimiters than an order can have.
    """
    if charset not in CODECS:
        raise MessageRejected("103", "a character set that is not read here", "MSH^1^18")
    try:
        message = raw.decode(CODECS[charset])
    except UnicodeDecodeError:
        raise MessageRejected("102", "bytes that are not of the message's character set", "MSH^1^18") from None
    return _segments(message, {"MSH", *wanted}, CODECS[charset])


def _segments(message: str, wanted: Collection[str], codec: str) -> list[Segment]:
    found = _MSH.match(message)
    if not found or len(set(found[1] + found[2])) < 5:
        raise MessageRejected("100", "no MSH with its delimiters at the beginning", "MSH^1")
    delimiters = Delimiters(found[1], *found[2])
    # A line feed ends a segment for many systems, though not in HL7.
    lines = [line for line in re.split("[\r\n]+", message) if line.partition(found[1])[0] in wanted]
    if sum(line.startswith("MSH") for line in lines) > 1:
        raise MessageRejected("100", "more than one MSH: two messages in one", "MSH^2")
    if sum(line.count(each) for line in lines for each in found[1] + found[2]) > MAX_PARTS:
        raise MessageRejected("207", f"more than {MAX_PARTS} delimiters in what is read of a message")
    return _numbered(lines, delimiters, codec)


def _numbered(lines: list[str], delimiters: Delimiters, codec: str) -> list[Segment]:
    counts: dict[str, int] = {}
    segments = []
    for line, fields in zip(lines, hl7.parse("\r".join(lines)), strict=True):
        counts[line[:3]] = counts.get(line[:3], 0) + 1
        segments.append(Segment(line[:3], counts[line[:3]], fields, delimiters, codec))
    return segments
