"""Values of HL7 v2 as text: character sets, escapes, fields, dates and times. Pure: no I/O, no clock."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import NewType

#: MSH-18 (HL7 table 0211) to Python codec. All are supersets of ASCII: MSH can be read before its own MSH-18 is known.
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


#: Names that systems use for these sets, without punctuation, in capitals.
_ALIASES = {
    **{f"{prefix}8859{part}": f"8859/{part}" for prefix in ("", "ISO", "ISOIR") for part in (*range(1, 10), 15)},
    **dict.fromkeys(("UTF8", "UNICODE", "UNICODEUTF8", "ISOIR192"), "UNICODE UTF-8"),
    **dict.fromkeys(("ASCII", "USASCII", "ANSI"), "ASCII"),
    "LATIN1": "8859/1",
}
_WINDOWS = dict.fromkeys(("WINDOWS1252", "CP1252", "1252", "ANSI"), "cp1252")


def codec_of(charset: str) -> str | None:
    """The Python codec of MSH-18, also under its usual other names; None for an unsupported set."""
    if charset in CODECS:
        return CODECS[charset]
    name = re.sub("[^A-Z0-9]", "", charset.upper())
    return _WINDOWS.get(name) or (CODECS[_ALIASES[name]] if name in _ALIASES else None)


def encode(message: str, charset: str) -> bytes:
    """A message as bytes in one of `CODECS`, or of their aliases. Characters that the set lacks become "?".

    Hexadecimal escapes hold only bytes of the same set; escapes that switch the set (\\C..\\, \\M..\\) are understood
    by hardly any receiver; a similar letter would be another name.
    """
    codec = codec_of(charset) or "utf-8"
    # The small sets have accented letters only in their composed form.
    text = message if codec == "utf-8" else unicodedata.normalize("NFC", message)
    return text.encode(codec, errors="replace")


#: All line breaks are written as \.br\ and read back as "\n".
BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_ESCAPED = str.maketrans(
    {chr(code): f"\\X{code:02X}\\" for code in _CONTROLS}
    | {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\", "\n": "\\.br\\"}
)


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The delimiters of a message, from MSH-1 and MSH-2. The defaults are those that this service writes."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    def letters(self) -> Mapping[str, str]:
        """Escape sequences and their characters (HL7 v2.5.1, 2.7). Highlighting is dropped."""
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


def normalize_line_breaks(text: str) -> str:
    """The text with every line break as "\\n", as `unescape` returns it."""
    return BREAKS.sub("\n", text)


def escape(text: str) -> str:
    """The text for a field, with delimiters and control characters escaped."""
    return normalize_line_breaks(text).translate(_ESCAPED)


def unescape(text: str, delimiters: Delimiters = STANDARD, codec: str = "utf-8") -> str:
    """The text of a field. Unknown or unterminated escape sequences stay as they are.

    Args:
        codec: Python codec of the message's character set, for hexadecimal escapes.
    """
    if delimiters.escape not in text:
        return text
    mark, letters = re.escape(delimiters.escape), delimiters.letters()

    def replacement(found: re.Match[str]) -> str:
        sequence = found[1]
        if sequence in letters:
            return letters[sequence]
        return _hexadecimal(sequence[1:], codec) if re.fullmatch("X([0-9A-Fa-f]{2})+", sequence) else found[0]

    return re.sub(f"{mark}(.*?){mark}", replacement, text)


def _hexadecimal(digits: str, codec: str) -> str:
    """Bytes in the message's character set; invalid bytes are read as Latin-1, as python-hl7 does."""
    data = bytes.fromhex(digits)
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return data.decode("latin-1")


#: Escaped text. mypy refuses unescaped text in a segment.
Encoded = NewType("Encoded", str)

EMPTY = Encoded("")


def text(value: str | int | float | None) -> Encoded:
    """One value as a field; empty for None."""
    return EMPTY if value is None else Encoded(escape(str(value)))


def components(*values: str | None) -> Encoded:
    """Values as components of a field, without empty ones at the end."""
    return Encoded("^".join(text(value) for value in values).rstrip("^"))


def repetitions(values: Iterable[Encoded]) -> Encoded:
    """Values as repetitions of a field."""
    return Encoded("~".join(values))


def segment(name: str, fields: Mapping[int, Encoded]) -> str:
    """A segment from its fields by number, without empty ones at the end. MSH begins with MSH-3."""
    last = max((number for number, value in fields.items() if value), default=0)
    first, head = (3, r"MSH|^~\&") if name == "MSH" else (1, name)
    return "|".join([head, *(fields.get(number, EMPTY) for number in range(first, last + 1))])


def message(segments: Iterable[str]) -> str:
    """Segments as a message, each ended by a carriage return."""
    return "".join(f"{each}\r" for each in segments)


_PARTS = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,4}))?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)
#: Defaults of missing parts, from the year to the second.
_LEAST = (0, 1, 1, 0, 0, 0)


def format_timestamp(moment: datetime) -> str:
    """A timestamp (TS) in UTC: YYYYMMDDHHMMSS+0000."""
    return re.sub("[-:T]", "", moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")) + "+0000"


def format_date(day: date) -> str:
    """A date (DT): YYYYMMDD."""
    return day.isoformat().replace("-", "")


def parse_timestamp(value: str, zone: tzinfo | None) -> datetime:
    """A timestamp with at least a day, in its time zone. Missing parts are zero.

    Args:
        zone: for a timestamp without one; None is this machine's.

    Raises:
        ValueError: an invalid timestamp, or one without a day. The text never quotes the value.
    """
    found = _PARTS.fullmatch(value)
    if not found or not found[3]:
        raise ValueError("not an HL7 timestamp with at least a day")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction = int((found[7] or "").ljust(6, "0"))
    try:
        offset = _offset(found[8]) if found[8] else None
        moment = datetime(year, month, day, hour, minute, second, fraction, offset or zone)
        return moment if moment.tzinfo else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("invalid date or time") from None


def is_date(value: str) -> bool:
    """Whether a timestamp has a day and no time."""
    found = _PARTS.fullmatch(value)
    return bool(found and found[3] and not found[4])


def parse_zone(value: str) -> tzinfo | None:
    """The time zone of a timestamp; None if it has none, or is no timestamp.

    Raises:
        ValueError: an invalid time zone. The text never quotes the value.
    """
    found = _PARTS.fullmatch(value)
    return _offset(found[8]) if found and found[8] else None


def _offset(text: str) -> timezone:
    """+HHMM or -HHMM; ValueError beyond a day."""
    hours, minutes = int(text[1:3]), int(text[3:])
    if hours > 23 or minutes > 59:
        raise ValueError("invalid time zone")
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if text[0] == "-" else ahead)


def parse_date(value: str) -> date | None:
    """A date; None if day or month are missing or zero, which many systems write for unknown.

    Raises:
        ValueError: an invalid date. The text never quotes the value.
    """
    found = _PARTS.fullmatch(value)
    if not found:
        raise ValueError("not an HL7 date")
    if "00" in (found[2], found[3]):
        return None
    try:
        parts = zip(found.groups()[:6], _LEAST, strict=True)
        year, month, day, hour, minute, second = (int(part or least) for part, least in parts)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_offset(found[8]) if found[8] else None)
    except ValueError:
        raise ValueError("invalid date") from None
    return moment.date() if found[3] else None
