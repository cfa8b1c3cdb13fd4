"""Incoming HL7 v2 messages: header, segments, fields. Pure, no I/O.

Fields are split with the delimiters of the message's own MSH-1 and MSH-2, and unescaped. Errors never quote the
message: it is free text from outside, and can name a patient.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from service.lis.exchange.hl7.encoding import STANDARD, Delimiters, codec_of, escape, unescape
from service.lis.exchange.orders import OrderRefused

#: Delimiters in the segments that are read. An order has hundreds.
MAX_DELIMITERS = 10_000
#: The value that deletes what is stored.
NULL = '""'
#: A fifth encoding character, for truncation, came with 2.7.
_MSH = re.compile(r"MSH([^\w\s])([^\w\s]{4})[^\w\s]?(?=\1)", re.ASCII)


class MessageRejected(OrderRefused):
    """The whole message is refused: answered with AR or CR. Sending it again is useless."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment. Fields, components and subcomponents count from 1, as in HL7; absent ones are empty."""

    name: str
    number: int
    fields: list[str] = field(repr=False)
    delimiters: Delimiters
    codec: str

    def get(self, field: int, component: int = 1, subcomponent: int = 1, repetition: int = 1) -> str:
        """One value, unescaped and stripped. HL7's null ("") is empty too."""
        value = _nth(self.fields, field + 1)
        for delimiter, number in (
            (self.delimiters.repetition, repetition),
            (self.delimiters.component, component),
            (self.delimiters.subcomponent, subcomponent),
        ):
            value = _nth(value.split(delimiter), number)
        value = unescape(value, self.delimiters, self.codec).strip()
        return "" if value == NULL else value

    def is_deleted(
        self, field: int, component: int | None = None, subcomponent: int | None = None, *, repetition: int = 1
    ) -> bool:
        """Whether a field, or this part of it, is HL7's null: the value is to be deleted. Empty is unchanged."""
        value = _nth(_nth(self.fields, field + 1).split(self.delimiters.repetition), repetition)
        part = value if component is None else _nth(value.split(self.delimiters.component), component)
        smaller = "" if subcomponent is None else _nth(part.split(self.delimiters.subcomponent), subcomponent)
        return NULL in (value, part, smaller)

    def deleted_parts(self, field: int) -> Iterator[tuple[int, ...]]:
        """The components that are HL7's null, as (2,), and subcomponents, as (2, 1); nothing if the whole field is."""
        value = _nth(self.fields, field + 1)
        for number, component in enumerate(value.split(self.delimiters.component) if value != NULL else (), 1):
            if component == NULL:
                yield (number,)
                continue
            for at, subcomponent in enumerate(component.split(self.delimiters.subcomponent), 1):
                if subcomponent == NULL:
                    yield number, at

    def verbatim(self, field: int) -> str:
        """A whole field with the standard delimiters, without empty parts at the end."""

        def written(value: str, delimiters: tuple[tuple[str, str], ...]) -> str:
            if not delimiters:
                return "" if value == NULL else escape(unescape(value, self.delimiters, self.codec))
            (own, standard), *inner = delimiters
            return standard.join(written(part, tuple(inner)) for part in value.split(own)).rstrip(standard)

        own, standard = self.delimiters, STANDARD
        levels = (
            (own.repetition, standard.repetition),
            (own.component, standard.component),
            (own.subcomponent, standard.subcomponent),
        )
        return written(_nth(self.fields, field + 1), levels)

    def repetitions(self, field: int) -> range:
        """The numbers of a field's repetitions: 1, 2, …"""
        if field >= len(self.fields):
            return range(0)
        return range(1, self.fields[field].count(self.delimiters.repetition) + 2)

    def components(self, field: int) -> tuple[str, ...]:
        """The first three components of a field: a whole HD name."""
        return tuple(self.get(field, component) for component in (1, 2, 3))

    def location(self, *position: int) -> str:
        """The position in the message as an ERL (ERR-2)."""
        return "^".join([self.name, str(self.number), *map(str, position)])


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of MSH that an answer needs."""

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
    """MSH alone, even if the rest of the message is invalid. Bytes that are not of its character set become "?".

    Raises:
        MessageRejected: the message does not begin with a valid MSH.
    """
    line = re.split(rb"[\r\n]", without_preamble(raw), maxsplit=1)[0]
    latin = line.decode("latin-1")
    charset = _segments(latin, {"MSH"}, "latin-1")[0].get(18)
    codec = codec_of(charset) or "latin-1"
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
    """The segments with the wanted names, in message order, MSH first.

    Args:
        charset: MSH-18, or the configured character set if that is empty.

    Raises:
        MessageRejected: an unknown character set, bytes not of that set, no MSH or several, or too many delimiters.
    """
    codec = codec_of(charset)
    if codec is None:
        raise MessageRejected("103", "unsupported character set", "MSH^1^18")
    try:
        message = without_preamble(raw).decode(codec)
    except UnicodeDecodeError:
        raise MessageRejected("102", "bytes that are not of the message's character set", "MSH^1^18") from None
    return _segments(message, {"MSH", *wanted}, codec)


def without_preamble(raw: bytes) -> bytes:
    """The message without a byte order mark and line ends before its first segment."""
    return raw.lstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")


def messages_of(raw: bytes) -> list[bytes]:
    """The messages of a batch or file (FHS, BHS, BTS, FTS); of anything else, itself."""
    content = without_preamble(raw)
    if not content.startswith((b"FHS", b"BHS")):
        return [raw]
    found: list[list[bytes]] = []
    for line in (each.lstrip(b" \t") for each in re.split(_ends(content.decode("latin-1")).encode(), content)):
        if line.startswith(b"MSH"):
            found.append([])
        if found and line and line[:3] not in (b"FHS", b"BHS", b"BTS", b"FTS"):
            found[-1].append(line)
    return [b"\r".join([*lines, b""]) for lines in found] or [raw]


def _segments(message: str, wanted: Collection[str], codec: str) -> list[Segment]:
    found = _MSH.match(message)
    if not found or len(set(found[1] + found[2])) < 5:
        raise MessageRejected("100", "the message does not begin with MSH and its delimiters", "MSH^1")
    delimiters = Delimiters(found[1], *found[2])
    split = (line.lstrip(" \t") for line in re.split(_ends(message), message))
    lines = [line for line in split if line.partition(found[1])[0] in wanted]
    if cut := next((line for line in lines if "\n" in line), None):
        raise MessageRejected("102", "a line feed within a segment that ends with a carriage return", f"{cut[:3]}^1")
    if sum(line.startswith("MSH") for line in lines) > 1:
        raise MessageRejected("100", "more than one MSH in a message", "MSH^2")
    if sum(line.count(each) for line in lines for each in found[1] + found[2]) > MAX_DELIMITERS:
        raise MessageRejected("207", f"more than {MAX_DELIMITERS} delimiters in the segments that are read")
    return _numbered(lines, delimiters, codec)


def _ends(message: str) -> str:
    """A pattern of the ends of segments, with blank lines after them.

    Many systems end segments with a line feed, unlike the standard. Where they end with a carriage return, any other
    line feed belongs to a field, and is refused there: cutting the field off would change its meaning.
    """
    return "(?:\r\n*)+" if "\r" in message else "\n+"


def _numbered(lines: list[str], delimiters: Delimiters, codec: str) -> list[Segment]:
    counts: dict[str, int] = {}
    segments = []
    for line in lines:
        name, *fields = line.split(delimiters.field)
        counts[name] = counts.get(name, 0) + 1
        separator = [delimiters.field] if name == "MSH" else []  # MSH-1 is the field separator itself
        segments.append(Segment(name, counts[name], [name, *separator, *fields], delimiters, codec))
    return segments


def _nth(values: list[str], number: int) -> str:
    """The value of a number that counts from 1; empty if there is none."""
    return values[number - 1] if number <= len(values) else ""
