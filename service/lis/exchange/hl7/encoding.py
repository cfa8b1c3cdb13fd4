"""Values of HL7 v2 as text: character sets, escapes, fields, dates and times. Pure: no I/O, no clock."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import NewType

#: MSH-18 to Python's codec. Each has ASCII where ASCII has it, so a header can be read before its own MSH-18 is known.
CODECS = {
    "": "ascii",
    "ASCII": "ascii",
    "8859/1": "iso8859-1",
    "8859/2": "iso8859-2",
    "8859/3": "iso8859-3",
    "8859/4": "iso8859-4",
    "8859/5": "iso8859-5",
    "8859/6": "iso8859-6",
    "8859/7": "iso8859-7",
    "8859/8": "iso8859-8",
    "8859/9": "iso8859-9",
    "8859/15": "iso8859-15",
    "UNICODE UTF-8": "utf-8",
}


def encode(message: str, charset: str) -> bytes:
    """A message as bytes of a set of `CODECS`. Never fails.

    A character that the set does not have becomes "?". A hexadecimal escape could not say it, for that holds bytes of
    the same set; a switch to another set (\\C..\\, \\M..\\) is understood by hardly any receiver; and a letter that
    looks alike would be another name. "?" is seen to be wrong.
    """
    codec = CODECS[charset]
    # One accented letter and a letter with its accent are the same text; the small sets have only the first.
    text = message if codec == "utf-8" else unicodedata.normalize("NFC", message)
    return text.encode(codec, errors="replace")


#: What breaks a line somewhere: it is written \.br\, and is "\n" when it is read back.
BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_ESCAPED = str.maketrans(
    {chr(code): f"\\X{code:02X}\\" for code in _CONTROLS}
    | {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\", "\n": "\\.br\\"}
)


@dataclass(frozen=True, slots=True)
class Delimiters:
    """What a message chose for itself in MSH-1 and MSH-2; ours are always these."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    def letters(self) -> Mapping[str, str]:
        """The escape sequences that stand for one character. Highlighting is dropped."""
        return {
            "F": self.field,
            "S": self.component,
            "R": self.repetition,
            "E": self.escape,
            "T": self.subcomponent,
            ".br": "\n",
            ".sp": "\n",
            "H": "",
            "N": "",
        }


STANDARD = Delimiters()


def one_kind_of_break(text: str) -> str:
    """The text as it comes back from `unescape`: every line break is "\\n"."""
    return BREAKS.sub("\n", text)


def escape(text: str) -> str:
    """The text as it stands in a field: no delimiter and no control character is left in it."""
    return one_kind_of_break(text).translate(_ESCAPED)


def unescape(text: str, delimiters: Delimiters = STANDARD, codec: str = "utf-8") -> str:
    """What a field says. A sequence that is none of HL7's, or has no end, is left as it came.

    Args:
        codec: Python's name of the message's character set, for hexadecimal escapes.
    """
    if delimiters.escape not in text:
        return text
    mark, letters = re.escape(delimiters.escape), delimiters.letters()

    def meant(found: re.Match[str]) -> str:
        sequence = found[1]
        if sequence in letters:
            return letters[sequence]
        return _hexadecimal(sequence[1:], codec) if re.fullmatch("X([0-9A-Fa-f]{2})+", sequence) else found[0]

    return re.sub(f"{mark}(.*?){mark}", meant, text)


def _hexadecimal(digits: str, codec: str) -> str:
    """Bytes of the message's character set; those that are none there are codes of characters, as python-hl7 has it."""
    data = bytes.fromhex(digits)
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return data.decode("latin-1")


Encoded = NewType("Encoded", str)

EMPTY = Encoded("")


def text(value: str | int | float | None) -> Encoded:
    """One value as a whole field; nothing when there is none."""
    return EMPTY if value is None else Encoded(escape(str(value)))


def components(*values: str | None) -> Encoded:
    """Values as the components of a field; absent ones at the end are left away."""
    return Encoded("^".join(text(value) for value in values).rstrip("^"))


def repetitions(values: Iterable[Encoded]) -> Encoded:
    """Fields as the repetitions of one."""
    return Encoded("~".join(values))


def segment(name: str, fields: Mapping[int, Encoded]) -> str:
    """A segment from its fields by their number, those that are empty at its end left away. MSH counts from MSH-3."""
    last = max((number for number, value in fields.items() if value), default=0)
    first, head = (3, r"MSH|^~\&") if name == "MSH" else (1, name)
    return "|".join([head, *(fields.get(number, EMPTY) for number in range(first, last + 1))])


def message(segments: Iterable[str]) -> str:
    """Segments as a message: each ends with a carriage return and nothing else."""
    return "".join(f"{each}\r" for each in segments)


_PARTS = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,4}))?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)
#: What a part that is not said stands for, from the year to the second.
_LEAST = (0, 1, 1, 0, 0, 0)


def written(moment: datetime) -> str:
    """To the second, in UTC, and saying so."""
    return re.sub("[-:T]", "", moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")) + "+0000"


def day_written(day: date) -> str:
    """YYYYMMDD."""
    return day.isoformat().replace("-", "")


def read_moment(value: str, zone: tzinfo | None) -> datetime:
    """A time of at least a day's precision, in its zone; what is not said is zero.

    Args:
        zone: where a time without a zone was written; None is this machine's.

    Raises:
        ValueError: no such time, or less than a day's precision. Its text is never the value.
    """
    found = _PARTS.fullmatch(value)
    if not found or not found[3]:
        raise ValueError("no time of HL7 with at least its day")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction = int((found[7] or "").ljust(6, "0"))
    try:
        offset = _offset(found[8]) if found[8] else None
        moment = datetime(year, month, day, hour, minute, second, fraction, offset or zone)
        return moment if moment.tzinfo else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("no such day or time") from None


def read_zone(value: str) -> tzinfo | None:
    """The zone that a time says it was written in; None when it says none, or is no time.

    Raises:
        ValueError: there is no such zone. Its text is never the value.
    """
    found = _PARTS.fullmatch(value)
    return _offset(found[8]) if found and found[8] else None


def _offset(text: str) -> timezone:
    """+HHMM or -HHMM; ValueError beyond a day."""
    hours, minutes = int(text[1:3]), int(text[3:])
    if hours > 23 or minutes > 59:
        raise ValueError("no such zone")
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if text[0] == "-" else ahead)


def read_day(value: str) -> date | None:
    """A day; None when only a year or a month is known.

    Raises:
        ValueError: no such day. Its text is never the value.
    """
    found = _PARTS.fullmatch(value)
    if not found:
        raise ValueError("no date of HL7")
    try:
        parts = zip(found.groups()[:6], _LEAST, strict=True)
        year, month, day, hour, minute, second = (int(part or least) for part, least in parts)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_offset(found[8]) if found[8] else None)
    except ValueError:
        raise ValueError("no such day") from None
    return moment.date() if found[3] else None
